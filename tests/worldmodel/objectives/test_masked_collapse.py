"""JEPA without a moving average and without a regulariser collapses; with each remedy it does not."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch

from tests.worldmodel.objectives.systems import features, settings, small, train, unit_spread
from worldmodel.training.monitors import effective_rank

#: The target is the encoder itself, and gradients reach it.
ONLINE = ("target_encoder=online", "target_gradient=true")


@lru_cache
def ranks_and_spread(*changes: str, seed: int = 0) -> tuple[float, float, float]:
    """Of held-out clips' mean tokens: effective rank before and after 40 steps, and their spread on the unit sphere."""
    config = settings("vjepa", *changes)
    objective = small(config, seed)
    # Not centred, as in RankMe (2210.02885): where all clips are nearly one point, the rank is nearly 1.
    both = [torch.cat([features(objective), -features(objective)])]
    train(objective, 40, config, lr=2e-3, size=16)
    both.append(torch.cat([features(objective), -features(objective)]))
    before, after = (effective_rank(rows) for rows in both)
    return before, after, unit_spread(features(objective))


def test_without_average_and_regulariser_the_rank_falls() -> None:
    before, after, spread = ranks_and_spread(*ONLINE)
    assert after < 0.7 * before
    assert spread < 0.15


@pytest.mark.parametrize(
    "remedy",
    [
        (),
        ("uniformity=0.1",),
        (*ONLINE, "batch_variance=1.0"),
        (*ONLINE, "batch_variance=1.0", "batch_covariance=2.0"),
        (*ONLINE, "uniformity=0.5"),
    ],
    ids=["ema", "ema and uniformity", "variance", "variance and covariance", "uniformity"],
)
def test_each_remedy_keeps_it(remedy: tuple[str, ...]) -> None:
    _, collapsed, _ = ranks_and_spread(*ONLINE)
    _, after, spread = ranks_and_spread(*remedy)
    assert after > 1.2 * collapsed
    assert spread > 0.25
