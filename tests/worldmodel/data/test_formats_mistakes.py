"""Recordings that are not as they should be: one message that names the file, the episode and the key."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.worldmodel.data.recordings import make_recording, make_store
from worldmodel.data.episode_codecs import encode_video
from worldmodel.data.formats import FormatError, ImportOptions, open_reader, open_writer
from worldmodel.data.formats.convert import convert

FILES = {"lerobot": "lr", "minari": "minari", "robomimic": "demos.hdf5", "columns": "columns.h5"}


def make(tmp_path: Path, name: str) -> Path:
    make_store(tmp_path / "data", 3)
    reader = open_reader(tmp_path / "data")
    for _ in convert(reader, open_writer(tmp_path / FILES[name], reader.meta, name)):
        pass
    return tmp_path / FILES[name]


def read_all(path: Path, options: ImportOptions | None = None) -> None:
    reader = open_reader(path, options)
    for position in range(len(reader)):
        reader.read(position)


# LeRobot


def edit_info(path: Path, **changes: Any) -> None:
    file = path / "meta/info.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def edit_table(path: Path, edit: Callable[[pa.Table], pa.Table], part: str = "data") -> None:
    file = path / part / "chunk-000/file-000.parquet"
    pq.write_table(edit(pq.read_table(file)), file)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda p: edit_info(p, codebase_version="v2.1"), r"info.json has codebase_version v2.1; v3.0 can be read"),
        (lambda p: edit_info(p, fps=None), "info.json has no 'fps'"),
        (lambda p: edit_info(p, fps=30), r"episode 0 of .*: timestamps 0 and 1 are 0.15 s apart, .* says fps 30"),
        (lambda p: edit_table(p, lambda t: t.drop_columns("action")), r"file-000.parquet has no column 'action'; there are"),  # noqa: E501
        (lambda p: edit_table(p, lambda t: t.slice(0, 8)), r"episode 1 of .* should have 6 rows, .* has 4 of it"),
        (lambda p: (p / "data/chunk-000/file-000.parquet").unlink(), r"episode 0 of .* is missing its file"),
        (lambda p: (p / "data/chunk-000/file-000.parquet").write_bytes(b"PAR1 no"), "file-000.parquet cannot be read as parquet"),  # noqa: E501
        (lambda p: (p / "videos/observation.images.frames/chunk-000/file-000.mp4").unlink(), "episode 0 of .*: .*file-000.mp4"),  # noqa: E501
        (lambda p: edit_info(p, data_path="../../data/chunk-{chunk_index:03d}/x.parquet"), "lies outside of it"),
        (lambda p: edit_info(p, data_path="{chunk_index.__class__}/x"), "is missing its file"),
    ],
)  # fmt: skip
def test_a_lerobot_dataset(damage: Callable[[Path], None], said: str, tmp_path: Path) -> None:
    path = make(tmp_path, "lerobot")
    damage(path)
    with pytest.raises(FormatError, match=said):
        read_all(path)


def test_a_lerobot_dataset_whose_actions_have_another_width(tmp_path: Path) -> None:
    path = make(tmp_path, "lerobot")
    short = [[0.0, 1.0]] * pq.read_table(path / "data/chunk-000/file-000.parquet").num_rows
    edit_table(path, lambda t: t.set_column(t.schema.get_field_index("action"), "action", pa.array(short)))
    with pytest.raises(
        FormatError, match=r"column 'action' of episode 0 of .* does not have 6 numbers in each row"
    ):
        read_all(path)


def test_a_lerobot_video_of_another_rate_does_not_fit_its_table(tmp_path: Path) -> None:
    path = make(tmp_path, "lerobot")
    file = path / "videos/observation.images.frames/chunk-000/file-000.mp4"
    encode_video(file, [make_recording(0, 17)["frames"]], 30.0)
    with pytest.raises(
        FormatError,
        match=r"episode 0 of .*: its row 1 is shown at 0.15.* s, where .*file-000.mp4 \(30 frames",
    ):
        read_all(path)


def test_a_camera_must_be_chosen_and_be_there(tmp_path: Path) -> None:
    path = make(tmp_path, "lerobot")
    info = json.loads((path / "meta/info.json").read_text())
    info["features"]["observation.images.wrist"] = info["features"]["observation.images.frames"]
    edit_info(path, features=info["features"])
    with pytest.raises(
        FormatError, match=r"has 2 cameras \(observation.images.frames, .*wrist\); choose one with camera=KEY"
    ):
        open_reader(path)
    assert open_reader(path, ImportOptions(camera="frames")).read(0)["frames"].shape == (4, 3, 32, 48)
    with pytest.raises(FormatError, match="has no camera 'front'; there are"):
        open_reader(path, ImportOptions(camera="front"))


def test_lerobot_pictures_may_lie_in_the_table(tmp_path: Path) -> None:
    path, key = make(tmp_path, "lerobot"), "observation.images.frames"
    cells = []
    for index in range(3):
        for frame in make_recording(index, 3 + 2 * index)["frames"]:
            memory = io.BytesIO()
            Image.fromarray(np.moveaxis(frame, 0, -1)).save(memory, "PNG")
            cells.append({"bytes": memory.getvalue(), "path": "frame.png"})
    edit_table(path, lambda t: t.append_column(key, pa.array(cells)))
    features = json.loads((path / "meta/info.json").read_text())["features"]
    edit_info(path, features={**features, key: {**features[key], "dtype": "image"}}, video_path=None)
    np.testing.assert_array_equal(open_reader(path).read(2)["frames"], make_recording(2, 7)["frames"])
    cells[5]["bytes"] = b"no picture"
    edit_table(path, lambda t: t.drop_columns(key).append_column(key, pa.array(cells)))
    with pytest.raises(FormatError, match="picture 1 of episode 1 of .* cannot be read"):
        open_reader(path).read(1)


# HDF5


def edit(path: Path, change: Callable[[h5py.File], None]) -> None:
    with h5py.File(path / "data/main_data.hdf5" if path.is_dir() else path, "r+") as file:
        change(file)


def replace(key: str, array: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[key]
        if array is not None:
            file[key] = array

    return change


DEMO, EPISODE = "data/demo_1", "episode_1"


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("robomimic", replace(f"{DEMO}/actions", None), "demo_1 of .* has no 'actions'; there are: dones, obs"),
        ("robomimic", replace(f"{DEMO}/actions", np.zeros((6, 4))), "actions of demo_1 of .* have 4 dimensions, those of the dataset 6"),  # noqa: E501
        ("robomimic", replace(f"{DEMO}/actions", np.zeros((3, 6))), "demo_1 of .* has 6 frames and 3 actions"),
        ("robomimic", replace(f"{DEMO}/obs/frames", np.zeros((6, 32, 48, 3))), r"frames' of demo_1 of .* is \(6, 32, 48, 3\) float64, not pictures"),  # noqa: E501
        ("robomimic", replace(f"{DEMO}/obs/frames", np.zeros((1, 32, 48, 3), np.uint8)), "demo_1 of .* has 1 frames"),
        ("minari", replace(f"{EPISODE}/actions", None), "episode_1 of .*main_data.hdf5 has no 'actions'"),
        ("minari", replace(f"{EPISODE}/observations/proprio", np.zeros((2, 2))), "episode_1 of .* has 6 frames and 2 rows of proprio"),  # noqa: E501
        ("columns", replace("ep_len", np.array([4, 6, 9])), "episode 2 of .* ends at row 19, there are 18"),
        ("columns", replace("action", None), "has no action column"),
        ("columns", replace("pixels", None), r"has 0 cameras \(none\); name it with camera=KEY"),
    ],
)  # fmt: skip
def test_an_hdf5_file(name: str, change: Callable[[h5py.File], None], said: str, tmp_path: Path) -> None:
    path = make(tmp_path, name)
    edit(path, change)
    with pytest.raises(FormatError, match=said):
        read_all(path, None if name != "columns" else ImportOptions())


def test_objects_in_hdf5_are_not_read(tmp_path: Path) -> None:
    path = make(tmp_path, "robomimic")
    kind = h5py.vlen_dtype(np.uint8)

    def change(file: h5py.File) -> None:
        del file[f"{DEMO}/actions"]
        node = file.create_dataset(f"{DEMO}/actions", (6,), dtype=kind)
        node[0] = np.frombuffer(pickle.dumps({}), np.uint8)

    edit(path, change)
    with pytest.raises(FormatError, match=r"'actions' of demo_1 of .* is object, not numbers"):
        read_all(path)


@pytest.mark.parametrize("kind", ["external link", "external storage", "virtual"])
def test_other_files_are_not_reached_through_hdf5(kind: str, tmp_path: Path) -> None:
    path = make(tmp_path, "robomimic")
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["actions"] = np.zeros((6, 6))

    def change(file: h5py.File) -> None:
        demo = file[DEMO]
        del demo["actions"]
        if kind == "external link":
            demo["actions"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "actions")
        elif kind == "external storage":
            demo.create_dataset("actions", (6, 6), "f4", external=[(str(tmp_path / "secret.h5"), 0, 144)])
        else:
            layout = h5py.VirtualLayout((6, 6), "f8")
            layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "actions", (6, 6))
            demo.create_virtual_dataset("actions", layout)

    edit(path, change)
    with pytest.raises(FormatError, match=r"'actions' of demo_1 of .*(another file|other files)"):
        read_all(path)


@pytest.mark.parametrize("name", ["robomimic", "minari", "columns"])
def test_an_hdf5_file_that_is_cut_short(name: str, tmp_path: Path) -> None:
    path = make(tmp_path, name)
    file = path / "data/main_data.hdf5" if path.is_dir() else path
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(FormatError, match=f"{file.name} cannot be read as HDF5"):
        read_all(path)


# As others write them


def test_robomimic_files_end_with_the_last_of_next_obs(tmp_path: Path) -> None:
    episode = make_recording(0, 6)
    pictures = np.moveaxis(episode["frames"], 1, -1)
    with h5py.File(tmp_path / "lift.hdf5", "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "env_kwargs": {"control_freq": 20}})
        for name in ("demo_10", "demo_2"):
            demo = data.create_group(name)
            demo["actions"] = episode["actions"][:, 0]
            demo["obs/agentview_image"], demo["obs/pos"] = pictures[:-1], episode["proprio"][:-1]
            demo["obs/gripper"] = np.arange(6)
            if name == "demo_2":
                demo["next_obs/agentview_image"], demo["next_obs/pos"] = pictures[1:], episode["proprio"][1:]
                demo["next_obs/gripper"] = np.arange(1, 7)
    reader = open_reader(tmp_path / "lift.hdf5", ImportOptions(proprio=("gripper", "pos")))
    assert (
        reader.meta["env_id"] == "Lift" and reader.meta["fps"] == 20 and len(reader.meta["action_low"]) == 3
    )
    full, cut = reader.read(0), reader.read(1)  # demo_2 comes before demo_10
    assert (
        full["frames"].shape[0] == 7
        and full["actions"].shape == (6, 1, 3)
        and full["proprio"].shape == (7, 3)
    )
    assert full["proprio"][-1, 0] == 6 and full["proprio"].dtype == np.float32
    np.testing.assert_array_equal(full["frames"], episode["frames"])
    assert cut["frames"].shape[0] == 6 and cut["actions"].shape == (5, 1, 3)


def test_minari_reads_what_we_write_and_we_read_what_minari_writes(tmp_path: Path) -> None:
    minari = pytest.importorskip("minari")
    import gymnasium as gym
    from minari.data_collector.episode_buffer import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    theirs = minari.MinariDataset(str(make(tmp_path, "minari") / "data"))
    assert theirs.total_episodes == 3 and theirs.action_space.shape == (6,)
    for index, episode in enumerate(theirs.iterate_episodes()):
        np.testing.assert_array_equal(
            np.moveaxis(episode.observations["frames"], -1, 1), make_recording(index, 3 + 2 * index)["frames"]
        )
        assert episode.truncations[-1] and len(episode.actions) == 3 + 2 * index

    recording = make_recording(0, 5)
    pictures = np.moveaxis(recording["frames"], 1, -1)
    (tmp_path / "real/data").mkdir(parents=True)
    storage = MinariStorage.new(
        tmp_path / "real/data",
        observation_space=gym.spaces.Box(0, 255, (32, 48, 3), np.uint8),
        action_space=gym.spaces.Box(-2, 2, (3,), np.float32),
    )
    storage.update_metadata({"dataset_id": "arm/test-v0", "minari_version": minari.__version__})
    buffer = EpisodeBuffer(
        id=0, observations=pictures, actions=recording["actions"][:, 0], rewards=[0.0] * 5,
        terminations=[False] * 5, truncations=[False] * 4 + [True],
    )  # fmt: skip
    storage.update_episodes([buffer])
    reader = open_reader(tmp_path / "real")
    assert reader.meta["env_id"] == "arm/test-v0" and reader.meta["action_low"] == [-2.0] * 3
    episode = reader.read(0)
    np.testing.assert_array_equal(episode["actions"], recording["actions"][:, :1])
    assert np.abs(episode["frames"].astype(int) - recording["frames"]).mean() < 3  # Minari stores JPEG


# Folders


def make_folder(path: Path, header: str = "action_x,action_y", rows: int = 6, fps: float = 10.0) -> Path:
    path.mkdir(exist_ok=True)
    encode_video(path / "episode_3.mp4", [make_recording(0, 5)["frames"]], fps)
    lines = [header, *(",".join(str(t + i / 10) for i in range(header.count(",") + 1)) for t in range(rows))]
    (path / "episode_3.csv").write_text("\n".join(lines) + "\n")
    return path


def test_a_folder_of_videos_and_tables(tmp_path: Path) -> None:
    header = "timestamp,action_x,action_y,proprio_0"
    (make_folder(tmp_path / "arm", header) / "dataset.json").write_text(
        json.dumps({"action_names": ["x", "y"], "fps": 10})
    )
    reader = open_reader(tmp_path / "arm")
    assert (
        reader.meta["env_id"] == "arm"
        and reader.meta["fps"] == 10
        and reader.meta["action_names"] == ["x", "y"]
    )
    assert reader.meta["action_low"] == pytest.approx([0.1, 0.2]) and reader.meta[
        "action_high"
    ] == pytest.approx([5.1, 5.2])
    episode = reader.read(0)
    np.testing.assert_allclose(episode["actions"][:, 0, 0], np.arange(5) + 0.1, rtol=1e-6)
    assert episode["proprio"].shape == (6, 1) and episode["timestamps"].dtype == np.float64


@pytest.mark.parametrize(
    ("options", "change", "said"),
    [
        ({"header": "t,dx,dy"}, {}, "episode_3.csv has no column that begins with 'action', only t, dx, dy; name it with action_key="),  # noqa: E501
        ({"rows": 3}, {}, "episode episode_3 of .* has 6 frames and 3 actions"),
        ({}, {"dataset.json": '{"fps": 30}'}, "episode_3 of .* has 10 frames per second, the dataset 30"),
        ({}, {"dataset.json": "[1]"}, "dataset.json is not a JSON object"),
        ({}, {"episode_3.csv": "action\n1\nx\n"}, "episode_3.csv, line 3: action is 'x', not a number"),
        ({}, {"episode_3.csv": ""}, "no column .* only an empty header"),
        ({}, {"episode_3.csv": None}, "episode_3.mp4 has neither episode_3.csv nor episode_3.npz"),
        ({}, {"episode_3.mp4": "no video"}, "episode_3.mp4 .*cannot be read as a video"),
        ({}, {"episode_3.npz": "no npz"}, "episode_3.npz cannot be read as npz"),
    ],
)  # fmt: skip
def test_a_folder(options: dict[str, Any], change: dict[str, str | None], said: str, tmp_path: Path) -> None:
    path = make_folder(tmp_path / "arm", **options)
    for name, text in change.items():
        (path / name).unlink(missing_ok=True)
        if text is not None:
            (path / name).write_text(text)
    with pytest.raises((FormatError), match=said):
        read_all(path)


def test_pickles_in_npz_are_not_opened(tmp_path: Path) -> None:
    path = make_folder(tmp_path / "arm")
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (marker,))

    np.savez(path / "episode_3.npz", actions=np.array([Evil()], dtype=object))
    with pytest.raises(FormatError, match=r"episode_3.npz cannot be read as npz \(it holds Python objects\)"):
        read_all(path)
    assert not marker.exists()
