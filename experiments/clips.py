"""Where a pretraining's clips come from: an episode dataset, or a corpus of videos."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from experiments.common import split_episodes
from worldmodel.atomic import read_json
from worldmodel.data.clips import frame_interval
from worldmodel.data.corpus import Corpus, CorpusConfig
from worldmodel.data.corpus_damage import DamageLog
from worldmodel.data.corpus_files import CorpusError
from worldmodel.data.episodes import EpisodeStore
from worldmodel.data.images import is_image
from worldmodel.data.loader import ClipLoader, Samples
from worldmodel.data.videos import open_video
from worldmodel.data.windows import Windows
from worldmodel.masks import Grid, MaskConfig, draw_masks
from worldmodel.objectives.augment import flip_batch
from worldmodel.objectives.base import Batch
from worldmodel.report.pretraining_run import Facts, Source
from worldmodel.report.retrieval import ClipBank
from worldmodel.seeding import KeyedOrder
from worldmodel.training.distributed import current_world, rank_indices

logger = logging.getLogger("worldmodel")

BANK = 48  # clips that are kept for the report, or fewer of large ones:
BANK_BYTES = 2**26


class Clips(Protocol):
    """What a pretraining needs to know of its data."""

    #: sha256 of the data, wherever it lies.
    hash: str
    #: Share that training does not see, and of what: file, time or episode.
    held_out: float
    held_out_by: str
    #: Frames per second of a clip; 0 if unknown.
    fps: float
    #: One line for the model's card.
    title: str
    #: Whether reading a clip takes long enough for processes of its own.
    slow: bool
    #: ``samples[global index]["frames"]`` is a clip ``(T, 3, H, W)`` uint8.
    samples: Samples

    def bank(self) -> ClipBank | None:
        """Held-out clips for the report's pictures, or, where nothing is held out, clips of the training."""

    def facts(self, run: Path) -> Facts:
        """What the report says of the data."""

    def damage(self, run: Path) -> DamageLog | None:
        """Keeps count of files that cannot be read."""


class EpisodeClips:
    """Clips of consecutive frames, ``stride`` environment steps apart, from an episode dataset.

    Raises:
        FileNotFoundError, ValueError: There is no such dataset, its frames are of another size than ``size``, or its
            episodes are too short.
    """

    slow = False

    def __init__(self, path: str, frames: int, size: int, stride: int, held_out: float, seed: int) -> None:
        self.store = EpisodeStore(path)
        self.hash, self.held_out, self.held_out_by = self.store.hash, held_out, "episode"
        self.fps = float(self.store.meta.get("fps") or 0) / stride
        self.title = str(self.store.meta["env_id"])
        height, width = self.store[0]["frames"].shape[-2:]
        if (height, width) != (size, size):
            raise ValueError(
                f"{path} has frames of {height} x {width} pixels, but encoder.image_size={size}; they must be the same"
            )
        train, rest = split_episodes(self.store, held_out)
        self.windows = Windows(self.store, train, frames - 1, stride=stride)
        self._rest = Windows(self.store, rest, frames - 1, stride=stride)
        self.samples: Samples = _Shuffled(self.windows, seed)

    def bank(self) -> ClipBank | None:
        """See ``Clips``."""
        count = min(_bank_size(self._rest.frames([0])[0]), len(self._rest))
        places = np.linspace(0, len(self._rest) - 1, count).astype(int)
        names = tuple(f"held-out clip {place}" for place in places)
        return ClipBank(self._rest.frames(places.tolist()), names, (0.0,) * len(names), self.fps)

    def facts(self, run: Path) -> Facts:
        """See ``Clips``."""
        return Facts((Source(self.title, len(self.store)),), clip_fps=self.fps)

    def damage(self, run: Path) -> DamageLog | None:
        """An episode dataset that cannot be read is an error at once."""
        return None


class _Shuffled:
    """Windows in a keyed order."""

    def __init__(self, windows: Windows, seed: int) -> None:
        self.windows, self.order = windows, KeyedOrder(len(windows), seed)

    def __getitem__(self, index: int, /) -> Mapping[str, Any]:
        return {"frames": self.windows.frames([self.order[index]])[0]}


class VideoClips:
    """Clips of a corpus of videos.

    Raises:
        CorpusError, OSError, ValueError: Nothing was found, or it cannot be read.
    """

    slow = True

    def __init__(self, config: CorpusConfig, seed: int) -> None:
        self.config, self.seed = config, seed
        self.held_out, self.held_out_by = config.held_out, config.held_out_by
        self.fps = 0.0 if config.stride else config.fps
        self.corpus = Corpus(config, seed, "train" if config.held_out else "all")
        self.hash = self.corpus.hash
        self.samples: Samples = self.corpus
        self.title = f"{self.corpus.files} videos"
        count = sum(len(listing.paths) for listing in self.corpus.listings)
        if (
            config.held_out
            and config.held_out_by == "file"
            and self.corpus.files == count
            and current_world().first
        ):
            logger.warning(
                "held_out=%g of %d files is none: training sees all; choose another share, or corpus.held_out_by=time",
                config.held_out,
                count,
            )

    def bank(self) -> ClipBank | None:
        """See ``Clips``."""
        try:
            found = _first_samples(
                Corpus(self.config, self.seed, "held_out") if self.held_out else self.corpus
            )
        except CorpusError as error:  # few or short videos: no reason to do without the pictures
            logger.warning("the report shows clips of the training, for want of others: %s", error)
            found = _first_samples(self.corpus)
        names = short_names([sample["source"] for sample in found])
        starts = tuple(float(sample["start"]) for sample in found)
        lengths = tuple(self._seconds(sample["source"]) for sample in found) if self.config.stride else ()
        return ClipBank(np.stack([sample["frames"] for sample in found]), names, starts, self.fps, lengths)

    def _seconds(self, path: str) -> float:
        """How long a clip of a video lasts, where its steps are counted in frames."""
        if is_image(path):
            return 0.0
        with open_video(path, self.config.backend) as video:
            return self.config.frames * self.config.stride * frame_interval(video.timestamps)

    def facts(self, run: Path) -> Facts:
        """See ``Clips``."""
        counts = [len(listing.paths) for listing in self.corpus.listings]
        named = self.config.named_sources()
        weights = [source.weight for source in named.values()]
        shares = [count if weight is None else weight for count, weight in zip(counts, weights, strict=True)]
        sources = tuple(
            Source(source.path, count, share=share / sum(shares))
            for source, count, share in zip(named.values(), counts, shares, strict=True)
        )
        skipped: dict[str, str] = {}
        for file in sorted(run.glob("skipped*.csv")):  # of each process
            skipped |= DamageLog(self.corpus.files, self.config.max_damaged, file).skipped
        videos = tuple(dict.fromkeys(path for listing in self.corpus.listings for path in listing.paths[:4]))
        return Facts(sources, tuple(skipped.items()), videos[:4], clip_fps=self.fps)

    def damage(self, run: Path) -> DamageLog | None:
        """A process's own list: each reads other files."""
        rank = current_world().rank
        name = "skipped.csv" if rank == 0 else f"skipped-{rank}.csv"
        return DamageLog(self.corpus.files, self.config.max_damaged, run / name)


def short_names(paths: Sequence[str]) -> tuple[str, ...]:
    """What videos are called: by their file's name, with as many folders before it as it takes to tell them apart."""
    parts = [Path(path).parts for path in paths]

    def name(own: tuple[str, ...]) -> str:
        for depth in range(1, len(own)):
            if all(other[-depth:] != own[-depth:] for other in parts if other != own):
                return str(Path(*own[-depth:]))
        return str(Path(*own))

    return tuple(map(name, parts))


def _first_samples(corpus: Corpus) -> list[dict[str, Any]]:
    """As many as a bank holds."""
    first = corpus[0]
    return [first, *(corpus[index] for index in range(1, _bank_size(first["frames"])))]


def _bank_size(clip: np.ndarray) -> int:
    return int(np.clip(BANK_BYTES // clip.nbytes, 8, BANK))


class Draw(NamedTuple):
    """How a batch is made of clips."""

    mask: Mapping[str, MaskConfig]
    grid: Grid
    batch_size: int
    flip: float
    seed: int
    workers: int


def clip_batches(clips: Clips, how: Draw, device: str, run: Path) -> Callable[[int], Batch]:
    """A function from the step to this process's part of its batch, on the device.

    Everything in it depends on the seed and the global sample indices only.
    """
    damage = clips.damage(run)
    loader = ClipLoader(
        clips.samples,
        partial(rank_indices, batch_size=how.batch_size),
        how.workers,
        on_skipped=None if damage is None else lambda skipped: damage.add(skipped, samples=0),
        pin=device.startswith("cuda"),
    )

    def draw(step: int) -> Batch:
        ids = rank_indices(step, how.batch_size)
        frames: torch.Tensor = loader(step)["frames"]
        if damage is not None:
            damage.add((), samples=len(ids))
        masks = draw_masks(how.mask, how.grid, how.seed, ids) if how.mask else ()
        batch = Batch(step, ids, views=(frames,), masks=masks).to(device)
        return flip_batch(batch, how.seed, how.flip)

    return draw


def is_episode_dataset(path: str) -> bool:
    """Whether a directory is one that ``worldmodel collect`` made."""
    file = Path(path).expanduser() / "meta.json"
    if not path or not file.is_file():
        return False
    try:
        meta = read_json(file)
    except ValueError:
        return False
    return (
        isinstance(meta, dict) and "format_version" in meta
    )  # folders of videos may have a meta.json of their own
