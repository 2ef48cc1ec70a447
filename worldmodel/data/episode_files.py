"""The files of an episode store: its manifest, its metadata, an episode's file, and what may be removed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.data.episode_arrays import Stored, StoredArray, StoredVideo, read_header

RAW_VERSION = 1  # every array as it is; what earlier versions of the toolkit can read
CODEC_VERSION = 2  # some frames are encoded
#: What the arrays are: the same in all episodes of a dataset. Other metadata say where episodes come from.
DESCRIBING = (
    "format_version", "codecs", "env_id", "env_args", "fps", "frame_shape", "actions_per_step",
    "action_low", "action_high", "action_names", "action_units", "proprio_names", "proprio_units",
)  # fmt: skip
_DTYPES: dict[str, np.dtype[Any]] = {
    "U8": np.dtype("u1"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}


def check_meta(path: Path, meta: dict[str, Any]) -> None:
    """See that the metadata do not contradict themselves.

    Raises:
        ValueError: Lists of different lengths, bounds the wrong way round, or a rate that is none.
    """
    for group, width in (("action", "dimensions"), ("proprio", "numbers")):
        keys = [
            f"{group}_{part}" for part in ("low", "high", "names", "units") if meta.get(f"{group}_{part}")
        ]
        sizes = {key: len(meta[key]) for key in keys}
        if len(set(sizes.values())) > 1:
            said = ", ".join(f"{key} has {size}" for key, size in sizes.items())
            raise ValueError(f"metadata of {path} disagree on the {group}'s {width}: {said}")
    low, high = meta.get("action_low") or [], meta.get("action_high") or []
    if any(not a <= b for a, b in zip(low, high, strict=False)):
        raise ValueError(f"metadata of {path}: action_low={low} is not below action_high={high}")
    fps, per_step = meta.get("fps"), meta.get("actions_per_step", 1)
    if fps is not None and not (isinstance(fps, int | float) and 0 < fps < math.inf):
        raise ValueError(f"metadata of {path}: fps={fps!r} is not a number of frames per second")
    if not isinstance(per_step, int) or per_step < 1:
        raise ValueError(f"metadata of {path}: actions_per_step={per_step!r} must be at least 1")


def check_arrays(index: int, arrays: dict[str, np.ndarray], meta: dict[str, Any]) -> int:
    """See that an episode's arrays fit together, and to the metadata; returns its steps ``T``.

    Raises:
        ValueError: Lengths that do not fit, actions or proprioception of another width than the metadata say, or that
            are not finite.
    """
    lengths = {name: len(array) for name, array in arrays.items()}
    steps = lengths.get("actions", max(lengths.values()) - 1)
    wrong = [f"{name} has {n}" for name, n in lengths.items() if n != steps + (name != "actions")]
    if wrong or steps < 1:
        raise ValueError(
            f"episode {index} with {steps} actions needs {steps + 1} rows of all else: {', '.join(wrong)}"
        )
    actions = arrays.get("actions")
    if actions is not None:
        if actions.ndim != 3:
            raise ValueError(f"actions of episode {index} are {actions.shape}, not (T, K, A)")
        bounds = meta.get("action_low") or meta.get("action_names")
        if bounds and actions.shape[2] != len(bounds):
            raise ValueError(
                f"actions of episode {index} have {actions.shape[2]} dimensions, the metadata name {len(bounds)}"
            )
        if actions.shape[1] != meta.get("actions_per_step", actions.shape[1]):
            raise ValueError(
                f"episode {index} has {actions.shape[1]} actions per step, the metadata say {meta['actions_per_step']}"
            )
    proprio, names = arrays.get("proprio"), meta.get("proprio_names")
    if proprio is not None and (proprio.ndim != 2 or (names and proprio.shape[1] != len(names))):
        said = f", and the metadata name {len(names)} numbers" if names else ""
        raise ValueError(f"proprio of episode {index} is {proprio.shape}, not (T+1, Q){said}")
    for name in ("actions", "proprio"):
        array = arrays.get(name)
        if array is not None and not np.isfinite(array).all():
            row = int(np.argwhere(~np.isfinite(array))[0][0])
            raise ValueError(f"{name} of episode {index} are not finite (first in row {row})")
    return steps


def require_same_meta(
    path: Path, found: dict[str, Any], wanted: dict[str, Any], keys: set[str] | None = None
) -> None:
    """See that a dataset was made with the metadata that are asked for.

    Raises:
        ValueError: It was not; the message names the first key.
    """
    for key in sorted(found.keys() | wanted.keys() if keys is None else keys):
        if found.get(key) != wanted.get(key):
            raise ValueError(
                f"{path} was made with {key}={found.get(key)!r}, now {key}={wanted.get(key)!r} is asked for; "
                "choose another directory"
            )


def read_manifest(path: Path, repair: bool = False) -> list[dict[str, Any]]:
    """The manifest's whole lines. A last line without its newline is an interrupted write: ignored, or cut off.

    Raises:
        ValueError: A line is not one of a manifest, or an episode is named twice.
    """
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if repair and len(whole) < len(content):
        with open(path, "r+b") as file:
            file.truncate(len(whole))
    entries: list[dict[str, Any]] = []
    seen: set[int] = set()
    try:
        for number, line in enumerate(whole.splitlines(), 1):
            entry = json.loads(line)
            types = {"index": int, "file": str, "steps": int, "sha256": str}
            if not isinstance(entry, dict) or not all(isinstance(entry.get(k), t) for k, t in types.items()):
                raise ValueError(f"line {number} is not an episode's")
            if entry["index"] in seen:
                raise ValueError(f"line {number} names episode {entry['index']} again")
            seen.add(entry["index"])
            entries.append(entry)
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); collect the data again") from error
    return entries


def stored_arrays(root: Path, entry: dict[str, Any]) -> dict[str, Stored]:
    """The arrays of the episode that a line of the manifest names; only the file's header is read.

    Raises:
        FileNotFoundError: The episode's file, or its video, is missing.
        ValueError: The file is damaged, or lies outside the dataset.
    """
    path = (root / entry["file"]).resolve()
    if not path.is_relative_to(root.resolve()):
        raise ValueError(f"{root}/manifest.jsonl names {entry['file']}, which lies outside the dataset")
    try:
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if not 0 < size < 2**20:
                raise ValueError("no header")
            header = json.loads(file.read(size))
        metadata = header.pop("__metadata__", {})
        arrays = {
            name: StoredArray(
                path, 8 + size + spec["data_offsets"][0], _DTYPES[spec["dtype"]], tuple(spec["shape"])
            )
            for name, spec in header.items()
        }
        found = read_header(path, arrays, metadata)
        missing = [array.path.name for array in found.values() if not array.path.is_file()]
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"episode {entry['index']} of {root} is missing its file {entry['file']}"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"episode file {path} is damaged ({error}); delete the dataset and collect it again"
        ) from error
    if missing:
        raise FileNotFoundError(f"episode {entry['index']} of {root} is missing its file {missing[0]}")
    return found


def files_of(stored: dict[str, Stored]) -> dict[Path, str]:
    """The videos of an episode, each with the hash that it must have."""
    return {array.path: array.sha256 for array in stored.values() if isinstance(array, StoredVideo)}


def remove_dataset(path: Path) -> None:
    """Remove what makes a directory a dataset, and nothing else.

    The manifest goes first: killed in between, what is left is an empty dataset.

    Raises:
        FileExistsError: The directory holds something, but not a dataset.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    try:
        version = json.loads((path / "meta.json").read_text()).get("format_version")
    except (OSError, ValueError, AttributeError):
        version = None
    if version not in (RAW_VERSION, CODEC_VERSION):
        raise FileExistsError(
            f"{path} is not a dataset (no meta.json of one), so it is not overwritten; choose another path"
        )
    (path / "manifest.jsonl").unlink(missing_ok=True)
    for file in [*(path / "episodes").glob("*.safetensors"), *(path / "episodes").glob("*.mp4")]:
        file.unlink()
    remove_temporary(path)
    (path / "meta.json").unlink()


def remove_temporary(path: Path) -> None:
    """Remove the temporary files that a killed writer left in a dataset directory; those of others stay."""
    for file in [*path.glob(".meta.json.*.tmp"), *(path / "episodes").glob(".*.tmp")]:
        file.unlink(missing_ok=True)
