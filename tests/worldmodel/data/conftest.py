"""Videos that are encoded once for all tests, and a cache of indices for each test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import pytest

from tests.worldmodel.data.barcodes import RECIPES, encode

BY_NAME = {recipe.name: recipe for recipe in RECIPES}


@pytest.fixture(scope="session")
def make_video(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Encodes each recipe once; skips the test where this FFmpeg lacks the encoder."""
    folder = tmp_path_factory.mktemp("videos")

    def make(name: str) -> Path:
        recipe = BY_NAME[name]
        if recipe.codec not in av.codecs_available:
            pytest.skip(f"this build of FFmpeg has no encoder {recipe.codec}")
        return folder / name if (folder / name).exists() else encode(folder, recipe)

    return make


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("SVT_LOG", "1")
    av.logging.set_level(av.logging.PANIC)
