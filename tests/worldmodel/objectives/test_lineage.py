"""The list of systems: every option is a row and every row can be run; each objective keeps the contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.worldmodel.models.contracts import check_objective
from tests.worldmodel.objectives.systems import batch_of, settings, small
from worldmodel.objectives.lineage import SYSTEMS

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
OPTIONS = sorted(path.stem for path in (CONFIGS / "objective").glob("*.yaml"))


def test_rows_are_in_order_and_complete() -> None:
    assert [system.year for system in SYSTEMS] == sorted(system.year for system in SYSTEMS)
    names = [system.name for system in SYSTEMS]
    assert len(set(names)) == len(names)
    for system in SYSTEMS:
        assert all(vars(system)[name] for name in vars(system) if name != "command"), system.name
        assert system.gradient in ("yes", "no", "-")


def test_options_and_rows_belong_together() -> None:
    rows = {system.name for system in SYSTEMS if system.option}
    assert set(OPTIONS) == rows


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_an_objective(name: str) -> None:
    config = settings(name)
    check_objective(small(config), batch_of(range(4), config.mask))
