"""Real objectives in two processes: the same losses as in one, also where a target depends on the whole batch."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))  # for the processes that are started, too

from worlds import run

from tests.worldmodel.objectives.runs import train
from worldmodel.objectives.base import ObjectiveConfig
from worldmodel.objectives.masked_latent import MaskedLatentConfig
from worldmodel.objectives.masked_pixels import MaskedPixelsConfig


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").open()]


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        (MaskedLatentConfig(target_norm="centred", variance=0.1), {"strategy": "ddp"}),
        (MaskedLatentConfig(target_norm="centred", target_encoder="online"), {"strategy": "fsdp"}),
        (MaskedLatentConfig(predictor="none"), {"strategy": "fsdp"}),
        (MaskedPixelsConfig(), {"strategy": "ddp"}),
    ],
)
def test_two_processes_equal_one(config: ObjectiveConfig, settings: dict[str, Any], tmp_path: Path) -> None:
    first, second = run(2, train, tmp_path / "two", config, **settings)
    assert first == second
    train(tmp_path / "one", config)
    ours, alone = rows(tmp_path / "two"), rows(tmp_path / "one")
    assert len(ours) == len(alone) == 4
    for row, wanted in zip(ours, alone, strict=True):
        # What describes the step is of all processes; what the monitors see is one process's own share.
        whole = {
            name
            for name in wanted
            if name.startswith(("loss", "grad_norm", "variance", "prediction", "ema_weight"))
        }
        assert {name: row[name] for name in whole} == pytest.approx(
            {name: wanted[name] for name in whole}, rel=1e-4, abs=1e-5
        )
        assert row.keys() == wanted.keys()
