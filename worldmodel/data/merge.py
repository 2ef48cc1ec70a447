"""Put datasets together that are parts of one: episodes move as files, and nothing is decoded or written again.

The result is byte for byte the dataset that one writer would have made. This module needs NumPy, not torch.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from worldmodel.atomic import _sync_directory, read_json, write_atomic, write_bytes
from worldmodel.data.episode_files import read_manifest, require_same_meta


def take_episodes(path: Path, parts: Iterable[Path]) -> int:
    """Move the episodes of other datasets into the one at ``path``; those whose index it has already stay.

    Killed half way, it is called again and goes on. Afterwards the manifest is in the order of the indices.

    Args:
        path: A dataset directory; it may have no episodes yet.
        parts: Dataset directories with the same metadata. One that has not begun (no meta.json) is passed over.

    Returns:
        How many episodes came.

    Raises:
        ValueError: A part has other metadata, or its manifest or an episode is damaged.
        FileNotFoundError: A part lacks a file of an episode.
    """
    meta = read_json(path / "meta.json")
    entries = {entry["index"]: entry for entry in read_manifest(path / "manifest.jsonl", repair=True)}
    before = len(entries)
    for part in parts:
        if not (part / "meta.json").is_file():
            continue
        require_same_meta(part, read_json(part / "meta.json"), meta)
        for entry in read_manifest(part / "manifest.jsonl"):
            if entry["index"] not in entries:
                _take(part, path, entry)
                entries[entry["index"]] = entry
    if len(entries) > before:
        _sync_directory(path / "episodes")  # before the manifest names what is in it
        _write_manifest(path, entries)
    return len(entries) - before


def sort_manifest(path: Path) -> None:
    """Put the manifest of a dataset in the order of the indices, if it is not."""
    entries = read_manifest(path / "manifest.jsonl")
    if any(a["index"] > b["index"] for a, b in zip(entries, entries[1:], strict=False)):
        _write_manifest(path, {entry["index"]: entry for entry in entries})


def _take(part: Path, path: Path, entry: dict[str, Any]) -> None:
    """Move an episode's files, the one that its line names last; it may have moved before a kill."""
    name = f"{entry['index']:06d}.safetensors"
    if entry["file"] != f"episodes/{name}":
        raise ValueError(
            f"{part}/manifest.jsonl names {entry['file']} for episode {entry['index']}: not {name}"
        )
    source, target = part / "episodes" / name, path / "episodes" / name
    target.parent.mkdir(exist_ok=True)
    for file in part.glob(f"episodes/{entry['index']:06d}.*.mp4"):
        _move(file, target.with_name(file.name))
    if source.is_file():
        _move(source, target)
    elif not target.is_file():
        raise FileNotFoundError(
            f"episode {entry['index']} of {part} is missing its file {entry['file']}; delete {part} and make it again"
        )
    elif hashlib.sha256(target.read_bytes()).hexdigest() != entry["sha256"]:
        raise ValueError(f"{target} is damaged; delete it and {part}, and make them again")


def _move(source: Path, target: Path) -> None:
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:  # the part lies on another disk
            raise

        def copy(temporary: Path) -> None:
            shutil.copyfile(source, temporary)

        write_atomic(target, copy)


def _write_manifest(path: Path, entries: dict[int, dict[str, Any]]) -> None:
    lines = [json.dumps(entries[index], sort_keys=True) + "\n" for index in sorted(entries)]
    write_bytes(path / "manifest.jsonl", "".join(lines).encode())
