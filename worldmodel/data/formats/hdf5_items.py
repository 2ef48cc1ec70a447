"""Reading and writing HDF5 without surprises: numbers and pictures only, from this file only."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from worldmodel.data.formats.base import FormatError

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


class Growing:
    """An HDF5 file in the making: ``NAME.partial`` until it is whole, so that the name never stands for half a file.

    Each episode is flushed. A killed writer's partial file is gone on with if it can be read, else begun anew: HDF5
    has no journal.

    Raises:
        FileExistsError: The file is there, with other metadata or ``mode="create"``.
    """

    def __init__(self, path: Path, meta: dict[str, Any], mode: str) -> None:
        self.path, self.partial = path, path.with_name(path.name + ".partial")
        self.meta = json.loads(json.dumps(meta))
        self.whole = False
        if path.exists():
            with open_file(path) as file:
                same = attribute(path, file, META) == self.meta
            if mode == "create" or not same:
                raise FileExistsError(f"{path} is there already; remove it, or choose another path")
            self.whole = True
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = self._open()

    def _open(self) -> h5py.File:
        if self.partial.exists():
            try:
                file = h5py.File(self.partial, "r+")
                if attribute(self.partial, file, META) == self.meta and "next" in file.attrs:
                    return file
                file.close()
            except (OSError, FormatError, KeyError, RuntimeError):
                pass
        file = h5py.File(self.partial, "w")
        file.attrs[META] = json.dumps(self.meta)
        file.attrs["next"] = 0
        return file

    def wants(self, index: int) -> bool:
        """Whether episode ``index`` is still to be written."""
        return not self.whole and index >= int(self.file.attrs["next"])

    def wrote(self, index: int) -> None:
        """Note that an episode is whole, and flush it."""
        self.file.flush()
        self.file.attrs["next"] = index + 1
        self.file.flush()

    def finish(self) -> None:
        """Give the file its name."""
        if self.whole:
            return
        del self.file.attrs["next"]
        self.file.close()
        with open(self.partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(self.partial, self.path)
        self.whole = True


def put(group: h5py.Group, name: str, array: np.ndarray) -> None:
    """Write a dataset: pictures compressed, a chunk each; one that an interrupted write left is replaced."""
    if name in group:
        del group[name]
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
