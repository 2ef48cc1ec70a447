"""Episodes as a world model sees them: a frame per model step, the actions between, and their latents.

Evaluations take these instead of models and stores, so that any model can be evaluated that has two functions:
``encode(frames (B, T, C, H, W) uint8) -> (B, T, N, Z)`` and ``rollout(context (E, M, N, Z), past_actions
(E, M-1, K, A), plans (E, S, L, K, A)) -> (E, S, L, N, Z)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldmodel.data.episodes import EpisodeStore

Rollout = Callable[[Tensor, Tensor, Tensor], Tensor]
#: Frames ``(B, T, C, H, W)`` uint8, and proprioception ``(B, T, Q)`` where the model takes it, to ``(B, T, N, Z)``.
Encode = Callable[[Tensor, Tensor | None], Tensor]
#: Elements of a latent above which ``flat`` projects.
WIDEST = 4096
#: Bytes of uint8 pixels that are encoded at once: large pictures come in smaller groups.
_PIXEL_BYTES = 2**26


@dataclass(frozen=True)
class Trajectory:
    """One episode.

    Attributes:
        position: In its store.
        frames: ``(T+1, C, H, W)`` uint8.
        actions: ``(T, K, A)`` float32: ``actions[t]`` leads from frame ``t`` to ``t+1``.
        latents: ``(T+1, N, Z)`` float32.
        states: ``(T+1, S)`` float64, or None where the data have none.
        proprio: ``(T+1, Q)`` float32, or None.
    """

    position: int
    frames: np.ndarray
    actions: Tensor
    latents: Tensor
    states: np.ndarray | None = None
    proprio: np.ndarray | None = None

    @property
    def steps(self) -> int:
        """``T``."""
        return len(self.actions)


@dataclass(frozen=True)
class Imagination:
    """What an evaluation needs of a world model.

    Attributes:
        encode, rollout: Its functions; see the module.
        context: Steps that a prediction may look back on, ``M``.
        device: Where it is.
        chunk: Frames that are encoded, and rollouts that are computed, at once, at most; fewer frames where they are
            large.
        window: Frames that the encoding of a step sees, its own included.
    """

    encode: Encode
    rollout: Rollout
    context: int = 1
    device: str = "cpu"
    chunk: int = 256
    window: int = 1

    @torch.inference_mode()
    def latents(self, frames: np.ndarray, proprio: np.ndarray | None = None) -> Tensor:
        """Latents ``(T+1, N, Z)`` of an episode's frames ``(T+1, C, H, W)``; of a long one, part by part."""
        size = min(self.chunk, max(1, _PIXEL_BYTES // max(1, frames[0].nbytes)))
        parts = []
        for begin in range(0, len(frames), size):
            # The frames before a part are what its first steps see; their own latents are known already.
            seen = max(0, begin - self.window + 1)
            rows = slice(seen, begin + size)
            pixels = torch.from_numpy(np.ascontiguousarray(frames[rows]))[None].to(self.device)
            body = None if proprio is None else torch.from_numpy(proprio[rows]).float()[None].to(self.device)
            parts.append(self.encode(pixels, body)[0, begin - seen :].float().cpu())
        return torch.cat(parts)

    @torch.inference_mode()
    def imagine(self, latents: Sequence[Tensor], actions: Sequence[Tensor], plans: Tensor) -> Tensor:
        """Roll out from several contexts at once.

        Args:
            latents: Contexts ``(m, N, Z)`` each, with ``m`` from 1 to ``context``.
            actions: ``(m - 1, K, A)`` each: those between the context's steps.
            plans: ``(E, L, K, A)``, or ``(E, S, L, K, A)``: what is done afterwards.

        Returns:
            ``(E, L, N, Z)``, or ``(E, S, L, N, Z)``: the latents after each action.
        """
        single = plans.ndim == 4
        candidates = plans[:, None] if single else plans
        rows: list[Tensor | None] = [None] * len(latents)
        for length in sorted({len(context) for context in latents}):
            alike = [i for i, context in enumerate(latents) if len(context) == length]
            for start in range(0, len(alike), self.chunk):
                part = alike[start : start + self.chunk]
                found = self.rollout(
                    torch.stack([latents[i] for i in part]).to(self.device),
                    torch.stack([actions[i] for i in part]).to(self.device),
                    candidates[part].to(self.device),
                )
                for i, row in zip(part, found.float().cpu(), strict=True):
                    rows[i] = row[0] if single else row
        return torch.stack([row for row in rows if row is not None])

    def from_moments(
        self, episodes: Sequence[Trajectory], moments: Sequence[tuple[int, int]], plans: Tensor
    ) -> Tensor:
        """``imagine`` from moments ``(episode, step)``, each with as much context as there is before it."""
        starts = [max(0, step + 1 - self.context) for _, step in moments]
        contexts = [
            episodes[e].latents[start : step + 1] for (e, step), start in zip(moments, starts, strict=True)
        ]
        past = [episodes[e].actions[start:step] for (e, step), start in zip(moments, starts, strict=True)]
        return self.imagine(contexts, past, plans)

    def next_latents(self, latents: Tensor, actions: Tensor) -> Tensor:
        """Predictions ``(T, N, Z)`` of steps 1..T of an episode, each from the true latents ``(T+1, N, Z)`` before."""
        steps = range(len(actions))
        starts = [max(0, t + 1 - self.context) for t in steps]
        contexts = [latents[start : t + 1] for t, start in zip(steps, starts, strict=True)]
        past = [actions[start:t] for t, start in zip(steps, starts, strict=True)]
        return self.imagine(contexts, past, actions[:, None])[:, 0]


def read_trajectories(
    model: Imagination,
    store: EpisodeStore,
    positions: Sequence[int],
    per_step: int,
    proprio: bool = False,
    keep_frames: bool = True,
) -> list[Trajectory]:
    """Encode episodes of a store.

    Args:
        model: The world model.
        store: Episodes with ``frames`` and ``actions``, and perhaps ``states`` and ``proprio``.
        positions: Which of them.
        per_step: The model's actions per step ``K``; frames in between are left out, and a last part that fills no
            step, too.
        proprio: Whether the model takes proprioception.
        keep_frames: Without it, only each episode's first frame is kept, which saves memory.

    Raises:
        ValueError: The data's actions do not divide the model's step, or proprioception is missing.
    """
    found = []
    for position in positions:
        episode = store[position]
        actions = episode["actions"][:]
        joined, rest = divmod(per_step, actions.shape[1])
        if rest:
            raise ValueError(
                f"{store.path} has {actions.shape[1]} actions per step, which do not divide the model's {per_step}"
            )
        if proprio and "proprio" not in episode:
            raise ValueError(
                f"episode {position} of {store.path} has no proprio, which the model was trained with"
            )
        steps = len(actions) // joined
        rows = slice(0, steps * joined + 1, joined)
        body = episode["proprio"][rows] if proprio else None
        frames = episode["frames"][rows]
        found.append(
            Trajectory(
                position,
                frames if keep_frames else frames[:1],
                torch.from_numpy(actions[: steps * joined].reshape(steps, per_step, -1)),
                model.latents(frames, body),
                episode["states"][rows] if "states" in episode else None,
                body,
            )
        )
    return found


def flat(latents: Tensor) -> Tensor:
    """Latents ``(L, N, Z)`` as rows ``(L, F)``; of very wide ones ``WIDEST`` fixed random projections."""
    rows = latents.flatten(1).float()
    if rows.shape[1] <= WIDEST:
        return rows
    generator = torch.Generator().manual_seed(0)
    found = torch.zeros(len(rows), WIDEST)
    for part in rows.split(WIDEST, dim=1):
        signs = torch.randint(0, 2, (part.shape[1], WIDEST), generator=generator, dtype=torch.int8)
        found += part @ (2.0 * signs - 1.0)
    return found / rows.shape[1] ** 0.5


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Root mean square distance over ``(N, Z)`` of latents ``(..., N, Z)``: the planners' usual cost."""
    return (a - b).square().mean(dim=(-2, -1)).sqrt()
