"""Writes LeRobot datasets, version 3.0; ``worldmodel.data.formats.lerobot`` shows the layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from worldmodel.atomic import read_json, write_atomic, write_json
from worldmodel.data.episode_codecs import Codec, encode_video
from worldmodel.data.formats.base import Episode, FormatError, own_meta, require_even, rows_of

OWN = "meta/worldmodel.json"  # our metadata, in full
EXTRA = "worldmodel."  # begins the names of columns that LeRobot has no name for
CAMERA = "observation.images.frames"
BUFFER = 2**26  # bytes of frames that go into one file
FILES_PER_CHUNK = 1000
STATISTICS = ("min", "max", "mean", "std", "count")


class LeRobotWriter:
    """Collects episodes, and writes them file by file.

    A file of rows, its video and its table of episodes are written in this order, each atomically; the last makes them
    count. So a killed writer loses the file in hand, and another goes on behind the last whole one.

    Raises:
        ValueError: The metadata have no fps, or the codec is not mp4.
        FileExistsError: There is a dataset with other metadata, or ``mode="create"``.
    """

    def __init__(self, path: Path, meta: dict[str, Any], mode: str, codec: str = "mp4") -> None:
        self.path, self.meta, self.codec = path, json.loads(json.dumps(own_meta(meta))), Codec.parse(codec)
        fps = float(meta.get("fps") or 0)
        if not fps:
            raise ValueError(f"the metadata for {path} have no fps, which LeRobot needs; give fps=")
        if self.codec.kind != "mp4":
            raise ValueError(f"LeRobot datasets hold mp4, not {codec}; use codec=mp4:CRF:GOP")
        self.fps: float = int(fps) if fps == int(fps) else fps
        if path.exists() and any(path.iterdir()):
            same = (path / OWN).is_file() and read_json(path / OWN) == self.meta
            if mode == "create" or not same:
                raise FileExistsError(f"{path} is there already and is not this dataset; choose another path")
        (path / "meta").mkdir(parents=True, exist_ok=True)
        write_json(path / OWN, self.meta)
        self._waiting: list[tuple[int, Episode]] = []
        self._rows: list[dict[str, Any]] = []
        for file in sorted((path / "meta" / "episodes").glob("chunk-*/file-*.parquet")):
            self._rows += pq.read_table(file).to_pylist()
        self._next = self._rows[-1]["worldmodel/source"] + 1 if self._rows else 0
        self._features: dict[str, Any] = {}
        if self._rows:
            self._features = read_json(path / "meta" / "info.json")["features"]

    def wants(self, index: int) -> bool:
        """Whether episode ``index`` is still to be written."""
        return index >= self._next

    def write(self, index: int, episode: Episode) -> None:
        """Add an episode.

        Raises:
            FormatError: Its frames cannot be a video, or it has other arrays than those before it.
        """
        require_even(index, episode["frames"])
        features = self._describe(episode)
        if self._features and features != self._features:
            keys = self._features.keys() | features.keys()
            different = sorted(key for key in keys if self._features.get(key) != features.get(key))
            raise FormatError(f"episode {index} has another {', '.join(different)} than those before it")
        self._features = features
        self._waiting.append((index, episode))
        if sum(waiting["frames"].nbytes for _, waiting in self._waiting) >= BUFFER:
            self._flush()

    def finish(self) -> None:
        """Write what is left, the statistics and the tasks."""
        self._flush()
        if not self._rows:
            raise FormatError(f"{self.path} would hold no episode")
        write_json(
            self.path / "meta" / "stats.json", {key: _joined(self._rows, key) for key in self._features}
        )

    def _describe(self, episode: Episode) -> dict[str, Any]:
        actions, others = rows_of(episode)
        height, width = episode["frames"].shape[2:]
        picture: dict[str, Any] = {
            "dtype": "video",
            "shape": [height, width, 3],
            "names": ["height", "width", "channels"],
        }
        picture["info"] = {
            "video.height": height, "video.width": width, "video.codec": "h264", "video.pix_fmt": "yuv420p",
            "video.is_depth_map": False, "video.fps": self.fps, "video.channels": 3, "has_audio": False,
        }  # fmt: skip
        names, repeat = self.meta.get("action_names"), actions.shape[1] // episode["actions"].shape[2]
        if names and repeat > 1:
            names = [f"{name}_{number}" for number in range(repeat) for name in names]
        features = {CAMERA: picture, "action": _feature(actions, names)}
        for name, array in others.items():
            if name == "proprio":
                features["observation.state"] = _feature(array, self.meta.get("proprio_names"))
            else:
                features[EXTRA + name] = _feature(array.reshape(len(array), -1)) | {"scalar": array.ndim == 1}
        features["timestamp"] = {"dtype": "float32", "shape": [1], "names": None}
        for name in ("frame_index", "episode_index", "index", "task_index"):
            features[name] = {"dtype": "int64", "shape": [1], "names": None}
        return features

    def _flush(self) -> None:
        if not self._waiting:
            return
        number = self._rows[-1]["data/file_index"] + 1 if self._rows else 0
        number += FILES_PER_CHUNK * self._rows[-1]["data/chunk_index"] if self._rows else 0
        chunk, file = divmod(number, FILES_PER_CHUNK)
        place = f"chunk-{chunk:03d}/file-{file:03d}"
        tables: list[pa.Table] = []
        rows: list[dict[str, Any]] = []
        shown = 0
        first = self._rows[-1]["dataset_to_index"] if self._rows else 0
        for source, episode in self._waiting:
            count, numbered = len(episode["frames"]), len(self._rows) + len(rows)
            columns = self._columns(episode, numbered, first)
            tables.append(_table(columns, self._features))
            row: dict[str, Any] = {"episode_index": numbered, "tasks": [self._task()], "length": count}
            row |= {"data/chunk_index": chunk, "data/file_index": file}
            row |= {"dataset_from_index": first, "dataset_to_index": first + count}
            row |= {f"videos/{CAMERA}/chunk_index": chunk, f"videos/{CAMERA}/file_index": file}
            row[f"videos/{CAMERA}/from_timestamp"] = shown / self.fps
            row[f"videos/{CAMERA}/to_timestamp"] = (shown + count) / self.fps
            row |= {
                "meta/episodes/chunk_index": chunk,
                "meta/episodes/file_index": file,
                "worldmodel/source": source,
            }
            for key, array in {CAMERA: episode["frames"], **columns}.items():
                row |= {f"stats/{key}/{name}": value for name, value in _statistics(array).items()}
            rows.append(row)
            first, shown = first + count, shown + count
        frames = [episode["frames"] for _, episode in self._waiting]

        def video(temporary: Path) -> None:
            encode_video(temporary, frames, self.fps, self.codec.quality, self.codec.gop)

        _write(self.path / "videos" / CAMERA / f"{place}.mp4", video)
        _write(self.path / "data" / f"{place}.parquet", lambda p: pq.write_table(pa.concat_tables(tables), p))
        self._rows += rows
        self._write_info()
        episodes = pa.Table.from_pylist(rows)
        _write(self.path / "meta" / "episodes" / f"{place}.parquet", lambda p: pq.write_table(episodes, p))
        self._next, self._waiting = self._waiting[-1][0] + 1, []

    def _columns(self, episode: Episode, number: int, first: int) -> dict[str, np.ndarray]:
        actions, others = rows_of(episode)
        count = len(actions)
        columns = {"action": actions}
        for name, array in others.items():
            columns["observation.state" if name == "proprio" else EXTRA + name] = array.reshape(count, -1)
        columns["timestamp"] = (np.arange(count) / self.fps).astype(np.float32)
        columns["frame_index"] = np.arange(count)
        columns["episode_index"] = np.full(count, number)
        columns["index"] = np.arange(first, first + count)
        columns["task_index"] = np.zeros(count, np.int64)
        return columns

    def _task(self) -> str:
        return str(self.meta.get("task") or self.meta.get("env_id") or "recorded")

    def _write_info(self) -> None:
        write_json(
            self.path / "meta" / "info.json",
            {
                "codebase_version": "v3.0",
                "robot_type": self.meta.get("env_id"),
                "total_episodes": len(self._rows),
                "total_frames": self._rows[-1]["dataset_to_index"],
                "total_tasks": 1,
                "chunks_size": FILES_PER_CHUNK,
                "data_files_size_in_mb": 100,
                "video_files_size_in_mb": 200,
                "fps": self.fps,
                "splits": {"train": f"0:{len(self._rows)}"},
                "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
                "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
                "features": self._features,
            },
        )
        tasks = pa.table({"task_index": pa.array([0]), "task": pa.array([self._task()])})
        # LeRobot looks tasks up by the index of a pandas table.
        about = {
            "index_columns": ["task"],
            "column_indexes": [],
            "columns": [
                {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy, "metadata": None}
                for name, kind, numpy in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
            ],
            "creator": {"library": "pyarrow", "version": pa.__version__},
            "pandas_version": "2.0.0",
        }
        tasks = tasks.replace_schema_metadata({"pandas": json.dumps(about)})
        _write(self.path / "meta" / "tasks.parquet", lambda p: pq.write_table(tasks, p))


def _feature(array: np.ndarray, names: list[str] | None = None) -> dict[str, Any]:
    width = array.shape[1]
    names = list(names) if names and len(names) == width else [f"dim_{i}" for i in range(width)]
    return {"dtype": str(array.dtype), "shape": [width], "names": names}


def _table(columns: dict[str, np.ndarray], features: dict[str, Any]) -> pa.Table:
    arrays = {}
    for name, array in columns.items():
        width = features[name]["shape"][0]
        flat = pa.array(np.ascontiguousarray(array).reshape(-1))
        arrays[name] = flat if width == 1 else pa.FixedSizeListArray.from_arrays(flat, width)
    return pa.table(arrays)


def _statistics(array: np.ndarray) -> dict[str, Any]:
    """Of each number over the rows; of pictures, of each channel in [0, 1], as ``(3, 1, 1)``."""
    values = array.reshape(len(array), -1).astype(np.float64)
    picture = array.ndim == 4
    if picture:
        thinned = array[:: max(1, len(array) // 32)]  # as many pictures as it takes for a mean
        values = np.moveaxis(thinned, 1, -1).reshape(-1, 3) / 255.0
    found = {
        "min": values.min(axis=0),
        "max": values.max(axis=0),
        "mean": values.mean(axis=0),
        "std": values.std(axis=0),
    }
    shaped: dict[str, Any] = {
        name: (value.reshape(3, 1, 1) if picture else value).tolist() for name, value in found.items()
    }
    return {**shaped, "count": [len(thinned) if picture else len(values)]}


def _joined(rows: list[dict[str, Any]], key: str) -> dict[str, Any]:
    """The statistics of all episodes from those of each."""
    parts = {name: np.array([row[f"stats/{key}/{name}"] for row in rows]) for name in STATISTICS}
    counts = parts["count"].reshape(-1, *[1] * (parts["mean"].ndim - 1))
    mean = (counts * parts["mean"]).sum(axis=0) / counts.sum()
    spread = (counts * (parts["std"] ** 2 + (parts["mean"] - mean) ** 2)).sum(axis=0) / counts.sum()
    found = {
        "min": parts["min"].min(axis=0),
        "max": parts["max"].max(axis=0),
        "mean": mean,
        "std": np.sqrt(spread),
    }
    return {**{name: value.tolist() for name, value in found.items()}, "count": [int(counts.sum())]}


def _write(path: Path, write: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, write)
