"""What keeps joint embedding from collapsing: with its remedy each system spreads its embeddings, without it does not.

Views are crops of 16 pixels in other colours, so that 40 steps are enough.
"""

from __future__ import annotations

import pytest
import torch

from tests.worldmodel.objectives.systems import HELD_OUT, batch_of, settings, small, train, unit_spread
from worldmodel.objectives.joint_embedding import JointEmbedding

SIZES = ("projector.hidden=64", "projector.width=32")
PREDICTOR = ("predictor.hidden=16", "predictor.width=32")
CROPS = ("size=0.5", "blur=0", "solarise=0")
KINDS = {"byol": ("first", "second"), "barlow_twins": ("first", "second"), "lejepa": ("large", "small")}


def trained(name: str, *changes: str, seed: int = 0) -> float:
    """The spread of held-out clips' embeddings on the unit sphere, after 40 steps: 0 collapsed, 1 spread evenly."""
    crops = [f"views.{kind}.{crop}" for kind in KINDS.get(name, ("crop",)) for crop in CROPS]
    config = settings(name, *SIZES, *crops, *changes)
    objective = small(config, seed)
    assert isinstance(objective, JointEmbedding)
    train(objective, 40, config, lr=2e-3)
    objective.train()  # batch norms by the statistics of these clips
    with torch.no_grad():
        return unit_spread(objective.embed(objective.draw(batch_of(HELD_OUT))[0].clip))


def test_simsiam_collapses_without_its_stop_gradient() -> None:
    # The projector's last batch norm would keep the std at 1 whatever happens.
    kept, collapsed = (
        trained("simsiam", *PREDICTOR, "projector.last_norm=none", f"target={target}")
        for target in ("stop", "online")
    )
    assert kept > 0.6
    assert collapsed < 0.7 * kept


def test_byol_collapses_without_predictor_and_stop_gradient() -> None:
    kept, collapsed = trained("byol", *PREDICTOR), trained("byol", "predictor.layers=0", "target=online")
    assert kept > 0.6
    assert collapsed < 0.5 * kept


#: A clip is to be recognised by its colours, which SimCLR's own settings leave little of in 40 steps.
MILD = tuple(
    f"views.crop.{change}"
    for change in ("brightness=0.4", "contrast=0.4", "saturation=0.2", "hue=0.1", "grey=0")
)


@pytest.fixture(scope="module")
def agreement_alone() -> float:
    """VICReg without its two terms: views shall agree, and nothing else."""
    return trained("vicreg", "variance=0", "covariance=0")


@pytest.mark.parametrize(
    ("name", "changes"),
    [("vicreg", ()), ("barlow_twins", ()), ("simclr", MILD), ("lejepa", ("views.small.count=1",))],
)
def test_terms_and_negatives_keep_embeddings_apart(
    name: str, changes: tuple[str, ...], agreement_alone: float
) -> None:
    kept = trained(name, *changes)
    assert kept > 0.6
    assert agreement_alone < 0.5 * kept
