"""Two processes with half of the batch each have the losses and gradients of one with all of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))  # for the processes that are started, too

from worlds import run

from tests.worldmodel.objectives.system_shares import all_losses

NARROW = ("projector.hidden=24", "projector.width=16")
FEW = ("projector.hidden=24", "projector.width=4")
PROTOTYPES = (*NARROW, "prototypes=8", "views.small.count=1")
#: System, changes of its settings, and strategy. Add yours: what looks at the whole batch belongs here.
CASES = [
    ("simclr", NARROW, "ddp"),
    ("vicreg", (*NARROW, "uniformity=1.0"), "ddp"),
    ("barlow_twins", NARROW, "ddp"),
    ("lejepa", NARROW, "ddp"),
    ("byol", (*NARROW, "predictor.hidden=8", "predictor.width=16"), "fsdp"),
    ("byol", (*NARROW, "predictor.hidden=8", "predictor.width=16", "distance=info_nce"), "ddp"),
    ("siamese", NARROW, "ddp"),
    ("imax", FEW, "ddp"),
    ("moco", (*NARROW, "queue=20"), "ddp"),
    ("cpc", (), "ddp"),
    ("swav", PROTOTYPES, "ddp"),
    ("dino", PROTOTYPES, "ddp"),
    ("ibot", PROTOTYPES, "ddp"),
    ("pmax", FEW, "ddp"),
    ("vjepa_variance", (), "ddp"),
    ("vjepa_uniformity", (), "fsdp"),
    ("cmae", (*NARROW, "view_predictor.hidden=8", "view_predictor.width=16"), "ddp"),
    ("tokenizer", ("bits=4", "hidden=16"), "ddp"),
    ("colorization", ("bin=25.0", "places=2"), "ddp"),
    ("vae", ("latent=4", "decoder_width=16"), "ddp"),
]


def test_two_processes_equal_one() -> None:
    first, second = run(2, all_losses, CASES)
    assert first == second
    for case, found, wanted in zip(CASES, first, all_losses(CASES), strict=True):
        assert found == pytest.approx(wanted, rel=2e-3, abs=1e-4), case
