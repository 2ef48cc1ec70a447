"""The list of systems on the command line."""

from __future__ import annotations

import json

import pytest

from experiments.cli import main
from worldmodel.objectives.lineage import SYSTEMS


def test_the_table_has_every_system_with_its_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "220")
    assert main(["objectives"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for system in SYSTEMS:
        assert any(line.split()[:2] == [system.name, str(system.year)] for line in lines)
    assert any("worldmodel pretrain objective=byol" in line for line in lines)


def test_one_system_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["objectives", "name=simsiam"]) == 0
    assert "stop-gradient" in capsys.readouterr().out
    assert main(["objectives", "json=true"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == [system.name for system in SYSTEMS]
    assert all(row["command"].startswith("worldmodel ") for row in rows)


def test_an_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["objectives", "name=bjol"]) == 2
    assert "choose one of" in capsys.readouterr().err
