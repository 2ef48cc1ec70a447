"""Copies for training: the same frames at the same times, with keyframes close together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.worldmodel.data.barcodes import RECIPES, Recipe, damage, encode, shown
from worldmodel.data.reencode import reencode
from worldmodel.data.videos import open_video

by_name = {recipe.name: recipe for recipe in RECIPES}


def smaller(name: str) -> Recipe:
    recipe = by_name[name]
    return Recipe(recipe.name, recipe.codec, 60, recipe.rate, recipe.gop, recipe.options, recipe.start,
                  recipe.variable, recipe.b_frames)  # fmt: skip


@pytest.mark.parametrize("name", ["h264_variable.mkv", "h264_start.mp4", "mpeg2_stream.ts"])
def test_a_copy_has_the_same_frames_at_the_same_times(tmp_path: Path, name: str) -> None:
    source = encode(tmp_path, smaller(name))
    target = tmp_path / "copies" / "copy.mp4"
    made = reencode(str(source), str(target), height=32, gop=8)
    assert (made.frames, made.lost, made.reason) == (60, 0, "")
    with open_video(source) as video, open_video(target) as copy:
        assert len(copy) == 60 and (copy.index.height, copy.index.width) == (32, 48)
        np.testing.assert_allclose(copy.timestamps, video.timestamps - video.timestamps[0], atol=1e-4)
        keys = np.searchsorted(copy.index.pts, copy.index.keyframes)
        assert np.diff(keys).max() <= 8
        large = np.repeat(np.repeat(copy.frames(range(60)), 2, axis=2), 2, axis=3)
        assert shown(large) == list(range(60))


def test_a_copy_is_made_once_and_keeps_small_pictures(tmp_path: Path) -> None:
    source = encode(tmp_path, smaller("h264_plain.mp4"))
    target = tmp_path / "copy.mp4"
    reencode(str(source), str(target), height=500)
    before = target.stat().st_mtime_ns
    assert reencode(str(source), str(target), height=500).frames == 60
    assert target.stat().st_mtime_ns == before
    with open_video(target) as copy:
        assert (copy.index.height, copy.index.width) == (64, 96)


def test_frames_that_cannot_be_had_are_left_out_and_the_others_keep_their_times(tmp_path: Path) -> None:
    source = encode(tmp_path, by_name["h264_plain.mp4"])
    rotten = damage(source, tmp_path / "rotten.mp4", [0.4], 100)
    made = reencode(str(rotten), str(tmp_path / "copy.mp4"), gop=8)
    assert made.lost > 0 and made.frames + made.lost == 120
    with open_video(source) as video, open_video(tmp_path / "copy.mp4") as copy:
        seen = shown(copy.frames(range(len(copy))))
        times = {round(float(time), 3): number for number, time in enumerate(video.timestamps)}
        assert seen == [times[round(float(time), 3)] for time in copy.timestamps]


def test_what_is_no_video_is_named_and_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("not a video")
    made = reencode(str(tmp_path / "text.mp4"), str(tmp_path / "out" / "copy.mp4"))
    assert made.frames == 0 and "video" in made.reason
    assert not (tmp_path / "out" / "copy.mp4").exists()
