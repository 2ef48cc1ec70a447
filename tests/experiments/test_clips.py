"""Where a pretraining's clips come from, and what is kept of them for its report."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from experiments.clips import VideoClips, is_episode_dataset, short_names
from tests.experiments.tiny_pretraining import videos
from worldmodel.data.clips import frame_interval
from worldmodel.data.corpus import CorpusConfig
from worldmodel.data.corpus_damage import COLUMNS, write_table
from worldmodel.data.corpus_files import SourceConfig
from worldmodel.data.videos import open_video


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with videos(tmp_path_factory.mktemp("clips")) as path:
        yield path


def config(folder: Path, **options: object) -> CorpusConfig:
    return CorpusConfig(**{"data": str(folder), "frames": 4, "fps": 10.0, "size": 32, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [{"held_out": 1e-6}, {"held_out": 0.05, "held_out_by": "time", "short": "skip", "fps": 4.0}],
    ids=["no file falls into the share", "what is held out of each is shorter than a clip"],
)
def test_few_videos_of_which_nothing_is_held_out_do_not_cost_a_finished_training_its_report(
    folder: Path, options: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "worldmodel"):
        clips = VideoClips(config(folder, **options), 0)
        assert ("is none: training sees all" in caplog.text) == ("held_out_by" not in options)
        bank = clips.bank()
    assert bank is not None and len(bank.frames) >= 8
    assert "the report shows clips of the training" in caplog.text


@pytest.mark.parametrize("options", [{"fps": 10.0}, {"stride": 2}], ids=["by time", "by frames"])
def test_clips_that_overlap_are_known_and_videos_of_one_name_told_apart(
    folder: Path, tmp_path: Path, options: dict[str, object]
) -> None:
    """Else the report's share of nearest clips from the same video counts what is no finding."""
    for name in ("left", "right"):
        (tmp_path / name).mkdir()
        shutil.copy(folder / "v0.mp4", tmp_path / name / "clip 1.mp4")
    shutil.copy(folder / "v0.mp4", tmp_path / "other.mp4")
    clips = VideoClips(config(tmp_path, **options), 0)
    bank = clips.bank()
    assert bank is not None
    assert set(bank.names) == {"left/clip 1.mp4", "right/clip 1.mp4", "other.mp4"}
    with open_video(folder / "v0.mp4") as video:
        step = 0.1 if "fps" in options else 2 * frame_interval(video.timestamps)
    names, starts, apart = np.array(bank.names), np.array(bank.starts), bank.apart()
    same, away = names[:, None] == names[None], np.abs(starts[:, None] - starts[None])
    assert not apart[same & (away < 3.9 * step)].any()
    assert apart[~same | (away > 4.1 * step)].all()
    assert (same & (away < 3.9 * step)).sum() > len(bank), "some do overlap"


def test_names_have_as_many_folders_as_they_need() -> None:
    assert short_names(["/a/x/1.mp4", "/a/y/2.mp4", "/a/x/1.mp4"]) == ("1.mp4", "2.mp4", "1.mp4")
    assert short_names(["/a/x/1.mp4", "/b/x/1.mp4"]) == ("a/x/1.mp4", "b/x/1.mp4")
    assert short_names(["/a//1.mp4", "/a/1.mp4"]) == ("1.mp4", "1.mp4")


def test_one_source_may_have_nothing_that_is_held_out(folder: Path) -> None:
    sources = {"all": SourceConfig(str(folder)), "one": SourceConfig(str(folder / "v0.mp4"))}
    for share in (0.3, 0.5, 0.7):
        clips = VideoClips(config(folder, data="", sources=sources, held_out=share), 0)
        assert clips.bank() is not None


def test_the_report_lists_what_any_process_left_out(folder: Path, tmp_path: Path) -> None:
    write_table(tmp_path / "skipped.csv", COLUMNS, [("a.mp4", "is empty")])
    write_table(tmp_path / "skipped-3.csv", COLUMNS, [("b.mp4", "is cut off")])
    facts = VideoClips(config(folder), 0).facts(tmp_path)
    assert sorted(facts.skipped) == [("a.mp4", "is empty"), ("b.mp4", "is cut off")]


def test_a_folder_of_videos_may_have_a_meta_json_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for content, ours in (
        ('{"name": "films"}', False),
        ("[1]", False),
        ("no JSON", False),
        ('{"format_version": 1}', True),
    ):
        (tmp_path / "meta.json").write_text(content)
        assert is_episode_dataset(str(tmp_path)) == ours
    monkeypatch.chdir(tmp_path)
    assert not is_episode_dataset(""), "sources by name"
