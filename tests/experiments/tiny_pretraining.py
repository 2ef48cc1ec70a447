"""A pretraining that takes a second: a few small video files, a small network, few steps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import pytest
from safetensors import safe_open

from tests.worldmodel.data.barcodes import Recipe, encode

#: Clips of 4 frames of 32 pixels are 2 x 4 x 4 tokens.
TINY = [
    "encoder.image_size=32",
    "encoder.frames=4",
    "encoder.patch_size=8",
    "encoder.width=24",
    "encoder.depth=1",
    "encoder.heads=2",
    "predictor.width=12",
    "predictor.depth=1",
    "predictor.heads=1",
    "corpus.fps=10",
    "loop.batch_size=4",
    "loop.steps=2",
    "loop.log_every=1",
    "loop.precision=fp32",
    "threads=1",
    "workers=0",
    "device=cpu",
    "held_out=0",
]


@contextmanager
def videos(folder: Path) -> Iterator[Path]:
    """Six files of different lengths in ``folder / "videos"``; inside, their indices are cached beside them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        av.logging.set_level(av.logging.PANIC)
        (folder / "videos").mkdir()
        for number in range(6):
            encode(folder / "videos", Recipe(f"v{number}.mp4", "mpeg4", frames=24 + 8 * number, gop=8))
        yield folder / "videos"


def weights(run: Path) -> dict[str, bytes]:
    """The files of a run's model that hold weights."""
    return {file.name: file.read_bytes() for file in sorted((run / "model").glob("*.safetensors"))}


def finished_steps(run: Path) -> int:
    """Of a run's training state."""
    with safe_open(run / "state.safetensors", framework="pt") as state:
        return int(json.loads(state.metadata()["state"])["step"])
