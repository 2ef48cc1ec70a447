"""Copies of a corpus: the right file under the right label, whatever comes and goes."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from experiments.cli import main
from tests.worldmodel.data.barcodes import Recipe, encode
from worldmodel.data.videos import open_video

COUNTS = {"a": 8, "b": 12, "c": 16}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three videos of the same name in folders of their own, as corpora often have them; of different lengths."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, count in COUNTS.items():
        (tmp_path / "videos" / name).mkdir(parents=True)
        encode(tmp_path / "videos" / name, Recipe("clip.mp4", "mpeg4", frames=count, gop=8))
    return tmp_path / "videos"


def copies(folder: Path, names: str, *settings: str) -> dict[str, Path]:
    """Copy the videos that ``names`` has a letter for; the copies by label."""
    listed = folder / "list.csv"
    listed.write_text("path,label\n" + "".join(f"{name}/clip.mp4,{name}\n" for name in names))
    out = folder.parent / "out"
    assert main(["reencode", f"data={listed}", f"out={out}", "workers=1", "height=32", *settings]) == 0
    with open(out / "videos.csv", newline="") as file:
        return {row["label"]: out / row["path"] for row in csv.DictReader(file)}


def test_a_copy_is_never_taken_for_that_of_another_file(folder: Path) -> None:
    before = copies(folder, "abc")
    after = copies(folder, "cb")  # "a" is gone, and the order is another
    assert after == {name: before[name] for name in "bc"}, "copies keep their names"
    for name, path in after.items():
        with open_video(path) as copy:
            assert len(copy) == COUNTS[name], f"the label {name} belongs to another video"
    small = copies(folder, "b", "height=16")
    with open_video(small["b"]) as copy:
        assert copy.index.height == 16, "a copy made with other settings was kept"


def test_a_listed_file_that_is_missing_does_not_stop_the_others(folder: Path) -> None:
    assert list(copies(folder, "axb")) == ["a", "b"]
    failed = (folder.parent / "out" / "failed.csv").read_text()
    assert f"{folder / 'x' / 'clip.mp4'},not found" in failed
