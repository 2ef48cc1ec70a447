"""LeRobot datasets, version 3.0 (https://huggingface.co/docs/lerobot), read and written without the lerobot package.

Layout::

    meta/info.json                                       fps, features (dtype, shape, names), paths of the files
    meta/tasks.parquet, meta/stats.json
    meta/episodes/chunk-000/file-000.parquet             per episode: which files, which rows, where in the video
    data/chunk-000/file-000.parquet                      a row per frame: action, observation.state, timestamp, ...
    videos/observation.images.KEY/chunk-000/file-000.mp4 several episodes one after another

A row holds a frame and the action that is taken there, so the last action of an episode leads to no frame and is left
out.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from worldmodel.atomic import read_json
from worldmodel.data.formats.base import (
    Bounds,
    Described,
    Episode,
    FormatError,
    ImportOptions,
    assemble,
    choose,
    inside,
    make_meta,
)
from worldmodel.data.formats.lerobot_writer import EXTRA, OWN, LeRobotWriter
from worldmodel.data.videos import FrameError, Video, VideoError, open_video

TOLERANCE = 0.25  # of a frame's time: how far a video's frame may be from its row


def detect(path: Path) -> bool:
    """Whether a folder holds a LeRobot dataset."""
    return (path / "meta" / "info.json").is_file()


class LeRobotReader:
    """Episodes of a LeRobot dataset; see ``worldmodel.data.formats.base.Reader``."""

    def __init__(self, path: Path, options: ImportOptions) -> None:
        self.path, self.options = path, options
        self.info = self._info()
        self.fps = float(options.fps or self.info["fps"])
        features: dict[str, Any] = self.info["features"]
        where = f"{path}/meta/info.json"
        cameras = [key for key, feature in features.items() if feature.get("dtype") in ("video", "image")]
        self.camera = choose(where, "camera", self._full(options.camera, cameras), cameras, "camera")
        vectors = [key for key in features if key not in cameras]
        self.action = choose(where, "action", options.action or "action", vectors, "action_key")
        self.proprio = list(options.proprio) or [key for key in ("observation.state",) if key in features]
        self.episodes = self._episodes()
        self._rows: tuple[Path, pa.Table] | None = None
        self._video: tuple[Path, Video] | None = None
        own = path / OWN
        self.extra = [key for key in features if key.startswith(EXTRA)] if own.is_file() else []
        self.meta = read_json(own) if own.is_file() else self._describe(features)

    @staticmethod
    def _full(camera: str, cameras: list[str]) -> str:
        """A camera's key may be given by its last part."""
        ends = [key for key in cameras if camera and key.rpartition(".")[2] == camera]
        return ends[0] if len(ends) == 1 and camera not in cameras else camera

    def _info(self) -> dict[str, Any]:
        path = self.path / "meta" / "info.json"
        info = read_json(path)
        version = str(info.get("codebase_version")) if isinstance(info, dict) else "None"
        if not version.startswith("v3."):
            raise FormatError(
                f"{path} has codebase_version {version}; v3.0 can be read: convert it with lerobot's own script"
            )
        for key in ("fps", "features", "data_path"):
            if not info.get(key):
                raise FormatError(f"{path} has no {key!r}; it is damaged")
        result: dict[str, Any] = info
        return result

    def _episodes(self) -> list[dict[str, Any]]:
        files = sorted((self.path / "meta" / "episodes").glob("chunk-*/file-*.parquet"))
        if not files:
            raise FormatError(f"{self.path} has no meta/episodes/chunk-000/file-000.parquet")
        rows: list[dict[str, Any]] = []
        for file in files:
            names = [name for name in _schema(file).names if not name.startswith("stats/")]
            rows += _read(file, names).to_pylist()
        return sorted(rows, key=lambda row: int(row["episode_index"]))

    def _describe(self, features: dict[str, Any]) -> dict[str, Any]:
        bounds = Bounds()
        if not self.options.action_low:
            for position in range(len(self)):
                bounds.add(self._column(self._table(position), position, self.action))
        extra: dict[str, Any] = {}
        for key, name in (
            (self.action, "action_names"),
            (self.proprio[0] if len(self.proprio) == 1 else "", "proprio_names"),
        ):
            names = features.get(key, {}).get("names")
            names = (
                names.get("motors") or next(iter(names.values()), None) if isinstance(names, dict) else names
            )
            if isinstance(names, list) and [len(names)] == list(features[key].get("shape", ())):
                extra[name] = [str(n) for n in names]
        robot = str(self.info.get("robot_type") or "")
        return make_meta(
            self.path,
            "lerobot",
            Described(robot or self.path.resolve().name, self.fps, extra=extra),
            self.options,
            bounds,
        )

    def __len__(self) -> int:
        return len(self.episodes)

    def index(self, position: int) -> int:
        return int(self.episodes[position].get("worldmodel/source", position))

    def _file(self, template: str, position: int, kind: str, **words: str) -> Path:
        """A file that ``info.json`` names by a template; only its three known words are filled in."""
        row = self.episodes[position]
        try:
            numbers = {part: int(row[f"{kind}/{part}"]) for part in ("chunk_index", "file_index")}
        except KeyError as error:
            raise FormatError(
                f"episode {position} of {self.path} has no {error.args[0]} in meta/episodes"
            ) from error

        def fill(found: re.Match[str]) -> str:
            name, width = found.group(1), int(found.group(2) or 0)
            return words[name] if name in words else f"{numbers[name]:0{width}d}"

        text = re.sub(r"\{(video_key|chunk_index|file_index)(?::0(\d+)d)?\}", fill, template)
        return inside(self.path, text)

    def _where(self, position: int) -> str:
        return f"episode {self.episodes[position]['episode_index']} of {self.path}"

    def _table(self, position: int) -> pa.Table:
        """The rows of an episode."""
        file = self._file(self.info["data_path"], position, "data")
        if self._rows is None or self._rows[0] != file:
            if not file.is_file():
                raise FormatError(f"{self._where(position)} is missing its file {file}")
            names = _schema(file).names
            picture = [self.camera] if self.info["features"][self.camera]["dtype"] == "image" else []
            wanted = [self.action, *self.proprio, *self.extra, *picture, "timestamp", "episode_index"]
            for name in wanted:
                if name not in names:
                    raise FormatError(f"{file} has no column {name!r}; there are: {', '.join(names)}")
            self._rows = (file, _read(file, wanted))
        table = self._rows[1]
        row = self.episodes[position]
        number = np.flatnonzero(table["episode_index"].to_numpy() == int(row["episode_index"]))
        if len(number) != int(row["length"]):
            raise FormatError(
                f"{self._where(position)} should have {row['length']} rows, {file} has {len(number)} of it"
            )
        return table.take(number)

    def _column(self, table: pa.Table, position: int, key: str) -> np.ndarray:
        """A column of numbers ``(rows, width)``."""
        column = table[key].combine_chunks()
        feature = self.info["features"].get(key, {})
        width = int(np.prod(feature.get("shape") or [1]))
        try:
            while pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type):
                column = column.flatten()
            values = np.asarray(column.to_numpy(zero_copy_only=False))
            if values.dtype.kind not in "biuf":
                raise FormatError(
                    f"column {key!r} of {self._where(position)} holds {values.dtype}, not numbers"
                )
            return values.reshape(len(table), width)
        except (pa.ArrowException, ValueError) as error:
            if isinstance(error, FormatError):
                raise
            raise FormatError(
                f"column {key!r} of {self._where(position)} does not have {width} numbers in each row, as "
                "meta/info.json says"
            ) from error

    def read(self, position: int) -> Episode:
        where, table = self._where(position), self._table(position)
        times = self._column(table, position, "timestamp")[:, 0].astype(np.float64)
        steps = np.diff(times) * self.fps
        if len(steps) and not self.options.fps and np.abs(steps - 1).max() > TOLERANCE:
            worst = int(np.abs(steps - 1).argmax())
            raise FormatError(
                f"{where}: timestamps {worst} and {worst + 1} are {steps[worst] / self.fps:.4g} s apart, and "
                f"meta/info.json says fps {self.fps:g}; give fps= if the file is wrong"
            )
        others: dict[str, np.ndarray] = {}
        if self.proprio:
            parts = [self._column(table, position, key) for key in self.proprio]
            others["proprio"] = np.concatenate(parts, axis=1, dtype=np.float32)
        for key in self.extra:
            array = self._column(table, position, key)
            name = key.removeprefix(EXTRA)
            others[name] = array[:, 0] if self.info["features"][key].get("scalar") else array
        frames = self._frames(table, position, times)
        return assemble(
            where,
            frames,
            self._column(table, position, self.action),
            others,
            self.meta,
            self.options.action_shift,
        )

    def _frames(self, table: pa.Table, position: int, times: np.ndarray) -> np.ndarray:
        where = self._where(position)
        if self.info["features"][self.camera]["dtype"] == "image":
            return _images(where, table[self.camera].to_pylist())
        file = self._file(self.info["video_path"], position, f"videos/{self.camera}", video_key=self.camera)
        start = float(self.episodes[position][f"videos/{self.camera}/from_timestamp"])
        try:
            if self._video is None or self._video[0] != file:
                self._video = (file, open_video(file))
            video = self._video[1]
            wanted = start + times
            chosen = np.searchsorted(video.timestamps, wanted - 0.5 / self.fps)
            late = np.abs(video.timestamps[np.minimum(chosen, len(video) - 1)] - wanted) * self.fps
            if (late > TOLERANCE).any() or chosen.max() >= len(video):
                row = int(np.argmax(late > TOLERANCE))
                raise FormatError(
                    f"{where}: its row {row} is shown at {wanted[row]:.4f} s, where {file} ({video.fps:.4g} frames per "
                    "second) has no frame; the video does not fit the table"
                )
            return video.frames(chosen)
        except (VideoError, FrameError, FileNotFoundError) as error:
            raise FormatError(f"{where}: {error}") from error


def _images(where: str, rows: list[Any]) -> np.ndarray:
    """Pictures that are stored in the table itself."""
    from PIL import Image

    frames = []
    for number, row in enumerate(rows):
        try:
            with Image.open(io.BytesIO(row["bytes"]), formats=("PNG", "JPEG")) as image:
                frames.append(np.asarray(image.convert("RGB")).transpose(2, 0, 1))
        except Exception as error:  # Pillow fails in many ways
            raise FormatError(f"picture {number} of {where} cannot be read") from error
    return np.stack(frames)


def _schema(file: Path) -> pa.Schema:
    try:
        return pq.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise FormatError(
            f"{file} cannot be read as parquet ({' '.join(str(error).split())[:100]})"
        ) from error


def _read(file: Path, columns: list[str]) -> pa.Table:
    try:
        return pq.read_table(file, columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise FormatError(
            f"{file} cannot be read as parquet ({' '.join(str(error).split())[:100]})"
        ) from error


def open_reader(path: Path, options: ImportOptions) -> LeRobotReader:
    """Open a LeRobot dataset."""
    return LeRobotReader(path, options)


def open_writer(path: Path, meta: dict[str, Any], mode: str, codecs: dict[str, str]) -> LeRobotWriter:
    """Write a LeRobot dataset."""
    return LeRobotWriter(path, meta, mode, codecs.get("frames", "mp4"))
