"""The page on the lineage says of every system what the list of systems says, and how it is run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from worldmodel.objectives.lineage import SYSTEMS, System

PAGE = Path(__file__).resolve().parents[1] / "docs" / "lineage.md"
GRADIENT = {"yes": ", with gradient", "no": ", without gradient", "-": ""}


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
def test_a_systems_entry_is_its_row(system: System) -> None:
    entries = re.findall(
        r"^> \*\*(.*)\*\*, (\d+), (.*)\\\n> (.*)\\\n> (.*)$", PAGE.read_text("utf-8"), re.MULTILINE
    )
    (entry,) = [entry for entry in entries if entry[0] == system.title]
    _, year, paper, axes, files = entry
    assert int(year) == system.year
    assert paper == system.paper or paper == f"[{system.paper}](https://arxiv.org/abs/{system.paper})"
    target = system.target + GRADIENT[system.gradient]
    assert axes == " · ".join((system.views, target, system.head, system.distance, system.collapse))
    assert files.endswith(f"`{system.run}`")
    assert not system.option or f"(../configs/objective/{system.name}.yaml)" in files
