"""The benchmark of loading and caching: what is compared is the same, and mistakes are one line."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.cli import main

SMALL = ["image_size=64", "frames=2", "patch_size=32", "width=12", "depth=1", "heads=2"]

#: A peer that has one format, which it "loads" from the episodes that it was given.
PEER = """
import hashlib, json, pathlib, sys
import numpy as np
folder, frames = pathlib.Path(sys.argv[2]), int(sys.argv[3])
episodes = [np.load(file) for file in sorted(folder.glob("episode_*.npz"))]
assert all(len(e["pixels"]) == len(e["action"]) for e in episodes)
print(json.dumps({"version": "0", "formats": sys.argv[5:], "failed": {"video": "no codec"}}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    if "item" in request:
        pixels = episodes[1]["pixels"][2 : 2 + frames].transpose(0, 3, 1, 2) + BIAS
        name = hashlib.sha256(pixels.tobytes()).hexdigest()
        print(json.dumps({"episode": 1, "start": 2, "shape": list(pixels.shape), "dtype": str(pixels.dtype),
                          "sha256": name, "mean": float(pixels.mean())}), flush=True)
    else:
        print(json.dumps({"rate": 2.0 + request["workers"], "per_processor_second": 2.0}), flush=True)
"""


def peer(tmp_path: Path, bias: str = "np.uint8(0)") -> Path:
    """What stands in for another environment's Python: runs the script above instead of the given one."""
    script = tmp_path / "peer.py"
    script.write_text(PEER.replace("BIAS", bias))
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {script} "$@"\n')
    python.chmod(0o755)
    return python


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")
def test_loaders_take_turns_on_the_same_episodes(tmp_path: Path) -> None:
    given = [f"peer_python={peer(tmp_path)}", "against=[stable-worldmodel]", "formats=[raw,jpeg,hdf5]"]
    sizes = ["episodes=3", "repeats=1", "batch_size=4", "workers=1", f"out={tmp_path}/figures.json"]
    assert main(["bench", "what=[load]", *given, *sizes]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    rates = [name for name in figures if name.startswith("load: windows/s")]
    assert len(rates) == 6 and min(figures[name] for name in rates) > 0
    assert figures["load: windows/s, stable-worldmodel hdf5, 1 process"] == 2.0
    assert figures["load: windows/s, stable-worldmodel hdf5, 1 workers"] == 3.0
    raw = figures["load: windows/s, raw, 1 process"]
    ratio = figures["load: raw is faster than stable-worldmodel hdf5, 1 process, by"]
    assert ratio == pytest.approx(raw / 2)
    assert not [name for name in figures if "mp4" in name or "lance" in name]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell")
@pytest.mark.parametrize(
    ("bias", "message"),
    [("np.uint8(1)", "hdf5 gives other frames than were written"), ("oops", "loader in .*python ended")],
)
def test_a_peer_that_gives_other_frames_or_none_is_not_timed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bias: str, message: str
) -> None:
    given = [f"peer_python={peer(tmp_path, bias)}", "against=[stable-worldmodel]", "formats=[hdf5]"]
    assert main(["bench", "what=[load]", *given, "episodes=3", "repeats=1", "batch_size=4"]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_mistakes_in_the_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for setting, message in (
        ("against=[torch]", "choose some of stable-worldmodel"),
        ("formats=[zip]", "choose some of raw, jpeg, mp4, hdf5"),
        ("window_frames=1", "at least 2"),
    ):
        assert main(["bench", "what=[load]", setting]) == 2
        assert message in capsys.readouterr().err
    python = f"peer_python={tmp_path}/no_python"
    given = ["against=[stable-worldmodel]", "episodes=2", "formats=[raw]", python]
    assert main(["bench", "what=[load]", *given]) == 2
    assert "no_python cannot be run" in capsys.readouterr().err


def test_training_from_the_cache_has_the_same_losses(tmp_path: Path) -> None:
    sizes = ["episodes=3", "repeats=3", "batch_size=8", "window_frames=3", f"out={tmp_path}/figures.json"]
    settings = [f"encoder.{setting}" for setting in SMALL]
    assert main(["bench", "what=[cache]", *settings, *sizes]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["cache: largest relative difference of the losses"] < 1e-5
    each, cached = (
        figures[f"cache: seconds per epoch, {name}"] for name in ("encoding each time", "from the cache")
    )
    assert figures["cache: epochs from the cache are faster by"] == pytest.approx(each / cached)
    assert np.isfinite([figures[name] for name in figures if name.startswith("cache")]).all()
