"""The record of files that a run could not use: each named once, and an end to the run where they are too many."""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Iterable
from pathlib import Path

from worldmodel.atomic import write_bytes
from worldmodel.data.corpus_files import CorpusError, DamageWarning

__all__ = ["DamageLog", "DamageWarning", "is_short", "one_line", "write_table"]

COLUMNS = ("path", "reason")
FEW = 200  # files that a share is taken of at least, so that one among the first few does not end a run
NAMED = 10  # files that an error names


class DamageLog:
    """Collects what samples have skipped, in the main process.

    Args:
        files: How many files the corpus has.
        max_damaged: The run is to stop once more than this share of the corpus's files are damaged, or of the files
            seen since the log was opened (of 200, as long as fewer were seen: one bad file among the first few is no
            reason). Files that are merely too short do not count.
        path: A CSV file that lists them, with reasons; one of an earlier part of the run is continued.

    Attributes:
        skipped: Reasons by path.
    """

    def __init__(self, files: int, max_damaged: float, path: str | Path | None = None) -> None:
        self.files, self.max_damaged = files, max_damaged
        self.path = None if path is None else Path(path)
        self.skipped: dict[str, str] = {}
        self._samples = self._found = 0
        self._listed = False  # whether the file is known to hold what was skipped so far, and nothing else
        if self.path is not None and self.path.exists():
            with open(self.path, newline="", encoding="utf-8", errors="surrogateescape") as file:
                rows = list(csv.reader(file))[1:]
            self.skipped = {row[0]: row[1] for row in rows if len(row) == len(COLUMNS)}
        self._damaged = len(self.damaged)

    @property
    def damaged(self) -> list[str]:
        """The files that are damaged, in the order in which they came."""
        return [path for path, reason in self.skipped.items() if not is_short(reason)]

    def add(self, skipped: Iterable[tuple[str, str]], samples: int = 1) -> None:
        """Take note of the ``"skipped"`` of ``samples`` samples; warns of each file once.

        Raises:
            CorpusError: Too many files are damaged; the list is in the file, its beginning in the message.
            OSError: The list cannot be written.
        """
        self._samples += samples
        new = {path: reason for path, reason in map(tuple, skipped) if path not in self.skipped}
        if not new:
            return
        self.skipped.update(new)
        damaged = sum(not is_short(reason) for reason in new.values())
        self._found += damaged
        self._damaged += damaged
        for path, reason in new.items():
            warnings.warn(f"left out {path}: {reason}", DamageWarning, stacklevel=2)
        if self.path is not None:
            self._list(self.path, new)
        self._check()

    def _list(self, path: Path, new: dict[str, str]) -> None:
        """Once the whole list, which may have been cut off; then what is new: there may be many thousands."""
        if not self._listed:
            write_table(path, COLUMNS, self.skipped.items())
            self._listed = True
            return
        try:
            with open(path, "a", newline="", encoding="utf-8", errors="surrogateescape") as file:
                csv.writer(file, lineterminator="\n").writerows(new.items())
        except OSError:
            self._listed = False
            raise

    def _check(self) -> None:
        seen = min(self.files, max(FEW, self._samples))
        if self._damaged > self.max_damaged * self.files:
            share = f"{self._damaged} of {self.files} files"
        elif self._found > self.max_damaged * seen:
            share = f"{self._found} of the {seen} files that were read"
        else:
            return
        damaged = self.damaged
        first = ", ".join(f"{path} ({self.skipped[path]})" for path in damaged[:NAMED])
        more = f" and {len(damaged) - NAMED} more" if len(damaged) > NAMED else ""
        where = f"; the list is in {self.path}" if self.path is not None else ""
        raise CorpusError(
            f"{share} are damaged, more than max_damaged={self.max_damaged:g} allows: "
            f"{first}{more}{where}; remove them, or raise max_damaged, with which this run goes on"
        )


def is_short(reason: str) -> bool:
    """Whether a file was left out for its length only."""
    return reason.startswith("shorter than")


def one_line(path: str, error: Exception) -> str:
    """What an error says of a file, without the path that stands beside it."""
    text = "not found" if isinstance(error, FileNotFoundError) else str(error) or type(error).__name__
    return " ".join(text.removeprefix(path).lstrip(": ").split())


def write_table(path: Path, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a CSV file, whole or not at all; names that are no UTF-8 keep their bytes."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, buffer.getvalue().encode("utf-8", "surrogateescape"))
