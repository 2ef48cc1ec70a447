"""A pixel decoder for a finished world model, and what it shows of held-out episodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from worldmodel.data.episodes import EpisodeStore
from worldmodel.evaluation.trajectories import Imagination, Trajectory
from worldmodel.models.decoder import PixelDecoder, PixelDecoderConfig
from worldmodel.models.files import directory_hash
from worldmodel.objectives.base import Batch
from worldmodel.objectives.pixel_decoding import PixelDecoding
from worldmodel.seeding import KeyedOrder
from worldmodel.training.distributed import rank_indices
from worldmodel.training.loop import LoopConfig, fit
from worldmodel.training.machine import choose_precision
from worldmodel.training.run import Run


@dataclass
class DecodingConfig:
    """The pixel decoder and its training."""

    network: PixelDecoderConfig = field(default_factory=PixelDecoderConfig)
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(steps=800, batch_size=32, lr=3e-3, precision="fp32")
    )
    #: Training frames that it learns from, at most.
    frames: int = 4096
    #: Held-out episodes that are shown.
    shown: int = 3


def decoder_of(
    model_path: Path,
    job: Path,
    store: EpisodeStore,
    train: Sequence[Trajectory],
    config: DecodingConfig,
    device: str,
    seed: int,
) -> PixelDecoder:
    """The decoder in ``<model>/decoder`` if it reads this model's latents in the same size; else one is trained there.

    Raises:
        OSError: The model's directory is not writable, or the disk is full.
    """
    place = model_path / "decoder"
    if (place / "config.json").is_file():
        try:
            found = PixelDecoder.load(place, model_path)
            if found.config == config.network:
                return found
        except ValueError:
            pass  # of a model that was here before, or of another version: it is made again
    latents, frames = sample_frames(store, train, config.frames)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = PixelDecoder(config.network, latents.shape[1], latents.shape[2], list(frames.shape[1:]))
    objective = PixelDecoding(network, latents, frames).to(device)
    order = KeyedOrder(len(frames), seed)

    def draw(step: int) -> Batch:
        ids = rank_indices(step, config.loop.batch_size)
        rows = [order[i] for i in ids]
        return Batch(step, ids, views=(latents[rows], frames[rows]))

    loop = dataclasses.replace(config.loop, precision=choose_precision(config.loop.precision, device))
    name = directory_hash(model_path)
    run = Run(job / "decoder", {"model": name, **dataclasses.asdict(config), "seed": seed})
    try:
        fit(objective, draw, loop, run, "pixel decoder")
    finally:
        run.close()
    network.cpu().eval().save(place, name)
    return network


def sample_frames(
    store: EpisodeStore, train: Sequence[Trajectory], count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents ``(L, N, Z)`` and their frames ``(L, C, H, W)``, the same number from every episode."""
    each = max(1, count // len(train))
    latents, frames = [], []
    for episode in train:
        rows = np.unique(np.linspace(0, episode.steps, min(each, episode.steps + 1)).round().astype(int))
        joined = episode.actions.shape[1] // store[episode.position]["actions"].shape[1]
        latents.append(episode.latents[rows])
        frames.append(torch.from_numpy(store[episode.position]["frames"][:][rows * joined]))
    return torch.cat(latents), torch.cat(frames)


def imagined_frames(
    model: Imagination, decoder: PixelDecoder, episodes: Sequence[Trajectory], horizon: int, count: int
) -> dict[str, np.ndarray]:
    """Rollouts of the ``count`` episodes in which most moves: ``true``, ``decoded`` and ``imagined``, uint8.

    Each is ``(count, L+1, C, H, W)``, from the last frame that is given on. ``decoded`` are the latents of the true
    frames: what differs between it and ``true`` is the decoder's fault, and what ``imagined`` adds, the model's.
    """
    usable = [e for e in episodes if e.steps >= horizon + model.context - 1]
    usable.sort(key=lambda e: -float(e.latents.std(dim=0).mean()))
    shown: dict[str, list[np.ndarray]] = {"true": [], "decoded": [], "imagined": []}
    first = model.context - 1
    for episode in usable[:count]:
        rows = slice(first, first + horizon + 1)
        plan = episode.actions[first : first + horizon]
        imagined = model.from_moments([episode], [(0, first)], plan[None])[0]
        shown["true"].append(episode.frames[rows])
        shown["decoded"].append(decoder.frames(episode.latents[rows]).numpy())
        start = episode.latents[first : first + 1]
        shown["imagined"].append(decoder.frames(torch.cat([start, imagined])).numpy())
    return {f"rollout.{name}": np.stack(rows) for name, rows in shown.items() if rows}
