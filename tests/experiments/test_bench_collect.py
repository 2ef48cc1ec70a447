"""The benchmark of collection: the two sides take turns, and mistakes are one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from experiments.cli import main

#: A peer that says how many episodes it was asked for; one with another library than it should have ends at once.
PEER = """
import json, sys
print(json.dumps({"version": "0"}), flush=True)
for line in sys.stdin:
    episodes = json.loads(line)["episodes"]
    print(json.dumps({"frames": 40 * episodes, "seconds": 2.0, "processor_seconds": 1.0}), flush=True)
"""


def python(tmp_path: Path, code: str) -> str:
    """What stands in for another environment's Python: runs this code instead of the script that it is given."""
    (tmp_path / "peer.py").write_text(code)
    stand_in = tmp_path / "python"
    stand_in.write_text(f'#!/bin/sh\nexec {sys.executable} {tmp_path}/peer.py "$@"\n')
    stand_in.chmod(0o755)
    return f"peer_python={stand_in}"


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")
def test_the_two_sides_take_turns(tmp_path: Path) -> None:
    given = [python(tmp_path, PEER), "against=[stable-worldmodel]", f"out={tmp_path}/figures.json"]
    assert main(["bench", "what=[collect]", "episodes=3", "workers=1", *given]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["collect: stored frames/s, stable-worldmodel, 1 process"] == 160.0
    assert figures["collect: stored frames/s, 1 processes"] > 0
    ours = figures["collect: stored frames/s, 1 process"]
    assert figures["collect: faster than stable-worldmodel, 1 process, by"] == pytest.approx(ours / 160)
    assert figures["collect: takes less processor time than stable-worldmodel by"] > 0


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")
def test_what_is_wrong_with_the_peer_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["bench", "what=[collect]", "episodes=1", "workers=0", "against=[stable-worldmodel]"]
    for given, said in (
        ([python(tmp_path, "raise SystemExit(1)")], "ended, see its last lines above; install"),
        ([f"peer_python={tmp_path}/nowhere"], "cannot be run"),
        (["env=worldmodel/Reacher-v0"], "compared in env=worldmodel/TwoRoom-v0 only"),
    ):
        assert main([*small, *given]) == 2
        assert said in capsys.readouterr().err
