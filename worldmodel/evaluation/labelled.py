"""Labelled videos and images: from a CSV file, a list, or folders named after classes."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from worldmodel.data.images import is_image

VIDEOS = (
    *(".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg"),
    *(".ts", ".flv", ".wmv", ".ogv", ".3gp", ".gif"),
)
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
COLUMNS = ("path", "label", "split", "group", "start", "end")


@dataclass(frozen=True)
class Sample:
    """One thing to classify.

    Attributes:
        name: How the sample is called in its list; splits are keyed by it.
        path: The file.
        label: Its class or number, as text; empty where it is not known.
        split: ``train``, ``val`` (for choosing hyper-parameters), ``test``, or empty: still to be decided.
        group: Samples of one group, such as clips of one recording, stay on the same side of every split.
        start, end: Part of the file that is looked at, in seconds from its first frame; None: from its start, to its
            end.
        frames: Exactly these frames, instead of views spread over the file.
    """

    name: str
    path: str
    label: str
    split: str = ""
    group: str = ""
    start: float | None = None
    end: float | None = None
    frames: tuple[int, ...] = ()

    @property
    def key(self) -> str:
        """Identifies the sample for caches and splits."""
        return f"{self.name}|{self.start}|{self.end}|{','.join(map(str, self.frames))}"


def read_samples(path: str | Path) -> list[Sample]:
    """Samples of a list or folder.

    Args:
        path: A CSV file with the columns ``path,label`` and, if wanted, ``split``, ``group``, ``start`` and ``end``
            (with a header in any order, or without in this one); or a list of lines ``path label`` separated by a
            space, the path may have spaces; or a folder ``<class>/<file>`` or ``<split>/<class>/<file>``. Relative
            paths are relative to the list's folder.

    Raises:
        ValueError: A line cannot be read, a file is missing, or the same part of a file is in two splits.
        OSError: There is no such list, or it may not be read.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(
            f"no labels at {path}; give a CSV file path,label[,split] or a folder of class folders"
        )
    samples = _from_folders(path) if path.is_dir() else _from_list(path)
    if not samples:
        raise ValueError(f"{path} has no samples; a line is path,label[,split]")
    missing = [sample.path for sample in samples if not _exists(sample.path)]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise ValueError(
            f"{path}: no file {missing[0]}{more}; paths are relative to {path.parent}, or to the working directory"
        )
    _check_apart(samples, str(path))
    return samples


def _from_folders(root: Path) -> list[Sample]:
    names = {child.name for child in root.iterdir() if child.is_dir()}
    splits = sorted(name for name in names if name.lower() in SPLITS)
    if splits and len(splits) < len(names):
        raise ValueError(
            f"{root} mixes splits ({', '.join(splits)}) with other folders ({sorted(names - set(splits))[0]}); "
            "use <split>/<class>/<file> or <class>/<file>"
        )
    samples = []
    for top, split in [(root / name, SPLITS[name.lower()]) for name in splits] or [(root, "")]:
        for folder in sorted(child for child in top.iterdir() if child.is_dir()):
            for file in sorted(folder.rglob("*")):
                if is_image(file.name) or file.suffix.lower() in VIDEOS:
                    name = file.relative_to(root).as_posix()
                    samples.append(Sample(name, str(file), folder.name, split))
    return samples


def _from_list(path: Path) -> list[Sample]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not a text file ({error.reason}); give a CSV file path,label[,split]"
        ) from error
    lines = text.splitlines()
    first = next((line for line in lines if line.strip()), "")
    columns: Sequence[str] = COLUMNS[:3]
    samples = list[Sample]()
    rows: Iterable[list[str]]
    if "," in first or "\t" in first:
        rows = csv.reader(lines, delimiter="," if "," in first else "\t")
    else:  # the last space is before the label, since paths may have spaces
        rows = (line.rsplit(None, 1) or [""] for line in lines)
    for number, row in enumerate(rows, start=1):
        cells = [cell.strip() for cell in row]
        if not any(cells) or cells[0].startswith("#"):
            continue
        where = f"{path}:{number}"
        if not samples and "path" in [cell.lower() for cell in cells]:
            columns = _header([cell.lower() for cell in cells], where)
            continue
        if not 2 <= len(cells) <= len(columns):
            raise ValueError(f"{where} has {len(cells)} columns; a line is {','.join(columns)}")
        samples.append(_sample(dict(zip(columns, cells, strict=False)), path.parent, where))
    return samples


def _header(cells: list[str], where: str) -> list[str]:
    cells = ["label" if cell == "class" else cell for cell in cells]
    unknown = [cell for cell in cells if cell not in COLUMNS]
    if unknown or "label" not in cells or len(set(cells)) < len(cells):
        problem = (
            f"has the column {unknown[0]!r}" if unknown else "needs the columns path and label, each once"
        )
        raise ValueError(f"{where}: the header {problem}; columns are {', '.join(COLUMNS)}")
    return cells


def _sample(row: Mapping[str, str], folder: Path, where: str) -> Sample:
    split = row.get("split", "").lower()
    if split and split not in SPLITS:
        raise ValueError(f"{where}: split {row['split']!r} is unknown; choose train, val or test")
    times: list[float | None] = []
    for column in ("start", "end"):
        value = row.get(column, "")
        try:
            times.append(float(value) if value else None)
        except ValueError:
            raise ValueError(f"{where}: {column} {value!r} is not a number of seconds") from None
    start, end = times
    if (start or 0.0) < 0 or (end is not None and end <= (start or 0.0)):
        raise ValueError(f"{where}: start {start} and end {end} (seconds) bound nothing")
    if not row["path"] or not row.get("label"):
        raise ValueError(f"{where}: path or label is empty; a line is path,label[,split]")
    path = _locate(row["path"], folder)
    return Sample(row["path"], path, row["label"], SPLITS.get(split, ""), row.get("group", ""), start, end)


def _locate(name: str, folder: Path) -> str:
    """A path of a list: relative to the list's folder, or else to the working directory; ``shard.tar::name`` too."""
    given = Path(name).expanduser()
    beside = folder / given
    return str(given if not _exists(str(beside)) and _exists(str(given)) else beside)


def _exists(path: str) -> bool:
    return Path(path.partition("::")[0]).is_file()


def _check_apart(samples: Sequence[Sample], source: str) -> None:
    """See that no part of a file, and no group, is in two splits."""
    by_file: dict[str, list[Sample]] = {}
    groups: dict[str, str] = {}
    for sample in samples:
        by_file.setdefault(os.path.realpath(sample.path), []).append(sample)
        if sample.group and groups.setdefault(sample.group, sample.split) != sample.split:
            raise ValueError(
                f"{source}: group {sample.group} is both in {groups[sample.group]} and in {sample.split}; "
                "keep a group in one split"
            )
    for file, same in by_file.items():
        same.sort(key=lambda sample: sample.start or 0.0)
        for before, after in zip(same, same[1:], strict=False):
            if (math.inf if before.end is None else before.end) > (after.start or 0.0):
                place = f"in {before.split} and in {after.split}" if before.split != after.split else "twice"
                raise ValueError(f"{source}: {file} is {place}; list each part of a file once")
