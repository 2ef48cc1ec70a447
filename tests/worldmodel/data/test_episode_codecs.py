"""Frames as JPEG and as video: nearly the same pictures in exactly the same places; no more is read than asked for."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.worldmodel.data.recordings import META, make_recording, make_store
from worldmodel.data.episode_arrays import StoredJpeg, StoredVideo
from worldmodel.data.episode_codecs import Codec
from worldmodel.data.episodes import EpisodeStore, EpisodeWriter
from worldmodel.data.video_index import build_index

LOSSY = ["jpeg:95", "mp4:12:4", "mp4:12:1", "mp4:12:8"]


@pytest.mark.parametrize("codec", LOSSY)
def test_pictures_differ_by_the_codecs_error_and_all_else_is_the_same(codec: str, tmp_path: Path) -> None:
    store = make_store(tmp_path / "data", codec=codec)
    assert store.meta["format_version"] == 2 and store.meta["codecs"] == {"frames": codec}
    for index in range(4):
        for name, array in make_recording(index, 3 + 2 * index).items():
            stored = store[index][name]
            assert stored.shape == array.shape and stored.dtype == array.dtype and len(stored) == len(array)
            if name != "frames":
                np.testing.assert_array_equal(stored[:], array)
                continue
            error = np.abs(stored[:].astype(int) - array)
            assert error.mean() < 2 and error.max() < 60
            # Which frame it is: each is nearer to itself than to any other by far.
            far = np.abs(stored[:].astype(int)[:, None] - array[None]).mean(axis=(2, 3, 4))
            assert (far.argmin(axis=1) == np.arange(len(array))).all()
    assert store.gather("frames").shape == (sum(4 + 2 * i for i in range(4)), 3, 32, 48)


@pytest.mark.parametrize("codec", ["raw", *LOSSY])
def test_slices_are_rows_of_the_whole(codec: str, tmp_path: Path) -> None:
    frames = make_store(tmp_path / "data", codec=codec)[3]["frames"]
    whole = frames[:]
    for rows in (
        slice(2, 9, 3),
        slice(4, 5),
        slice(5, 5),
        slice(-3, None),
        slice(7, 2),
        slice(None, None, 4),
    ):
        np.testing.assert_array_equal(frames[rows], whole[rows])
    with pytest.raises(TypeError, match="read by slices"):
        frames[3]  # type: ignore[index]
    with pytest.raises(ValueError, match="forwards"):
        frames[::-1]


def test_a_jpeg_slice_reads_its_own_pictures_only(tmp_path: Path) -> None:
    store = make_store(tmp_path / "data", codec="jpeg:90")
    frames = store[3]["frames"]
    assert isinstance(frames, StoredJpeg)
    whole, offsets = frames[:], frames.offsets[:]
    content = bytearray(frames.path.read_bytes())
    for number in (2, 5):
        begin, end = (frames.blob.offset + int(offsets[number + i]) for i in (0, 1))
        content[begin:end] = bytes(end - begin)
    frames.path.write_bytes(content)
    np.testing.assert_array_equal(frames[3:5], whole[3:5])
    np.testing.assert_array_equal(frames[1:9:3], whole[1:9:3])  # 1, 4, 7
    with pytest.raises(ValueError, match=r"frame 2 of episode file .*000003.safetensors is damaged"):
        frames[0:4]


def test_a_video_has_the_keyframes_that_were_asked_for_and_no_b_frames(tmp_path: Path) -> None:
    frames = make_store(tmp_path / "data", codec="mp4:20:4")[3]["frames"]
    assert isinstance(frames, StoredVideo) and frames.path.name == "000003.frames.mp4"
    index = build_index(frames.path)
    assert index.keyframes == index.pts[::4] and len(index.pts) == len(frames) and index.codec == "h264"
    first = frames[0:1]
    copy = pickle.loads(pickle.dumps(frames))  # as a worker process gets it
    np.testing.assert_array_equal(copy[0:1], first)


def test_a_relative_path_with_a_colon_is_not_a_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert make_store(Path("mp4:18:4"), 1, "mp4")[0]["frames"][1:3].shape == (2, 3, 32, 48)


def test_odd_sides_are_kept(tmp_path: Path) -> None:
    episode = make_recording(0)
    episode["frames"] = np.ascontiguousarray(episode["frames"][:, :, :31, :47])
    writer = EpisodeWriter(tmp_path, {**META, "frame_shape": [3, 31, 47]}, codecs={"frames": "mp4:12"})
    writer.write(0, episode)
    stored = EpisodeStore(tmp_path)[0]["frames"]
    assert stored.shape == (6, 3, 31, 47) and np.abs(stored[:].astype(int) - episode["frames"]).mean() < 2


def test_raw_datasets_are_as_they_always_were(tmp_path: Path) -> None:
    """Nothing of a dataset without codecs may change, or old ones could not be continued and new ones not be read."""
    store = make_store(tmp_path / "data")
    assert store.meta == {**json.loads(json.dumps(META)), "format_version": 1}
    header = (tmp_path / "data/episodes/000000.safetensors").read_bytes()[8:]
    assert b"__metadata__" not in header and not list((tmp_path / "data/episodes").glob("*.mp4"))
    assert set(store.entries[0]) == {"index", "file", "steps", "sha256"}


def test_the_hash_stands_for_the_video_too(tmp_path: Path) -> None:
    store = make_store(tmp_path / "a", codec="mp4:20")
    assert make_store(tmp_path / "b", codec="mp4:20").hash == store.hash
    assert make_store(tmp_path / "c", codec="mp4:30").hash != store.hash


@pytest.mark.parametrize(
    "text", ["gif", "jpeg:0", "jpeg:101", "jpeg:90:2", "mp4:52", "mp4:18:9", "mp4:18:0", "raw:1", "mp4:x", ""]
)
def test_unknown_codecs_are_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="codec .* choose raw, jpeg:QUALITY"):
        EpisodeWriter(tmp_path, {}, codecs={"frames": text})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "full"), [("raw", "raw"), ("jpeg", "jpeg:95"), ("mp4", "mp4:18:4"), ("mp4:30", "mp4:30:4")]
)
def test_a_codec_is_written_out(text: str, full: str) -> None:
    assert str(Codec.parse(text)) == full == str(Codec.parse(full))


def test_arrays_that_are_not_pictures_are_refused(tmp_path: Path) -> None:
    writer = EpisodeWriter(tmp_path, {}, codecs={"frames": "jpeg"})
    episode: dict[str, Any] = {
        "frames": np.zeros((3, 1, 8, 8), np.uint8),
        "actions": np.zeros((2, 1, 1), np.float32),
    }
    with pytest.raises(
        ValueError,
        match=r"takes frames \(T\+1, 3, H, W\) uint8; frames is \(3, 1, 8, 8\) uint8: store it raw",
    ):
        writer.write(0, episode)


def test_a_header_cannot_name_a_video_elsewhere(tmp_path: Path) -> None:
    store = make_store(tmp_path / "data", codec="mp4")
    path = tmp_path / "data" / store.entries[0]["file"]
    path.write_bytes(path.read_bytes().replace(b"000000.frames.mp4", b"../../xxxxxxx.mp4"))
    with pytest.raises(ValueError, match="is not beside it"):
        EpisodeStore(tmp_path / "data")[0]
