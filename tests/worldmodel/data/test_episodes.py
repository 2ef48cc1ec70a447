"""The episode store: round trips, interrupted writers, damaged files."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worldmodel.data.episodes import EpisodeStore, EpisodeWriter

Make = Callable[..., dict[str, np.ndarray]]


def test_what_is_written_is_read(store: EpisodeStore, make_episode: Make, meta: dict[str, Any]) -> None:
    assert len(store) == 12
    assert store.meta["env_id"] == meta["env_id"]
    for position in (0, 7, 11):
        for name, array in make_episode(position).items():
            stored = store[position][name]
            assert stored.shape == array.shape
            np.testing.assert_array_equal(stored[:], array)
            np.testing.assert_array_equal(stored[2:9:3], array[2:9:3])
            np.testing.assert_array_equal(stored[5:5], array[5:5])
    with pytest.raises(TypeError, match="read by slices"):
        store[0]["frames"][3]  # type: ignore[index]


def test_more_episodes_than_file_descriptors_can_be_read(tmp_path: Path, make_episode: Make) -> None:
    """Maps kept open for each episode ran into the limit of 1,024 descriptors with a thousand episodes."""
    resource = pytest.importorskip("resource")
    writer = EpisodeWriter(tmp_path, {})
    for index in range(40):
        writer.write(index, make_episode(index, steps=2, size=8))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 64
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 10, limits[1]))
    try:
        assert len(EpisodeStore(tmp_path).gather("frames")) == 120
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("cut", [1, 5, 40, 120])
def test_a_manifest_cut_at_any_byte_loses_the_last_line_only(
    store: EpisodeStore, make_episode: Make, meta: dict[str, Any], cut: int
) -> None:
    manifest = store.path / "manifest.jsonl"
    whole = manifest.read_bytes()
    manifest.write_bytes(whole[:-cut])
    assert len(EpisodeStore(store.path)) == 11
    writer = EpisodeWriter(store.path, meta)
    assert 11 not in writer.indices
    writer.write(11, make_episode(11))
    assert manifest.read_bytes() == whole


def test_a_writer_killed_while_writing_leaves_a_readable_dataset(tmp_path: Path) -> None:
    script = """
import sys, os, numpy as np
from worldmodel.data.episodes import EpisodeWriter
writer = EpisodeWriter(sys.argv[1], {})
for index in range(10**6):
    frames = np.full((4, 3, 64, 64), index % 256, np.uint8)
    writer.write(index, {"frames": frames, "actions": np.zeros((3, 1, 2), np.float32)})
    if index == 3:
        print("go", flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.wait()
    store = EpisodeStore(tmp_path)
    assert len(store) >= 4
    for position in range(len(store)):
        assert (store[position]["frames"][:] == position % 256).all()
    EpisodeWriter(tmp_path, {}).write(
        len(store), {"frames": np.zeros((2, 3, 8, 8), np.uint8), "actions": np.zeros((1, 1, 2), np.float32)}
    )
    assert len(EpisodeStore(tmp_path)) == len(store) + 1


def test_a_full_disk_is_one_clear_error_and_harms_nothing(
    store: EpisodeStore, make_episode: Make, meta: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = EpisodeWriter(store.path, meta)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*000012.safetensors"):
        writer.write(12, make_episode(12))
    monkeypatch.undo()
    assert not list(store.path.rglob("*.tmp"))
    assert len(EpisodeStore(store.path)) == 12


def test_other_metadata_a_taken_index_and_torn_episodes_are_refused(
    store: EpisodeStore, make_episode: Make, meta: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="env_id='fake', now env_id='other'"):
        EpisodeWriter(store.path, {**meta, "env_id": "other"})
    with pytest.raises(FileExistsError, match="already holds a dataset"):
        EpisodeWriter(store.path, meta, mode="create")
    writer = EpisodeWriter(store.path, meta)
    with pytest.raises(ValueError, match="already has an episode 3"):
        writer.write(3, make_episode(3))
    episode = make_episode(20)
    episode["frames"] = episode["frames"][:-1]
    with pytest.raises(
        ValueError, match="episode 20 with 12 actions needs 13 rows of all else: frames has 12"
    ):
        writer.write(20, episode)


def test_damage_is_reported_with_the_file(store: EpisodeStore) -> None:
    (store.path / "episodes/000002.safetensors").write_bytes(b"\0" * 100)
    (store.path / "episodes/000003.safetensors").unlink()
    whole = (store.path / "episodes/000004.safetensors").read_bytes()
    (store.path / "episodes/000004.safetensors").write_bytes(whole[:-10])
    reader = EpisodeStore(store.path)
    with pytest.raises(ValueError, match=r"000002.safetensors is damaged"):
        reader[2]
    with pytest.raises(FileNotFoundError, match=r"episode 3 of .* is missing its file"):
        reader[3]
    with pytest.raises(ValueError, match=r"000004.safetensors is cut short"):
        [array[:] for array in reader[4].values()]


def test_a_manifest_cannot_name_a_file_outside_its_dataset(store: EpisodeStore, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    entry = {**store.entries[0], "file": "../secret"}
    (store.path / "manifest.jsonl").write_text(json.dumps(entry) + "\n")
    with pytest.raises(ValueError, match="lies outside the dataset"):
        EpisodeStore(store.path)[0]


def test_no_dataset_no_episode_and_another_format_are_clear_errors(
    tmp_path: Path, store: EpisodeStore
) -> None:
    with pytest.raises(FileNotFoundError, match="no dataset at .*worldmodel collect"):
        EpisodeStore(tmp_path / "nowhere")
    EpisodeWriter(tmp_path / "empty", {})
    with pytest.raises(ValueError, match="no finished episode"):
        EpisodeStore(tmp_path / "empty")
    meta = json.loads((store.path / "meta.json").read_text())
    (store.path / "meta.json").write_text(json.dumps({**meta, "format_version": 99}))
    with pytest.raises(ValueError, match="format_version 99"):
        EpisodeStore(store.path)


def test_the_hash_names_the_content(
    store: EpisodeStore, tmp_path: Path, make_episode: Make, meta: dict[str, Any]
) -> None:
    copy = EpisodeWriter(tmp_path / "copy", meta)
    for index in range(12):
        copy.write(index, make_episode(index))
    assert EpisodeStore(tmp_path / "copy").hash == store.hash
    copy.write(12, make_episode(12))
    assert EpisodeStore(tmp_path / "copy").hash != store.hash
