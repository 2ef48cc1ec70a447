"""Which frames a clip shows."""

from __future__ import annotations

import numpy as np
import pytest

from worldmodel.data.clips import ClipShape, ShortVideoError, clip_indices, duration, frame_interval, split_at

DRAWS = [0.0, 0.1, 0.333, 0.5, 0.77, 0.999999, 1.0]


def regular(count: int, fps: float, digits: int = 9, start: float = 5.0) -> np.ndarray:
    """Times as containers give them: rounded."""
    return np.round(start + np.arange(count) / fps, digits)


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("digits", [3, 9])  # Matroska rounds to milliseconds
@pytest.mark.parametrize("fps", [10, 24, 24000 / 1001, 25, 30000 / 1001, 60])
def test_at_the_own_rate_every_frame_comes_once(fps: float, digits: int, draw: float) -> None:
    indices = clip_indices(regular(200, fps, digits), ClipShape(32, fps), draw)
    assert (np.diff(indices) == 1).all()


@pytest.mark.parametrize("draw", DRAWS)
def test_below_and_above_the_own_rate(draw: float) -> None:
    times = regular(300, 30, 3)
    assert (np.diff(clip_indices(times, ClipShape(16, 15), draw)) == 2).all()
    fourth = clip_indices(times, ClipShape(16, 4), draw)
    assert set(np.diff(fourth)) == {7, 8} and abs((fourth[-1] - fourth[0]) - 15 * 7.5) <= 1
    assert np.bincount(clip_indices(times, ClipShape(16, 60), draw) - 0).max() == 2
    thrice = clip_indices(times, ClipShape(30, 90), draw)
    assert set(np.bincount(thrice - thrice[0])) == {3} and thrice[0] == thrice[2]


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("fps", [3.0, 12.5, 40.0])
def test_with_varying_frame_times_each_frame_is_the_one_then_shown(fps: float, draw: float) -> None:
    times = 2.0 + np.cumsum(np.random.default_rng(0).choice([0.04, 0.08, 0.4], 300, p=[0.6, 0.3, 0.1]))
    interval = frame_interval(times)
    indices = clip_indices(times, ClipShape(20, fps), draw)
    for k, index in enumerate(indices):
        wanted = times[indices[0]] + k / fps + interval / 4
        assert index == max(i for i in range(300) if times[i] <= wanted)
    assert times[indices[0]] + 19 / fps < times[-1] + interval, "the clip ends within the video"


def test_starts_cover_the_video_evenly_in_time() -> None:
    times, shape = regular(100, 10, start=0.0), ClipShape(11, 10)
    assert clip_indices(times, shape, 0.0)[0] == 0 and clip_indices(times, shape, 1.0)[-1] == 99
    starts = [clip_indices(times, shape, (k + 0.5) / 900)[0] for k in range(900)]
    assert (np.bincount(starts) == 10).all() and max(starts) == 89
    # A frame that stays for half of the time begins half of the clips.
    held = np.concatenate([np.arange(50) * 0.1, 10 + np.arange(50) * 0.1])
    starts = [clip_indices(held, ClipShape(2, 10), (k + 0.5) / 900)[0] for k in range(900)]
    assert np.mean(np.array(starts) == 49) == pytest.approx(0.34, abs=0.02)


@pytest.mark.parametrize("draw", DRAWS)
def test_a_stride_counts_frames(draw: float) -> None:
    times = np.cumsum(np.random.default_rng(0).uniform(0.01, 1, 64))
    indices = clip_indices(times, ClipShape(16, 0, stride=4), draw)
    assert (np.diff(indices) == 4).all() and indices[0] >= 0 and indices[-1] < 64
    assert clip_indices(times[:61], ClipShape(16, 0, stride=4), draw)[0] == 0


@pytest.mark.parametrize("shape", [ClipShape(16, 10), ClipShape(16, 0, stride=3)], ids=["fps", "stride"])
@pytest.mark.parametrize("count", [1, 2, 5, 15])
def test_short_videos(shape: ClipShape, count: int) -> None:
    times = regular(count, 10)

    def short(mode: str) -> np.ndarray:
        return clip_indices(times, ClipShape(shape.frames, shape.fps, shape.stride, mode), 0.7)

    expected = np.minimum(np.arange(16) * (shape.stride or 1), count - 1)
    np.testing.assert_array_equal(short("repeat"), expected)
    tight = short("tighten")
    assert set(tight) == set(range(count)) and (np.diff(tight) >= 0).all(), "the whole video, in order"
    assert np.ptp(np.bincount(tight)) <= 1, "evenly"
    with pytest.raises(ShortVideoError, match=f"shorter than a clip .*{count} frames"):
        short("skip")


def test_a_video_that_just_fits_is_not_short() -> None:
    shape = ClipShape(16, 10, short="skip")
    np.testing.assert_array_equal(clip_indices(regular(16, 10, 3), shape, 0.9), np.arange(16))


def test_the_last_part_of_a_video() -> None:
    times = regular(100, 10)
    assert split_at(times, 0.25) == 75 and duration(times) == pytest.approx(10.0)
    assert split_at(times, 0.0001) == 99 and split_at(times, 0.9999) == 1
    held = np.array([0.0, 1.0, 2.0, 3.0, 100.0])
    assert split_at(held, 0.5) == 4, "by time, not by frames"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((0, 4.0), "frames=0"),
        ((8, 0.0), "choose fps above 0"),
        ((8, float("nan")), "choose fps above 0"),
        ((8, 4.0, -1), "stride=-1"),
        ((8, 4.0, 0, "stretch"), "repeat, tighten, skip"),
    ],
)
def test_impossible_clips_are_named(values: tuple, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ClipShape(*values)
