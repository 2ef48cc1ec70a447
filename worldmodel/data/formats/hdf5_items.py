"""Reading and writing HDF5 without surprises: numbers and pictures only, from this file only."""

from __future__ import annotations

import glob
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from worldmodel.atomic import write_atomic
from worldmodel.data.episodes import EpisodeStore, EpisodeWriter
from worldmodel.data.formats.base import Episode, FormatError, own_meta

META = "worldmodel"  # the attribute with our metadata, as JSON


def open_file(path: Path) -> h5py.File:
    """Open a file for reading.

    Raises:
        FormatError: It is not HDF5, or cut short.
        FileNotFoundError: There is none.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        reason = " ".join(str(error).split())[:120]
        raise FormatError(f"{path} cannot be read as HDF5 ({reason}); copy or make it again") from error


def item(where: str, group: h5py.Group, key: str) -> h5py.Group | h5py.Dataset:
    """A group or dataset below ``group``.

    Raises:
        FormatError: There is none, or it lies in another file.
    """
    node: Any = group
    for part in key.strip("/").split("/"):
        if not isinstance(node, h5py.Group) or part not in node:
            there = ", ".join(sorted(node)) if isinstance(node, h5py.Group) else "nothing below a dataset"
            raise FormatError(f"{where} has no {key!r}; there are: {there}")
        if isinstance(node.get(part, getlink=True), h5py.ExternalLink):
            raise FormatError(f"{key!r} of {where} is a link to another file, which is not followed")
        node = node[part]
    if isinstance(node, h5py.Dataset) and (node.external or node.is_virtual):
        raise FormatError(f"{key!r} of {where} lies in other files, which are not read")
    return node


def numbers(where: str, group: h5py.Group, key: str, rows: slice = slice(None)) -> np.ndarray:
    """Rows of a dataset of numbers.

    Raises:
        FormatError: It is missing, holds something else, or cannot be read.
    """
    node = item(where, group, key)
    if not isinstance(node, h5py.Dataset) or node.dtype.kind not in "biuf" or not node.shape:
        kind = node.dtype if isinstance(node, h5py.Dataset) else "a group"
        raise FormatError(f"{key!r} of {where} is {kind}, not numbers with a row per step; it is not read")
    return _read(where, key, node, rows)


def is_pictures(node: Any) -> bool:
    """Whether a dataset holds pictures: ``(n, H, W, 3)``, ``(n, 3, H, W)`` uint8, or JPEG files as bytes."""
    if not isinstance(node, h5py.Dataset) or not node.shape:
        return False
    if node.ndim == 4:
        return node.dtype == np.uint8 and 3 in (node.shape[1], node.shape[3])
    return _jpeg(node)


def pictures(where: str, group: h5py.Group, key: str, rows: slice = slice(None)) -> np.ndarray:
    """Rows of a dataset of pictures as ``(n, 3, H, W)`` uint8.

    Raises:
        FormatError: It is missing, holds something else, or cannot be read.
    """
    node = item(where, group, key)
    if not is_pictures(node):
        said = f"{node.shape} {node.dtype}" if isinstance(node, h5py.Dataset) else "a group"
        raise FormatError(f"{key!r} of {where} is {said}, not pictures (n, H, W, 3) uint8 or JPEG")
    content = _read(where, key, node, rows)
    if node.ndim == 4:
        return content.transpose(0, 3, 1, 2) if node.shape[3] == 3 else content
    from PIL import Image

    frames = []
    for number, blob in enumerate(content):
        try:
            with Image.open(io.BytesIO(np.asarray(blob, np.uint8).tobytes()), formats=("JPEG",)) as image:
                frames.append(np.asarray(image.convert("RGB")).transpose(2, 0, 1))
        except Exception as error:  # Pillow fails in many ways
            raise FormatError(f"picture {number} in {key!r} of {where} is damaged") from error
    return np.stack(frames) if frames else np.empty((0, 3, 0, 0), np.uint8)


def _jpeg(node: h5py.Dataset) -> bool:
    """Minari's JPEG files: byte strings of varying length, or rows of bytes where they all are as long."""
    if node.ndim == 1:
        return h5py.check_vlen_dtype(node.dtype) == np.uint8
    return node.ndim == 2 and node.dtype == np.uint8 and len(node) > 0 and bytes(node[0, :2]) == b"\xff\xd8"


def _read(where: str, key: str, node: h5py.Dataset, rows: slice) -> np.ndarray:
    try:
        return np.asarray(node[rows])
    except OSError as error:
        reason = " ".join(str(error).split())[:120]
        hint = ", or it needs pip install hdf5plugin" if "filter" in reason else ""
        raise FormatError(
            f"{key!r} of {where} cannot be read ({reason}); the file is damaged{hint}"
        ) from error


def attribute(path: Path, group: h5py.Group, name: str) -> dict[str, Any]:
    """A JSON object in an attribute; empty if there is none.

    Raises:
        FormatError: It is not a JSON object.
    """
    text = group.attrs.get(name)
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except (ValueError, TypeError) as error:
        raise FormatError(f"attribute {name!r} of {path} is not JSON") from error
    if not isinstance(value, dict):
        raise FormatError(f"attribute {name!r} of {path} is not a JSON object")
    return value


def leaves(group: h5py.Group, prefix: str = "") -> Iterator[tuple[str, h5py.Dataset]]:
    """All datasets below a group that lie in this file, by path."""
    for name in sorted(group):
        if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
            continue
        node = group[name]
        if isinstance(node, h5py.Group):
            yield from leaves(node, f"{prefix}{name}/")
        elif isinstance(node, h5py.Dataset):
            yield f"{prefix}{name}", node


class StagedFile:
    """Makes an HDF5 file: episodes are collected in a store, ``NAME.partial``, and put into the file at the end.

    HDF5 has no journal: a file that a killed writer was growing may open and hold wrong numbers. The store cannot, so
    an interrupted conversion goes on from it, and the file's name never stands for anything but the whole. For a while
    this takes the disk space of the raw frames too.

    Args:
        path: The file.
        meta: Metadata of all episodes, which become an attribute of the file.
        mode: ``resume`` or ``create``.
        build: Fills the file with the episodes.

    Raises:
        FileExistsError: The file is there, with other metadata or ``mode="create"``.
    """

    def __init__(
        self, path: Path, meta: dict[str, Any], mode: str, build: Callable[[h5py.File, EpisodeStore], None]
    ) -> None:
        self.path, self.staged, self.build = path, path.with_name(path.name + ".partial"), build
        self.meta = json.loads(json.dumps(own_meta(meta)))
        self._writer: EpisodeWriter | None = None
        if not path.exists():
            self._writer = EpisodeWriter(self.staged, self.meta)
            return
        with open_file(path) as file:
            same = attribute(path, file, META) == self.meta
        if mode == "create" or not same:
            raise FileExistsError(f"{path} is there already; remove it, or choose another path")

    def wants(self, index: int) -> bool:
        """Whether episode ``index`` is still to be written."""
        return self._writer is not None and index not in self._writer.indices

    def write(self, index: int, episode: Episode) -> None:
        """Add an episode."""
        assert self._writer is not None
        self._writer.write(index, episode)

    def finish(self) -> None:
        """Make the file, if it is not there."""
        if self._writer is None:
            return
        if not self._writer.entries:
            raise FormatError(f"{self.path} would hold no episode")
        for left in self.path.parent.glob(f".{glob.escape(self.path.name)}.*.tmp"):
            left.unlink()

        def write(temporary: Path) -> None:
            with h5py.File(temporary, "w", track_order=True) as file:
                file.attrs[META] = json.dumps(self.meta)
                self.build(file, EpisodeStore(self.staged))

        write_atomic(self.path, write)
        self._writer = None
        shutil.rmtree(self.staged)


def whole(store: EpisodeStore) -> Iterator[Episode]:
    """The episodes of a store, in the order of their numbers."""
    for position in np.argsort([entry["index"] for entry in store.entries]):
        yield {name: array[:] for name, array in store[int(position)].items()}


def put(group: h5py.Group, name: str, array: np.ndarray) -> None:
    """Write a dataset: pictures compressed, a chunk each."""
    if array.ndim == 4:
        group.create_dataset(
            name, data=array, chunks=(1, *array.shape[1:]), compression="gzip", compression_opts=1
        )
    else:
        group.create_dataset(name, data=array)


def require_raw(codecs: dict[str, str]) -> None:
    """See that no codec is asked for.

    Raises:
        ValueError: One is.
    """
    if any(codec != "raw" for codec in codecs.values()):
        raise ValueError("HDF5 files hold pictures without loss here; leave codec out")
