from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worldmodel.data.episodes import EpisodeStore, EpisodeWriter
from worldmodel.data.merge import sort_manifest, take_episodes

Make = Callable[..., dict[str, np.ndarray]]


def write(path: Path, meta: dict[str, Any], make_episode: Make, indices: list[int]) -> Path:
    writer = EpisodeWriter(path, meta)
    for index in indices:
        writer.write(index, make_episode(index, steps=3))
    return path


@pytest.fixture
def whole(tmp_path: Path, meta: dict[str, Any], make_episode: Make) -> EpisodeStore:
    return EpisodeStore(write(tmp_path / "whole", meta, make_episode, [0, 1, 2, 3, 4]))


def test_parts_become_the_whole(
    tmp_path: Path, meta: dict[str, Any], make_episode: Make, whole: EpisodeStore
) -> None:
    target = write(tmp_path / "a", meta, make_episode, [3])
    parts = [write(tmp_path / name, meta, make_episode, list(which)) for name, which in
             {"b": [4, 1], "c": [1, 0, 2], "empty": []}.items()]  # fmt: skip
    assert take_episodes(target, [*parts, tmp_path / "not there"]) == 4
    assert EpisodeStore(target).hash == whole.hash
    assert (target / "manifest.jsonl").read_bytes() == (whole.path / "manifest.jsonl").read_bytes()
    assert take_episodes(target, parts) == 0


def test_a_part_on_another_disk_is_copied(
    tmp_path: Path,
    meta: dict[str, Any],
    make_episode: Make,
    whole: EpisodeStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    part, replace = write(tmp_path / "b", meta, make_episode, [0, 1, 2, 3, 4]), os.replace

    def across(source: Any, target: Any) -> None:
        if Path(source).parent != Path(target).parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        replace(source, target)

    monkeypatch.setattr(os, "replace", across)
    target = write(tmp_path / "a", meta, make_episode, [])
    take_episodes(target, [part])
    assert EpisodeStore(target).hash == whole.hash
    assert np.array_equal(EpisodeStore(target)[4]["frames"][:], whole[4]["frames"][:])


def test_a_manifest_is_put_in_order(
    tmp_path: Path, meta: dict[str, Any], make_episode: Make, whole: EpisodeStore
) -> None:
    path = write(tmp_path / "a", meta, make_episode, [2, 0, 1, 4, 3])
    assert EpisodeStore(path).hash != whole.hash
    sort_manifest(path)
    assert (path / "manifest.jsonl").read_bytes() == (whole.path / "manifest.jsonl").read_bytes()
    before = (path / "manifest.jsonl").stat().st_mtime_ns
    sort_manifest(path)
    assert (path / "manifest.jsonl").stat().st_mtime_ns == before


def test_what_does_not_belong_is_refused(tmp_path: Path, meta: dict[str, Any], make_episode: Make) -> None:
    target = write(tmp_path / "a", meta, make_episode, [0])
    other = write(tmp_path / "b", {**meta, "seed": 7}, make_episode, [1])
    with pytest.raises(ValueError, match="b was made with seed=7, now seed=None"):
        take_episodes(target, [other])
    part = write(tmp_path / "c", meta, make_episode, [1])
    (part / "episodes/000001.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="episode 1 of .*c is missing its file"):
        take_episodes(target, [part])
    (target / "episodes/000001.safetensors").write_bytes(b"of another dataset")
    with pytest.raises(ValueError, match=r"000001.safetensors is damaged"):
        take_episodes(target, [part])
    manifest = part / "manifest.jsonl"
    manifest.write_text(manifest.read_text().replace("episodes/000001", "../a/episodes/000000"))
    with pytest.raises(ValueError, match="for episode 1: not 000001.safetensors"):
        take_episodes(target, [part])
    assert len(EpisodeStore(target)) == 1
