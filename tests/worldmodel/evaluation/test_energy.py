"""Energies of (context, target) pairs: against a plain computation, and on squares that move or jump."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.worldmodel.squares import small_objective, squares, train
from worldmodel.evaluation.energy import (
    ClipEnergy,
    forward_reversed,
    future_pairs,
    matched_elsewhere,
    matched_shuffled,
    possible_impossible,
)
from worldmodel.masks import Grid, MaskConfig
from worldmodel.objectives.masked import centre_targets
from worldmodel.objectives.masked_latent import MaskedLatentConfig, MaskedLatentPrediction

GRID = Grid(4, 4, 4)
HELD_OUT = 1_000_000  # training counts its squares from 0


def untrained() -> MaskedLatentPrediction:
    objective = small_objective(MaskedLatentConfig(), frames=8)
    assert isinstance(objective, MaskedLatentPrediction)
    return objective


def energy_of(objective: MaskedLatentPrediction, **settings: str) -> ClipEnergy:
    predictor, pairs = objective.predictor, future_pairs(GRID, [2])
    assert predictor is not None
    return ClipEnergy(objective.encoder, predictor, objective.target_encoder, pairs, **settings)  # type: ignore[arg-type]


def trained(steps: int, **kind: Any) -> MaskedLatentPrediction:
    """The second half of squares is predicted from the first."""
    objective = untrained()
    train(objective, {"future": MaskConfig(kind="future", ratio=0.5)}, steps, lr=2e-3, **kind)
    return objective


def clips(count: int, **kind: Any) -> Iterator[Tensor]:
    for start in range(HELD_OUT, HELD_OUT + count, 16):
        yield squares(range(start, start + 16), frames=8, **kind)


def check_found(result: dict[str, Any]) -> None:
    assert result["pairs"] == 96
    assert result["accuracy_interval"][0] > 0.5, result
    assert result["auc_interval"][0] > 0.5
    assert result["difference_interval"][0] > 0
    assert result["unlikely"] > result["likely"]
    assert result["p"] < 0.01


def test_pairs_see_the_first_steps_and_predict_the_following_ones() -> None:
    first, second = future_pairs(GRID, [1, 3], horizon=2)
    assert first.context.tolist() == list(range(16)) and first.target.tolist() == list(range(16, 48))
    assert second.context.tolist() == list(range(48)) and second.target.tolist() == list(range(48, 64))
    for bad, horizon in ((0, None), (4, None), (2, 0)):
        with pytest.raises(ValueError, match="nothing to see or to predict"):
            future_pairs(GRID, [bad], horizon)


@pytest.mark.parametrize("loss", ["l1", "l2"])
def test_an_energy_is_the_error_of_the_prediction(loss: str) -> None:
    objective, video = untrained(), squares(range(3), frames=8)
    assert objective.predictor is not None and objective.target_encoder is not None
    energies = energy_of(objective, loss=loss)(video)
    assert energies.shape == (3,)
    context, target = torch.arange(32)[None], torch.arange(32, 64)[None]
    with torch.no_grad():
        for row in range(3):
            one = video[row : row + 1]
            known = objective.encoder.encode(one, keep=context)
            predicted = objective.predictor(known, context, target)
            tokens = objective.target_encoder.encode(one)[0, 2:].flatten(0, 1)
            gap = predicted[0] - F.layer_norm(tokens, (48,))
            wanted = gap.abs().mean() if loss == "l1" else gap.square().mean()
            assert float(energies[row]) == pytest.approx(float(wanted), rel=1e-4)


def test_several_pairs_are_averaged_or_the_worst_counts() -> None:
    objective, video = untrained(), squares(range(4), frames=8)
    assert objective.predictor is not None
    parts = (objective.encoder, objective.predictor, objective.target_encoder)
    one, two = (ClipEnergy(*parts, future_pairs(GRID, [steps]))(video) for steps in (1, 3))
    both = future_pairs(GRID, [1, 3])
    torch.testing.assert_close(ClipEnergy(*parts, both)(video), (one + two) / 2)
    torch.testing.assert_close(ClipEnergy(*parts, both, reduce="max")(video), torch.maximum(one, two))


def test_what_changes_suddenly_is_a_surprise_and_so_is_the_future_of_another() -> None:
    energy = energy_of(trained(steps=80))
    check_found(possible_impossible(energy, zip(clips(96), clips(96, change=True), strict=True)))
    check_found(matched_shuffled(energy, clips(96)))
    others = [(batch, batch.roll(1, dims=0)) for batch in clips(96)]
    assert matched_elsewhere(energy, others) == matched_shuffled(energy, clips(96))


def test_time_has_a_direction_where_things_darken() -> None:
    energy = energy_of(trained(steps=60, fade=0.8))
    check_found(forward_reversed(energy, clips(96, fade=0.8)))


def test_a_picture_that_stands_still_is_a_tie() -> None:
    still = [batch[:, :1].expand(-1, 8, -1, -1, -1) for batch in clips(32)]
    result = forward_reversed(energy_of(untrained()), still)
    assert result["accuracy"] == 0.5 and result["auc"] == 0.5 and result["p"] == 1.0


def test_shuffling_needs_two_clips_and_a_comparison_some() -> None:
    energy = energy_of(untrained())
    with pytest.raises(ValueError, match="at least 2 clips"):
        matched_shuffled(energy, [squares([0], frames=8)])
    with pytest.raises(ValueError, match="no clips"):
        forward_reversed(energy, [])


def test_centred_targets_are_centred_on_other_clips() -> None:
    objective, video = untrained(), squares(range(12), frames=8)
    energy = energy_of(objective, target_norm="centred")
    with pytest.raises(ValueError, match="call centre_on"):
        energy(video)
    energy.centre_on([video[:6], video[6:]])
    assert objective.predictor is not None and objective.target_encoder is not None
    with torch.no_grad():
        # On the very same clips, it is what the objective trains with.
        targets = centre_targets(objective.target_encoder.encode(video).flatten(1, 2))[:, 32:]
        context, target = torch.arange(32).expand(12, -1), torch.arange(32, 64).expand(12, -1)
        predicted = objective.predictor(objective.encoder.encode(video, keep=context), context, target)
    torch.testing.assert_close(
        energy(video), (predicted - targets).abs().mean(dim=(1, 2)), atol=1e-4, rtol=1e-4
    )


def test_bad_settings_are_refused() -> None:
    objective = untrained()
    for bad in ({"target_norm": "batch"}, {"loss": "huber"}, {"reduce": "sum"}):
        with pytest.raises(ValueError, match=f"{next(iter(bad))}=.* is unknown"):
            energy_of(objective, **bad)
    assert objective.predictor is not None
    with pytest.raises(ValueError, match="at least one"):
        ClipEnergy(objective.encoder, objective.predictor, None, [])


def test_an_energy_of_wide_clips_tells_the_predictor_their_grid() -> None:
    objective = untrained()
    assert objective.predictor is not None
    for parameter in objective.predictor.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    clip = torch.rand(2, 8, 3, 16, 48)
    grid = objective.encoder.grid_of(clip)
    (pair,) = pairs = future_pairs(grid, [2])
    found = ClipEnergy(objective.encoder, objective.predictor, objective.target_encoder, pairs)(clip)
    context, target = pair.context.expand(2, -1), pair.target.expand(2, -1)
    with torch.no_grad():
        known = objective.encoder.encode(clip, keep=context)
        said = objective.predictor(known, context, target, grid=grid)
        assert objective.target_encoder is not None
        tokens = objective.target_encoder.encode(clip).flatten(1, 2)[:, pair.target]
    wanted = F.layer_norm(tokens, tokens.shape[-1:])
    torch.testing.assert_close(found, (said - wanted).abs().mean(dim=(1, 2)))
