"""What jobs share that train something on top of a world model: the model, what it did not see, its cached latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from experiments.common import split_episodes
from experiments.world_models import cache_together
from worldmodel.data.episodes import EpisodeStore
from worldmodel.data.windows import Windows
from worldmodel.evaluation.trajectories import Imagination, Trajectory, read_trajectories
from worldmodel.models.files import directory_hash, read_config
from worldmodel.models.world_model import WorldModel
from worldmodel.training.run import Run

DEFAULT_SHARE = 0.05
MEASURED = 50


@dataclass(frozen=True)
class Frozen:
    """A trained world model, and the episodes that something is trained with on top of it.

    Attributes:
        path: The model directory.
        hash: Names its weights.
        model: In evaluation mode; nothing of it is trained.
        store: The episodes.
        train, held_out: Their positions. The model has not seen those held out.
        share: How much is held out.
    """

    path: Path
    hash: str
    model: WorldModel
    store: EpisodeStore
    train: range
    held_out: range
    share: float

    @property
    def stride(self) -> int:
        """Steps of the data in one step of the model."""
        return self.model.config.actions.per_step // int(self.store[0]["actions"].shape[1])

    def unseen(self, device: str) -> tuple[Imagination, list[Trajectory]]:
        """The model as evaluations take it, and held-out episodes as it sees them."""
        model = self.model
        window = model.config.window
        eyes = Imagination(model.encode, model.rollout, model.dynamics.context, device, window=window)
        places = self.held_out[:MEASURED]
        per_step, proprio = model.config.actions.per_step, model.takes_proprio
        return eyes, read_trajectories(eyes, self.store, places, per_step, proprio, keep_frames=False)


def open_frozen(model: str, data: str, held_out: float) -> Frozen:
    """Read a world model and the episodes to go on with.

    Args:
        model: Its directory.
        data: Dataset directory.
        held_out: Share of the episodes to hold out; 0: what the model's training held out.

    Raises:
        ValueError: The data's actions are not the model's, or more is to be held out than its training did.
    """
    path = Path(model).expanduser()
    found, store = WorldModel.load(path), EpisodeStore(data)
    found.requires_grad_(False)
    check_actions(found, store)
    share, _ = held_out_share(held_out, path, store)
    train, unseen = split_episodes(store, share)
    return Frozen(path, directory_hash(path), found, store, train, unseen, share)


def cached(frozen: Frozen, job: Run, steps: int, dtype: str) -> Windows:
    """Training windows of latents, each of which is computed once: ``tokens (T+1, N, Z)``, without proprioception."""
    model, path = frozen.model, job.path / "latents"
    window, stride = model.config.window, frozen.stride
    cache_together(Latents(model), frozen.store, path, frozen.hash, window, stride, dtype)
    return Windows(EpisodeStore(path), frozen.train, steps, "tokens", stride)


class Latents(nn.Module):
    """Encoder and head as the latent cache takes an encoder."""

    def __init__(self, model: WorldModel) -> None:
        super().__init__()
        self.encoder, self.head = model.encoder, model.head

    def encode_steps(self, frames: Tensor, window: int = 1) -> Tensor:
        """Frames ``(B, T, C, H, W)`` to latents ``(B, T, N, Z)``."""
        latents: Tensor = self.head(self.encoder.encode_steps(frames, window=window))
        return latents.float()


def sampled_actions(windows: Windows, most: int = 2048) -> Tensor:
    """Actions ``(B, T, K, A)`` of windows that are evenly spread over the data."""
    items: Sequence[int] = range(0, len(windows), max(1, len(windows) // most))
    return torch.from_numpy(windows.actions(items))


def check_actions(model: WorldModel, store: EpisodeStore) -> None:
    """See that the data's actions are the model's.

    Raises:
        ValueError: They have other dimensions, or do not divide a step of the model.
    """
    found, wanted = store[0]["actions"].shape[-1], model.config.actions.dim
    if found != wanted:
        raise ValueError(
            f"actions of episode 0 in {store.path} have {found} dimensions, the model was trained with {wanted}; "
            f"use data of {model.config.env_id or 'the same environment'}"
        )
    stored, per_step = store[0]["actions"].shape[1], model.config.actions.per_step
    if per_step % stored:
        raise ValueError(
            f"{store.path} has {stored} actions per step, which do not divide the model's {per_step}; use data with "
            "fewer"
        )


def held_out_share(wanted: float, model: Path, store: EpisodeStore) -> tuple[float, list[str]]:
    """Which share of the episodes the model has not seen, and what is to be noted about it.

    Args:
        wanted: The setting ``held_out``; 0: what training held out, where the model says so.
        model: The model directory.
        store: The data.

    Raises:
        ValueError: More is asked for than training held out.
    """
    training = read_config(model, "world_model").get("facts") or {}
    seen = training.get("held_out")
    if seen is None:
        note = "the model does not say what it was trained on: see that the last episodes were not part of it"
        return wanted or DEFAULT_SHARE, [note]
    if training.get("data") != store.hash:
        return wanted or DEFAULT_SHARE, ["the model was trained on other data than these"]
    if wanted > seen:
        raise ValueError(f"held_out={wanted}, but {model} was trained on all but {seen}; use {seen} at most")
    return wanted or seen, []
