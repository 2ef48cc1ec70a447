"""The files of a corpus: found in folders, lists, tar shards, or given by a pattern of these."""

from __future__ import annotations

import csv
import glob
import hashlib
import io
import itertools
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worldmodel.data.images import SUFFIXES as IMAGE_SUFFIXES
from worldmodel.data.images import is_image
from worldmodel.data.strings import Strings
from worldmodel.data.tar_shards import load_tar_index, locate, split_member

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts", ".vob"),
    *(".wmv", ".flv", ".3gp", ".ogv", ".gif"),
)
LIST_SUFFIXES = (".txt", ".csv", ".tsv", ".lst")
KINDS = ("auto", "video", "image")
PATH_COLUMNS = ("path", "video_path", "file", "filename", "video", "image", "name")
LABEL_COLUMNS = ("label", "class", "category", "target")


class CorpusError(ValueError):
    """A corpus that cannot be used as it is."""


class DamageWarning(UserWarning):
    """A file of a corpus cannot be used, and others take its place."""


@dataclass
class SourceConfig:
    """One place that videos come from."""

    #: Folder, list (.txt, .csv, .tsv), tar shard, or a pattern of these with * or {000..127}.
    path: str = ""
    #: Share of the samples against the other sources; null for all: every file counts the same.
    weight: float | None = None
    #: auto, video or image; auto takes pictures, as still clips, only where there are no videos.
    kind: str = "auto"
    #: Column of a list with the paths: its name, or its position from 0; empty: path, file or the like, else the first.
    path_column: str = ""
    #: Column of a list with the labels, likewise; empty: label, class or the like, else the second of two.
    label_column: str = ""
    #: Take the folder in which a file lies, below path, as its label.
    folder_labels: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind={self.kind} is unknown; choose one of {', '.join(KINDS)}")
        if self.weight is not None and not self.weight > 0:
            raise ValueError(f"weight={self.weight} of {self.path} must be above 0; leave the source out")


@dataclass(frozen=True)
class Found:
    """One file: where it is, its name within the source, its size (-1: missing), its label or ""."""

    path: str
    name: str
    size: int
    label: str


@dataclass(frozen=True)
class Listing:
    """The files of one source, in an order that depends on their names only.

    Attributes:
        paths: Where they are.
        keys: ``(len,)`` uint64; a hash of each name within the source, which does not change as the source is moved
            or grows.
        labels: Their labels as written; empty where there is none.
        sizes: ``(len,)`` int64 bytes; -1 for what a list names and does not exist.
        digest: Of names, sizes and labels.
    """

    paths: Strings
    keys: np.ndarray
    labels: Strings
    sizes: np.ndarray
    digest: str

    @property
    def missing(self) -> list[str]:
        """What a list names and does not exist."""
        return [self.paths[row] for row in np.flatnonzero(self.sizes < 0).tolist()]


def find_files(source: SourceConfig) -> Listing:
    """All files of a source.

    Raises:
        CorpusError: Nothing was found, or a list or shard cannot be read.
        OSError: There is no such path.
    """
    found: list[Found] = []
    for path in expand(source.path):
        found += _find(path, source)
    videos = [file for file in found if not is_image(file.path)]
    if source.kind == "image" or (source.kind == "auto" and not videos):
        found = [file for file in found if is_image(file.path)]
    elif source.kind == "video" or not _is_list(source.path):
        found = videos
    if not found:
        suffixes = {"video": VIDEO_SUFFIXES, "image": IMAGE_SUFFIXES, "auto": VIDEO_SUFFIXES + IMAGE_SUFFIXES}
        raise CorpusError(
            f"found no videos in {source.path}: no file there (or in its folders and tar shards) ends in "
            f"{' '.join(suffixes[source.kind])}"
        )
    digest, keys = hashlib.sha256(), np.empty(len(found), dtype=np.uint64)
    for row, file in enumerate(found):
        name = file.name.encode("utf-8", "surrogateescape")
        keys[row] = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")
        digest.update(name + f"\0{file.size}\0{file.label}\n".encode("utf-8", "surrogateescape"))
    return Listing(
        Strings(file.path for file in found),
        keys,
        Strings(file.label for file in found),
        np.array([file.size for file in found], dtype=np.int64),
        digest.hexdigest(),
    )


def expand(pattern: str) -> list[str]:
    """The paths that a pattern with ``{000..127}`` or ``*`` stands for; a path that exists stands for itself.

    Raises:
        FileNotFoundError: There is none.
    """
    pattern = os.path.expanduser(pattern)
    if not pattern:
        raise ValueError("give a folder of videos or a list: data=PATH")
    if os.path.exists(pattern):
        return [pattern]
    parts = re.split(r"\{(\d+)\.\.(\d+)\}", pattern)
    choices = [[part] for part in parts[:1]]
    for low, high, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        choices.append([f"{number:0{len(low)}d}" for number in range(int(low), int(high) + 1)])
        choices.append([text])
    paths = ["".join(choice) for choice in itertools.product(*choices)]
    found = [match for path in paths for match in (sorted(glob.glob(path, recursive=True)) or [path])]
    for path in found:
        if not os.path.exists(path) and split_member(path) is None:
            raise FileNotFoundError(
                2, "No such file or directory; give a folder, a list or a tar shard", path
            )
    return found


def _is_list(path: str) -> bool:
    return path.lower().endswith(LIST_SUFFIXES)


def _find(path: str, source: SourceConfig) -> Iterable[Found]:
    if os.path.isdir(path):
        return _from_folder(path, source)
    if path.lower().endswith(".tar"):
        return _from_shard(path, os.path.basename(path))
    if path.lower().endswith((".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz", ".zip")):
        raise CorpusError(f"{path} is compressed; unpack it, or pack it again as .tar without compression")
    if _is_list(path):
        return read_list(path, source.path_column, source.label_column)
    place = locate(path)
    return [Found(path, os.path.basename(path), place.size, "")]


def _from_folder(root: str, source: SourceConfig) -> Iterator[Found]:
    for name, size in sorted(_walk(root, "", set())):
        path = os.path.join(root, name)
        if name.lower().endswith(".tar"):
            yield from _from_shard(path, name)
        else:
            parent = os.path.dirname(name).replace(os.sep, "/")
            yield Found(path, name.replace(os.sep, "/"), size, parent if source.folder_labels else "")


def _walk(root: str, inside: str, seen: set[tuple[int, int]]) -> Iterator[tuple[str, int]]:
    """Names below ``root`` and sizes. Links are followed, each folder once; hidden files are left out."""
    status = os.stat(os.path.join(root, inside))
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    with os.scandir(os.path.join(root, inside)) as entries:
        # In an order of their own, so that of two links to one folder always the same one counts.
        for entry in sorted(entries, key=lambda entry: entry.name):
            name = os.path.join(inside, entry.name)
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(root, name, seen)
            elif entry.name.lower().endswith((*VIDEO_SUFFIXES, *IMAGE_SUFFIXES, ".tar")):
                yield name, _size(entry.path)


def _size(path: str) -> int:
    try:
        return locate(path).size
    except (OSError, ValueError):
        return -1  # a link that leads nowhere, a member that is not there


def _from_shard(path: str, name: str) -> Iterator[Found]:
    index = load_tar_index(path)
    if index.truncated:
        warnings.warn(
            f"{path} is truncated; its first {len(index.names)} members are used", DamageWarning, stacklevel=2
        )
    for member, size, label in zip(index.names, index.sizes, index.labels, strict=True):
        if member.lower().endswith((*VIDEO_SUFFIXES, *IMAGE_SUFFIXES)):
            yield Found(f"{path}::{member}", f"{name}::{member}", int(size), label)


def read_list(path: str, path_column: str = "", label_column: str = "") -> list[Found]:
    """The files that a list names, in its order; paths are relative to the list's folder, or else to where we are.

    A ``.txt`` or ``.lst`` has one path in each line, which may hold spaces. A ``.csv`` or ``.tsv`` has columns, with or
    without a header; also the papers' form of one path, a space and a number in each line is understood.

    Raises:
        CorpusError: It is empty, or has no such column, or a line has too few columns.
    """
    text = Path(path).read_bytes().decode("utf-8-sig", "surrogateescape")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines:
        raise CorpusError(f"{path} names no files; write one path in each line")
    folder = os.path.dirname(path)
    spaced = re.compile(r"(.*\S)\s+(-?\d+)\s*")
    first = spaced.fullmatch(lines[0])
    plain = path.lower().endswith((".txt", ".lst"))
    if first and _resolve(lines[0].strip(), folder)[1] < 0 and _resolve(first[1], folder)[1] >= 0:
        matches = [spaced.fullmatch(line) for line in lines]
        rows = [[match[1], match[2]] if match else [line] for match, line in zip(matches, lines, strict=True)]
    elif plain:
        rows = [[line.strip()] for line in lines]
    else:
        mark = "\t" if path.lower().endswith(".tsv") or "\t" in lines[0] else ";" if ";" in lines[0] else ","
        try:
            rows = list(csv.reader(io.StringIO("\n".join(lines)), delimiter=mark))
        except csv.Error as error:  # such as a quotation mark that is opened and not closed
            raise CorpusError(
                f"{path} cannot be read as a table ({error}); see to its quotation marks"
            ) from error
    where, label_at, rows = _columns(path, rows, path_column, label_column)
    found = []
    for number, row in enumerate(rows, 1):
        if len(row) <= max(where, label_at):
            raise CorpusError(
                f"entry {number} of {path} has {len(row)} columns, not {max(where, label_at) + 1}: {row}"
            )
        name = row[where].strip()
        if re.match(r"[a-z0-9]+://", name):
            raise CorpusError(f"{path} names {name}; only local files are read, download it first")
        full, size = _resolve(name, folder)
        found.append(Found(full, name, size, row[label_at].strip() if label_at >= 0 else ""))
    return found


def _columns(
    path: str, rows: list[list[str]], path_column: str, label_column: str
) -> tuple[int, int, list[list[str]]]:
    """The positions of paths and labels (-1: none), and the rows without the header."""
    head = [cell.strip().lower() for cell in rows[0]]
    named = [column for column in (path_column, label_column) if column and not column.isdigit()]
    has_header = bool(named) or any(name in head for name in PATH_COLUMNS)

    def position(wanted: str, usual: tuple[str, ...], otherwise: int) -> int:
        if wanted.isdigit():
            return int(wanted)
        if wanted and wanted.lower() not in head:
            raise CorpusError(f"{path} has no column {wanted!r}; its columns are {', '.join(rows[0])}")
        names = (wanted.lower(),) if wanted else usual if has_header else ()
        return next((head.index(name) for name in names if name in head), otherwise)

    where = position(path_column, PATH_COLUMNS, 0)
    second = 1 - where if len(head) == 2 and where < 2 and not has_header else -1
    return where, position(label_column, LABEL_COLUMNS, second), rows[1:] if has_header else rows


def _resolve(name: str, folder: str) -> tuple[str, int]:
    """The path that a list means, and its size; -1 where there is none."""
    name = os.path.expanduser(name)
    beside = os.path.join(folder, name)  # an absolute name stays what it is
    size = _size(beside)
    if size < 0 and _size(name) >= 0:
        return name, _size(name)
    return beside, size
