"""The report job finds out what a directory holds."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from experiments.cli import main


@pytest.fixture(scope="module")
def fake() -> Any:
    file = Path(__file__).parents[1] / "worldmodel" / "report" / "pretraining.py"
    spec = importlib.util.spec_from_file_location("pretraining", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_one_run_and_several(tmp_path: Path, fake: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        fake.make_run(tmp_path / name, model=False)
    assert main(["report", f"run={tmp_path / 'a'}"]) == 0
    assert f"wrote {tmp_path / 'a' / 'report.html'}" in capsys.readouterr().out
    assert "V-JEPA pretraining: a" in (tmp_path / "a" / "report.html").read_text()
    assert main(["report", f"run={tmp_path}"]) == 0
    assert "2 runs compared" in (tmp_path / "report.html").read_text()


def test_a_wrong_directory_or_scale_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", f"run={tmp_path / 'none'}"]) == 2
    assert main(["report", f"run={tmp_path}", "scale=0"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "no directory" in lines[0]
    assert "scale=0.0 must be above 0" in lines[1]
