"""The toolkit's own episode store, as one format among the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from worldmodel.data.episodes import EpisodeStore, EpisodeWriter
from worldmodel.data.formats.base import Episode, FormatError, ImportOptions, own_meta


class _Reader:
    def __init__(self, path: Path, options: ImportOptions) -> None:
        self.path, self.store = path, EpisodeStore(path)
        self.meta = own_meta(self.store.meta)
        given: dict[str, Any] = {"env_id": options.env_id, "fps": options.fps or None}
        given |= {"action_low": list(options.action_low), "action_high": list(options.action_high)}
        self.meta |= {key: value for key, value in given.items() if value}
        if options.action_shift or options.camera or options.action or options.proprio:
            raise ValueError(
                f"{path} is a dataset of this toolkit: its keys and its actions are as they should be"
            )

    def __len__(self) -> int:
        return len(self.store)

    def index(self, position: int) -> int:
        return int(self.store.entries[position]["index"])

    def read(self, position: int) -> Episode:
        try:
            return {name: array[:] for name, array in self.store[position].items()}
        except ValueError as error:
            raise FormatError(f"episode {self.index(position)} of {self.path}: {error}") from error


class _Writer:
    def __init__(self, writer: EpisodeWriter, append: bool) -> None:
        self.writer = writer
        self.first = max(writer.indices, default=-1) + 1 if append else 0

    def wants(self, index: int) -> bool:
        return self.first + index not in self.writer.indices

    def write(self, index: int, episode: Episode) -> None:
        self.writer.write(self.first + index, episode)

    def finish(self) -> None:
        pass


def open_reader(path: Path, options: ImportOptions) -> _Reader:
    """Open a dataset of the toolkit."""
    return _Reader(path, options)


def open_writer(path: Path, meta: dict[str, Any], mode: str, codecs: dict[str, str]) -> _Writer:
    """Write a dataset of the toolkit."""
    return _Writer(EpisodeWriter(path, meta, mode, codecs or None), mode == "append")
