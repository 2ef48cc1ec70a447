"""Recordings in other formats than our own, behind one registry: detected from the path, read, written."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldmodel.data.formats.base import FormatError, ImportOptions, Reader, Writer

__all__ = ["FORMATS", "Format", "FormatError", "ImportOptions", "detect", "open_reader", "open_writer"]


@dataclass(frozen=True)
class Format:
    """A format: its module, with ``detect``, ``open_reader`` and ``open_writer``, and the library that it needs."""

    module: str
    about: str
    library: str = ""
    extra: str = ""


#: By name, in the order in which they are tried on a path.
FORMATS: Mapping[str, Format] = {
    "episodes": Format("own", "the toolkit's own store"),
    "lerobot": Format("lerobot", "LeRobot v3: parquet and mp4", "pyarrow", "lerobot"),
    "minari": Format("minari", "Minari, stored as HDF5", "h5py", "hdf5"),
    "robomimic": Format("robomimic", "HDF5 with data/demo_0/obs/...", "h5py", "hdf5"),
    "columns": Format("columns", "HDF5 columns with ep_len and ep_offset", "h5py", "hdf5"),
    "folder": Format("folder", "episode_*.mp4 with a .csv or .npz of actions beside each"),
}


def _module(name: str) -> Any:
    if name not in FORMATS:
        raise ValueError(f"format {name!r} is unknown; choose {', '.join(FORMATS)}")
    entry = FORMATS[name]
    try:
        return importlib.import_module(f"{__name__}.{entry.module}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != entry.library:
            raise
        raise ValueError(
            f"format {name} needs {entry.library}: pip install 'worldmodel[{entry.extra}]'"
        ) from error


def detect(path: str | Path) -> str:
    """The name of a recording's format.

    Raises:
        FileNotFoundError: There is nothing at ``path``.
        ValueError: It is none of the formats, or the library to look into it is missing.
    """
    place = Path(path).expanduser()
    if not place.exists():
        raise FileNotFoundError(f"no dataset at {place}")
    if place.is_file():
        if place.suffix not in (".h5", ".hdf5"):
            raise ValueError(f"{place} is a file; a dataset is a folder, or an HDF5 file (.h5, .hdf5)")
        found = [name for name in ("robomimic", "columns") if _module(name).detect(place)]
    elif (place / "meta.json").is_file():
        found = ["episodes"]
    elif (place / "meta" / "info.json").is_file():
        found = ["lerobot"]
    elif any((place / part / "main_data.hdf5").is_file() for part in ("data", ".")):
        found = ["minari"]
    else:
        found = ["folder"] if any(place.glob("episode_*.mp4")) else []
    if not found:
        about = "; ".join(f"{name}: {entry.about}" for name, entry in FORMATS.items())
        raise ValueError(f"{place} is none of the formats that can be read ({about})")
    return found[0]


def open_reader(path: str | Path, options: ImportOptions | None = None, name: str = "") -> Reader:
    """Open a recording.

    Args:
        path: The folder or file.
        options: What it does not say by itself.
        name: Its format; by default detected.

    Raises:
        FormatError, ValueError, OSError: It cannot be read; the message names what is missing.
    """
    reader: Reader = _module(name or detect(path)).open_reader(
        Path(path).expanduser(), options or ImportOptions()
    )
    return reader


def open_writer(
    path: str | Path,
    meta: dict[str, Any],
    name: str = "episodes",
    mode: str = "resume",
    codecs: Mapping[str, str] | None = None,
) -> Writer:
    """Begin a dataset, or go on with one.

    Args:
        path: The folder or file.
        meta: What is common to all episodes.
        name: The format.
        mode: ``create`` or ``resume``; the toolkit's own store also takes ``append`` and ``overwrite``.
        codecs: How frames are stored; ``mp4:CRF:GOP`` for LeRobot and folders, raw or mp4 by the format otherwise.

    Raises:
        ValueError: Unknown format, mode or codec, or the metadata lack what the format needs.
        FileExistsError: There is a dataset (``create``) or something else.
    """
    module = _module(name)
    modes = ("create", "resume", "append", "overwrite") if name == "episodes" else ("create", "resume")
    if mode not in modes:
        raise ValueError(f"mode={mode} is not for format {name}; choose {' or '.join(modes)}")
    writer: Writer = module.open_writer(Path(path).expanduser(), meta, mode, dict(codecs or {}))
    return writer
