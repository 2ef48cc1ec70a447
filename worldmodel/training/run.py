"""A run's directory: its configuration, the choices made by looking at the machine, its metrics, and its end."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from worldmodel.atomic import read_json, write_bytes, write_json
from worldmodel.training.distributed import current_world
from worldmodel.training.sinks import LogConfig

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

#: What locking says on file systems that have no locks, such as Lustre and NFS as some clusters mount them.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)


def config_hash(config: Any) -> str:
    """Eight hexadecimal digits that name a configuration (JSON values)."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:8]


class Run:
    """Opens a run's directory, or makes it; running the same configuration there again continues.

    Under several processes all of them open it and call the same methods in the same order; the first one locks,
    reads and writes, and the others learn what it found.

    Args:
        path: The directory.
        config: The resolved configuration (JSON values) that determines the result.
        log: Where metrics go besides ``metrics.jsonl``.

    Raises:
        ValueError: The directory holds a run with another configuration; the message names the first difference.
        OSError: Another process works in the directory, or it cannot be written.
    """

    def __init__(self, path: str | Path, config: dict[str, Any], log: LogConfig | None = None) -> None:
        self.path = Path(path)
        self.config = json.loads(json.dumps(config))
        self.log = log or LogConfig()
        self._lock: Any = None
        self._world = current_world()
        self._opened = time.monotonic()
        self._spent = float(self._world.from_first(self._open))

    def _open(self) -> float:
        """Lock the directory and see that it is this run's; returns the seconds that were spent on it."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self.path)
        file = self.path / "config.json"
        if file.exists():
            difference = _first_difference(read_json(file), self.config)
            if difference:
                self.close()
                raise ValueError(
                    f"{self.path} holds a run with {difference}; choose another out=... or delete it"
                )
        else:
            write_json(file, self.config)
        return read_json(self.path / "seconds.json") if (self.path / "seconds.json").exists() else 0.0

    @property
    def seconds(self) -> float:
        """Seconds of work so far, over all interruptions (up to the last ``record_seconds`` before a kill)."""
        return self._spent + time.monotonic() - self._opened

    def record_seconds(self) -> None:
        """Note the time spent, so that it survives an interruption."""
        self._world.from_first(lambda: write_json(self.path / "seconds.json", self.seconds))

    @property
    def done(self) -> dict[str, Any] | None:
        """What ``finish`` recorded, or None while the run is unfinished."""
        file = self.path / "done.json"
        return self._world.from_first(lambda: read_json(file) if file.exists() else None)

    def finish(self, summary: dict[str, Any]) -> None:
        """Mark the run as done, with figures worth keeping."""
        content = {**summary, "seconds": round(self.seconds, 1)}
        self._world.from_first(lambda: write_json(self.path / "done.json", content))

    def write(self, work: Callable[[], Any]) -> None:
        """Do ``work``, such as saving a model, in the first process; its failure reaches all."""

        def quietly() -> None:
            work()

        self._world.from_first(quietly)

    def choose(self, key: str, choice: Callable[[], Any]) -> Any:
        """What was chosen by looking at the machine: made once and recorded, so that a resumed run chooses the same."""

        def recorded() -> Any:
            file = self.path / "machine.json"
            choices = read_json(file) if file.exists() else {}
            if key not in choices:
                choices[key] = choice()
                write_json(file, choices)
            return choices[key]

        return self._world.from_first(recorded)

    def close(self) -> None:
        """Let other processes use the directory."""
        if self._lock is not None:
            self._lock.close()


class Metrics:
    """``metrics.jsonl``: one JSON object per logged step. Resuming at a step drops what was logged from there on."""

    def __init__(self, path: Path, resume_step: int = 0) -> None:
        rows = [row for row in read_metrics(path) if row["step"] < resume_step] if path.exists() else []
        write_bytes(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
        self._file = open(path, "a")  # noqa: SIM115 (closed by close)

    def log(self, row: dict[str, Any]) -> None:
        """Append a row; it has a ``step``."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a ``metrics.jsonl``; a last line that was cut short is left out."""
    content = Path(path).read_text()
    return [json.loads(line) for line in content[: content.rfind("\n") + 1].splitlines()]


def _lock(path: Path) -> Any:
    file = open(path / ".lock", "w")  # noqa: SIM115 (held open as long as the run)
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            logger.warning(
                "no files can be locked in %s: see to it that no two runs work there at once", path
            )
            return file
        file.close()
        raise OSError(
            f"another process is working in {path}; wait for it or choose another out=..."
        ) from error
    file.write(str(os.getpid()))
    file.flush()
    return file


def _first_difference(found: Any, wanted: Any, key: str = "") -> str:
    if isinstance(found, dict) and isinstance(wanted, dict):
        for name in sorted(found.keys() | wanted.keys()):
            text = _first_difference(found.get(name), wanted.get(name), f"{key}.{name}" if key else name)
            if text:
                return text
        return ""
    return "" if found == wanted else f"{key}={found!r}, not {wanted!r}"
