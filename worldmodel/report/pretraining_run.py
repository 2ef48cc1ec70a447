"""What a pretraining leaves in its directory, as the report reads it; anything missing reads as none.

The report itself keeps there what it cannot make again without the corpus: ``report/facts.json`` (sources, skipped
files, command) and ``report/clips.npz`` (the clips it shows).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from worldmodel.atomic import read_json, write_atomic, write_json
from worldmodel.models.pretrained import load_encoder
from worldmodel.models.video_encoder import VideoEncoder
from worldmodel.report.retrieval import ClipBank
from worldmodel.training.run import read_metrics


@dataclass(frozen=True)
class Source:
    """A part of what was trained on.

    Attributes:
        name: Folder, list or data set.
        videos: Files, or episodes.
        hours: Of video in it; 0: unknown.
        share: Of the samples drawn from it, from 0 to 1.
    """

    name: str
    videos: int
    hours: float = 0.0
    share: float = 1.0


@dataclass(frozen=True)
class Facts:
    """What the page says that neither configuration nor metrics tell.

    Attributes:
        sources: What was trained on.
        skipped: Files that could not be read: name and reason.
        videos: Paths of videos to show features of, at most a few.
        command: The command line that made the run.
        clip_fps: Frames per second of the clips; 0: unknown.
    """

    sources: tuple[Source, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    videos: tuple[str, ...] = ()
    command: str = ""
    clip_fps: float = 0.0

    @property
    def hours(self) -> float:
        """Hours of video in all sources."""
        return sum(source.hours for source in self.sources)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Facts:
        """From ``report/facts.json``.

        Raises:
            ValueError: A key is unknown or missing.
        """
        try:
            found = dict(values)
            found["sources"] = tuple(Source(**source) for source in found.get("sources", ()))
            found["skipped"] = tuple((str(name), str(why)) for name, why in found.get("skipped", ()))
            found["videos"] = tuple(found.get("videos", ()))
            return cls(**found)
        except (TypeError, ValueError) as error:
            raise ValueError(f"report/facts.json is damaged ({error}); delete it") from error


@dataclass(frozen=True)
class Probe:
    """The score of one probe on one encoder.

    Attributes:
        study: Directory of the probing, relative to the run.
        kind: knn, linear, attentive ...
        encoder: ``pretrained`` or ``untrained``.
        value: Accuracy, or R^2 where ``number``.
        low, high: Its 95% interval.
        count: Samples in the test set.
        number: Whether a number was predicted, not a class.
    """

    study: str
    kind: str
    encoder: str
    value: float
    low: float
    high: float
    count: int
    number: bool

    @property
    def text(self) -> str:
        """The score as text."""
        return f"{self.value:.2f}" if self.number else f"{self.value:.1%}"

    @property
    def interval(self) -> str:
        """The interval as text."""
        if self.number:
            return f"{self.low:.2f} to {self.high:.2f}"
        return f"{self.low:.1%}–{self.high:.1%}".replace("%–", "–")


@dataclass
class PretrainingRun:
    """The directory of a pretraining.

    Raises:
        FileNotFoundError: There is no run in it.
    """

    path: Path
    config: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.path = Path(self.path)
        if not (self.path / "config.json").is_file():
            raise FileNotFoundError(f"no run at {self.path} (config.json is missing); give a run's directory")
        self.config = read_json(self.path / "config.json")

    def json(self, name: str) -> Any:
        """A JSON file of the run, or None.

        Raises:
            ValueError: It is damaged.
        """
        file = self.path / name
        return read_json(file) if file.is_file() else None

    def metrics(self) -> list[dict[str, Any]]:
        """Rows of ``metrics.jsonl``; none if there are none.

        Raises:
            ValueError: The file is damaged.
        """
        file = self.path / "metrics.jsonl"
        try:
            rows = read_metrics(file) if file.is_file() else []
        except ValueError as error:
            raise ValueError(f"{file} is damaged ({error})") from error
        return [row for row in rows if isinstance(row, dict) and "step" in row]

    def facts(self) -> Facts:
        """What was kept for the report."""
        return Facts.of(self.json("report/facts.json") or {})

    def keep(self, facts: Facts, clips: ClipBank | None) -> None:
        """Write what the report needs to be made again.

        Raises:
            OSError: The disk is full.
        """
        (self.path / "report").mkdir(exist_ok=True)
        write_json(self.path / "report" / "facts.json", asdict(facts))
        if clips is not None:
            arrays = {
                "frames": clips.frames,
                "names": np.array(clips.names),
                "starts": np.array(clips.starts, dtype=np.float64),
                "fps": np.array(clips.fps),
                "lengths": np.array(clips.lengths, dtype=np.float64),
            }

            def write(file: Path) -> None:
                with open(file, "wb") as out:  # a name without .npz would get one
                    np.savez_compressed(out, **arrays)  # type: ignore[arg-type]

            write_atomic(self.path / "report" / "clips.npz", write)

    def clips(self) -> ClipBank | None:
        """The clips that were kept.

        Raises:
            ValueError: The file is damaged.
        """
        file = self.path / "report" / "clips.npz"
        if not file.is_file():
            return None
        try:
            with np.load(file, allow_pickle=False) as arrays:
                names, starts = arrays["names"].tolist(), arrays["starts"].tolist()
                lengths = arrays["lengths"].tolist() if "lengths" in arrays else ()
                return ClipBank(
                    arrays["frames"], tuple(names), tuple(starts), float(arrays["fps"]), tuple(lengths)
                )
        except (KeyError, OSError, ValueError, EOFError) as error:
            raise ValueError(
                f"{file} is damaged ({error}); delete it, and the report leaves it out"
            ) from error

    def encoder(self) -> VideoEncoder | None:
        """The trained encoder (the EMA weights where there are some)."""
        directory = self.path / "model"
        config = self.json("model/config.json")
        if config is None:
            return None
        ema = "target_encoder" in config.get("parts", ["target_encoder"])
        return load_encoder(directory, "ema" if ema else "student")

    def probe_files(self) -> dict[str, dict[str, Any]]:
        """``probe*/results.json``, by their directories' names.

        Raises:
            ValueError: A file is damaged.
        """
        files = sorted(self.path.glob("probe*/**/results.json"))
        return {file.parent.relative_to(self.path).as_posix(): read_json(file) for file in files}

    def probes(self) -> list[Probe]:
        """The scores of all probes that were run in this directory.

        Raises:
            ValueError: A file is damaged.
        """
        found: list[Probe] = []
        for study, results in self.probe_files().items():
            try:
                found += _probes(study, results)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise ValueError(f"{self.path / study}/results.json holds no probes ({error})") from error
        return found


def _probes(study: str, results: Mapping[str, Any]) -> Iterator[Probe]:
    for kind, encoders in results["probes"].items():
        for encoder in ("pretrained", "untrained"):
            if encoder in encoders:
                scores = encoders[encoder]
                number = "accuracy" not in scores
                value, (low, high) = scores["r2" if number else "accuracy"], scores["interval"]
                yield Probe(study, kind, encoder, value, low, high, int(results.get("test", 0)), number)
