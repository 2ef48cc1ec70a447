"""The index job: tables of a corpus, and an error where too much of it is damaged."""

from __future__ import annotations

import csv
from pathlib import Path

import av
import pytest

from experiments.cli import main
from tests.worldmodel.data.barcodes import Recipe, encode


@pytest.fixture
def videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    av.logging.set_level(av.logging.PANIC)
    for number in range(3):
        folder = tmp_path / "my videos" / f"class {number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        encode(folder, Recipe(f"v {number}.mp4", "mpeg4", frames=20, gop=5))
    return tmp_path / "my videos"


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("verify", ["false", "true"])
def test_a_sound_corpus(verify: str, videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["index", "data=my videos", f"verify={verify}", "workers=0", "out=checked"]) == 0
    said = capsys.readouterr().out
    assert "files         3" in said and "damaged       0 (0.0%)" in said and "mpeg4 (3)" in said
    assert ("fastest exact" in said) == (verify == "true")
    rows = table(Path("checked/index.csv"))
    assert [row["frames"] for row in rows] == ["20"] * 3 and {row["keyframe_interval"] for row in rows} == {
        "5.0"
    }
    assert table(Path("checked/damaged.csv")) == []


def test_a_damaged_corpus(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (videos / "class 1" / "empty.mp4").write_bytes(b"")
    sources = ["+sources={all: {path: my videos, folder_labels: true}}", "workers=0", "out=checked"]
    assert main(["index", *sources]) == 2
    out, error = capsys.readouterr()
    assert "damaged       1 (25.0%)" in out and "empty.mp4: is empty" in out
    assert "25% of the files are damaged, more than max_damaged=0.05" in error and "readable.csv" in error
    assert [row["reason"] for row in table(Path("checked/damaged.csv"))] == ["is empty; replace or remove it"]

    assert main(["index", *sources, "max_damaged=0.5"]) == 0
    readable = table(Path("checked/readable.csv"))
    assert sorted({row["label"] for row in readable}) == ["class 0", "class 1"] and len(readable) == 3
    assert main(["index", "data=checked/readable.csv", "workers=0", "out=again"]) == 0
    assert [row["label"] for row in table(Path("again/readable.csv"))] == [row["label"] for row in readable]


def test_what_is_decoded_is_not_decoded_again(videos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["index", "data=my videos", "verify=true", "workers=0", "out=checked"]
    assert main(command) == 0
    first = Path("checked/index.csv").read_text()
    monkeypatch.setattr("worldmodel.data.video_index.build_index", None)
    assert main(command) == 0 and Path("checked/index.csv").read_text() == first


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["data=none"], "give a folder, a list or a tar shard"),
        (["data=empty"], "found no videos in empty"),
        ([], "either data=FOLDER_OR_LIST, or sources"),
        (["data=my videos", "workers=-1"], "workers=-1"),
    ],
)
def test_mistakes_are_one_line(
    settings: list[str], said: str, videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty").mkdir()
    assert main(["index", *settings]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1
