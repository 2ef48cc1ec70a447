"""Other formats: round trips, resuming, the alignment of actions and frames."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.worldmodel.data.recordings import META, make_recording, make_store
from worldmodel.data.episode_codecs import encode_video
from worldmodel.data.episodes import EpisodeStore
from worldmodel.data.formats import FORMATS, FormatError, ImportOptions, detect, open_reader, open_writer
from worldmodel.data.formats.base import align
from worldmodel.data.formats.convert import Converted, convert, resized

FOREIGN = {
    "lerobot": "lr",
    "minari": "minari",
    "robomimic": "demos.hdf5",
    "columns": "columns.h5",
    "folder": "videos",
}
LOSSY = ("lerobot", "folder")


def carry(
    source: Path, target: Path, name: str = "episodes", options: ImportOptions | None = None, **more: Any
) -> Converted:
    reader, done = open_reader(source, options), Converted()
    for _ in convert(reader, open_writer(target, reader.meta, name), done=done, **more):
        pass
    return done


@pytest.mark.parametrize("name", FOREIGN)
def test_there_and_back_again(name: str, tmp_path: Path) -> None:
    """Actions, times, proprioception, states and metadata to the last bit; frames within the codec's error."""
    store = make_store(tmp_path / "data", 5)
    carry(tmp_path / "data", tmp_path / FOREIGN[name], name)
    assert detect(tmp_path / FOREIGN[name]) == name
    carry(tmp_path / FOREIGN[name], tmp_path / "back")
    back = EpisodeStore(tmp_path / "back")
    assert back.meta == store.meta and len(back) == 5
    for position in range(5):
        assert set(back[position]) == set(store[position])
        for key, array in store[position].items():
            other = back[position][key]
            assert other.shape == array.shape and other.dtype == array.dtype
            if key != "frames" or name not in LOSSY:
                np.testing.assert_array_equal(other[:], array[:])
                continue
            far = np.abs(other[:].astype(int)[:, None] - array[:][None]).mean(axis=(2, 3, 4))
            assert (far.argmin(axis=1) == np.arange(len(array))).all() and far.diagonal().max() < 2
    if name not in LOSSY:
        assert back.hash == store.hash


@pytest.mark.parametrize("name", [*FOREIGN, "episodes"])
def test_an_interrupted_conversion_goes_on(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worldmodel.data.formats.lerobot_writer.BUFFER", 30_000)
    make_store(tmp_path / "data", 5)
    source = open_reader(tmp_path / "data")
    whole, broken = (
        tmp_path / ("whole" + Path(FOREIGN.get(name, "x")).suffix),
        tmp_path / ("b" + Path(FOREIGN.get(name, "x")).suffix),
    )
    carry(tmp_path / "data", whole, name)
    writer = open_writer(broken, source.meta, name)
    steps = convert(source, writer)
    for _ in range(3):
        next(steps)
    if name in ("minari", "robomimic", "columns"):
        assert not [
            path
            for path in [broken, *broken.rglob("*")]
            if path.suffix in (".hdf5", ".h5") and path.is_file()
        ]
    del steps, writer
    done = carry(tmp_path / "data", broken, name)
    assert 1 <= done.episodes <= 5 - (name != "lerobot")
    one, other = open_reader(whole), open_reader(broken)
    assert len(other) == 5 and other.meta == one.meta
    for position in range(5):
        for key, array in one.read(position).items():
            found = other.read(position)[key]
            if (name, key) == (
                "lerobot",
                "frames",
            ):  # H.264, and where a video of several episodes begins differs
                assert np.abs(found.astype(int) - array).mean() < 3
            else:
                np.testing.assert_array_equal(found, array)
    assert carry(tmp_path / "data", broken, name).episodes == 0
    with pytest.raises(FileExistsError):
        open_writer(broken, source.meta, name, mode="create")
    with pytest.raises((FileExistsError, ValueError)):
        open_writer(broken, {**source.meta, "env_id": "another"}, name)


def test_lerobot_files_hold_several_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("worldmodel.data.formats.lerobot_writer.BUFFER", 60_000)
    make_store(tmp_path / "data", 6)
    carry(tmp_path / "data", tmp_path / "lr", "lerobot")
    videos = sorted((tmp_path / "lr/videos").rglob("*.mp4"))
    assert 1 < len(videos) < 6
    rows = pq.read_table(tmp_path / "lr/meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert len(rows) > 1 and rows[1]["videos/observation.images.frames/from_timestamp"] == pytest.approx(
        rows[0]["length"] / (20 / 3)
    )
    frames = np.concatenate([open_reader(tmp_path / "lr").read(i)["actions"] for i in range(6)])
    assert len(frames) == sum(3 + 2 * i for i in range(6))


# Which action leads from which frame


@pytest.mark.parametrize(
    ("frames", "actions", "shift", "shown", "done"),
    [
        (5, 5, 0, (0, 5), (0, 4)),  # a row per frame: the last action leads nowhere
        (5, 4, 0, (0, 5), (0, 4)),  # a row per step
        (5, 5, 1, (0, 5), (1, 5)),  # the action that had led to the frame; the first one leads from nowhere
        (5, 5, 2, (0, 4), (2, 5)),
        (5, 5, -1, (1, 5), (0, 3)),  # an action that takes effect one step late
        (2, 1, 0, (0, 2), (0, 1)),
    ],
)
def test_frames_and_actions_are_aligned(
    frames: int, actions: int, shift: int, shown: tuple[int, int], done: tuple[int, int]
) -> None:
    assert align("x", frames, actions, shift) == (slice(*shown), slice(*done))


@pytest.mark.parametrize(
    ("frames", "actions", "shift", "said"),
    [
        (5, 3, 0, "5 frames and 3 actions; there must be one action per frame or one fewer"),
        (5, 6, 0, "5 frames and 6 actions"),
        (1, 1, 0, "too short: 1 frames"),
        (3, 3, 3, "too short: 3 frames and 3 actions with action_shift=3"),
    ],
)
def test_frames_and_actions_that_do_not_fit_are_refused(
    frames: int, actions: int, shift: int, said: str
) -> None:
    with pytest.raises(FormatError, match=said):
        align("episode 3 of x", frames, actions, shift)


def test_a_shift_moves_the_actions_of_a_recording(tmp_path: Path) -> None:
    """Rows that hold the action done before: with action_shift=1 it is ours again."""
    actions = np.arange(6, dtype=np.float32)[:, None]
    (tmp_path / "arm").mkdir()
    make_video(tmp_path / "arm/episode_0.mp4", 6)
    before = np.concatenate([[[np.nan]], actions[:5]])
    np.savez(tmp_path / "arm/episode_0.npz", actions=before)
    with pytest.raises(FormatError, match=r"episode_0 of .* not finite in row 0; .* action_shift=1"):
        open_reader(tmp_path / "arm").read(0)
    episode = open_reader(tmp_path / "arm", ImportOptions(action_shift=1)).read(0)
    np.testing.assert_array_equal(episode["actions"][:, 0], actions[:5])
    assert len(episode["frames"]) == 6


def make_video(path: Path, frames: int, fps: float = 10.0) -> None:
    encode_video(path, [make_recording(0, frames - 1)["frames"]], fps)


# Details


def test_pictures_are_cut_and_resized(tmp_path: Path) -> None:
    episode = make_recording(0)
    small = resized(episode, 16)
    assert small["frames"].shape == (6, 3, 16, 16) and small["actions"] is episode["actions"]
    wide = np.zeros((1, 3, 32, 48), np.uint8)
    wide[..., :8], wide[..., 40:] = 255, 255  # outside the square in the middle
    assert resized({"frames": wide}, 32)["frames"].max() == 0
    make_store(tmp_path / "data", 2)
    done = carry(tmp_path / "data", tmp_path / "small", size=16)
    assert (done.episodes, done.frames) == (2, 4 + 6)
    assert EpisodeStore(tmp_path / "small")[1]["frames"].shape == (6, 3, 16, 16)


def test_short_and_damaged_episodes_are_errors_or_left_out(tmp_path: Path) -> None:
    store = make_store(tmp_path / "data", 4)
    path = tmp_path / "data" / store.entries[2]["file"]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FormatError, match=r"episode 0 of .* has 3 steps, at least 5 are needed"):
        carry(tmp_path / "data", tmp_path / "a", min_steps=5)
    with pytest.raises(FormatError, match=r"episode 2 of .* is cut short"):
        carry(tmp_path / "data", tmp_path / "b")
    done = carry(tmp_path / "data", tmp_path / "c", min_steps=5, skip_bad=True)
    assert done.episodes == 2 and len(done.skipped) == 2
    assert [entry["index"] for entry in EpisodeStore(tmp_path / "c").entries] == [1, 3]
    carry(tmp_path / "c", tmp_path / "lr", "lerobot")  # where numbers have no gaps
    assert len(open_reader(tmp_path / "lr")) == 2
    carry(tmp_path / "lr", tmp_path / "back")
    assert [entry["index"] for entry in EpisodeStore(tmp_path / "back").entries] == [1, 3]


def test_pictures_of_different_sizes_are_an_error(tmp_path: Path) -> None:
    for name, crop in (("episode_0", 48), ("episode_1", 16)):
        (tmp_path / "arm").mkdir(exist_ok=True)
        encode_video(tmp_path / f"arm/{name}.mp4", [make_recording(0, 5, crop)["frames"]], 10)
        np.savez(tmp_path / f"arm/{name}.npz", actions=np.arange(12.0).reshape(6, 2))
    with pytest.raises(
        FormatError, match=r"frames of episode 1 of .* are \(3, 16, 16\), those before it \(3, 32, 48\)"
    ):
        carry(tmp_path / "arm", tmp_path / "a")
    assert carry(tmp_path / "arm", tmp_path / "b", size=32).episodes == 2


def test_numbers_that_are_none_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "arm").mkdir()
    make_video(tmp_path / "arm/episode_0.mp4", 6)
    proprio = np.zeros((6, 2))
    proprio[4] = np.nan
    np.savez(tmp_path / "arm/episode_0.npz", actions=np.arange(6.0), proprio=proprio)
    with pytest.raises(FormatError, match=r"proprio of episode episode_0 of .* is not finite in row 4"):
        carry(tmp_path / "arm", tmp_path / "a")


@pytest.mark.parametrize("name", ["lerobot", "robomimic", "columns", "minari"])
def test_a_conversion_that_is_killed_leaves_nothing_that_looks_whole(name: str, tmp_path: Path) -> None:
    """kill -9 in the middle, twice; what the third call makes is what one would have made."""
    script = """
import sys
from worldmodel.data.formats import lerobot_writer, open_reader, open_writer
from worldmodel.data.formats.convert import convert
lerobot_writer.BUFFER = 30_000
source = open_reader(sys.argv[1])
for position in convert(source, open_writer(sys.argv[2], source.meta, sys.argv[3])):
    print(position, flush=True)
"""
    make_store(tmp_path / "data", 8)
    target = tmp_path / FOREIGN[name]
    for upto in (2, 5):
        command = [sys.executable, "-c", script, str(tmp_path / "data"), str(target), name]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert process.stdout is not None
        for _ in range(upto):
            process.stdout.readline()
        process.kill()
        process.wait()
        process.stdout.close()
        if name == "lerobot":
            reader = open_reader(target)
            assert all(
                len(reader.read(position)["frames"]) == 4 + 2 * position for position in range(len(reader))
            )
        elif name != "minari":
            assert not target.exists() or len(open_reader(target)) == 8
    carry(tmp_path / "data", target, name)
    carry(target, tmp_path / "back")
    back, store = EpisodeStore(tmp_path / "back"), EpisodeStore(tmp_path / "data")
    assert len(back) == 8 and back.meta == store.meta
    for position in range(8):
        for key in ("actions", "proprio", "states"):
            np.testing.assert_array_equal(back[position][key][:], store[position][key][:])


def test_what_is_not_a_recording_says_what_could_be_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no dataset at"):
        detect(tmp_path / "nothing")
    with pytest.raises(ValueError, match="none of the formats that can be read .*LeRobot v3"):
        detect(tmp_path)
    (tmp_path / "x.zip").write_bytes(b"")
    with pytest.raises(ValueError, match="is a file; a dataset is a folder, or an HDF5 file"):
        detect(tmp_path / "x.zip")
    with pytest.raises(ValueError, match="format 'rlds' is unknown; choose episodes, lerobot"):
        open_reader(tmp_path, name="rlds")
    assert set(FORMATS) == {"episodes", *FOREIGN}


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("robomimic", "hdf5_items"):
        monkeypatch.delitem(sys.modules, f"worldmodel.data.formats.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ValueError, match=r"format robomimic needs h5py: pip install 'worldmodel\[hdf5\]'"):
        open_writer(tmp_path / "x.hdf5", META, "robomimic")


@pytest.mark.parametrize("name", FOREIGN)
def test_writers_say_what_they_cannot_do(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mode=overwrite is not for format"):
        open_writer(tmp_path / "x", META, name, mode="overwrite")
    with pytest.raises(ValueError, match="leave codec out|not jpeg"):
        open_writer(tmp_path / "x", META, name, codecs={"frames": "jpeg:90"})
    if name in LOSSY:
        with pytest.raises(ValueError, match="have no fps"):
            open_writer(tmp_path / "x", {**META, "fps": None}, name)
        odd = {**make_recording(0), "frames": np.zeros((6, 3, 31, 48), np.uint8)}
        with pytest.raises(FormatError, match="even sides: use size="):
            open_writer(tmp_path / "y", META, name).write(0, odd)
    assert not (tmp_path / "x").exists()
