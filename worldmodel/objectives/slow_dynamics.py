"""Training the slow level: the same losses, over every k-th step, with macro-actions that are learned along."""

from __future__ import annotations

import torch
from torch import Tensor

from worldmodel.models.dynamics.slow import SlowDynamics, slow_steps
from worldmodel.models.world_model import WorldModel
from worldmodel.objectives.base import Batch, Objective
from worldmodel.objectives.known_latents import KnownLatents
from worldmodel.objectives.predictions import (
    PredictionConfig,
    latents_of,
    prediction_losses,
    prediction_monitors,
    sum_of,
)


class SlowLatentDynamics(Objective):
    """Teacher forcing and rollout over slow steps, from a trained world model's latents.

    The latents do not change, so nothing can collapse: the macro-actions learn to say what moves the latents over
    ``k`` steps, and the dynamics to predict it. The world model is frozen and in evaluation mode.

    Args:
        model: A trained world model, or what stands for it where its latents are cached.
        slow: Its slow level.
        config: Weights, distance and targets; steps and contexts are slow ones.
        seed: Keys what is drawn.
    """

    def __init__(
        self, model: WorldModel | KnownLatents, slow: SlowDynamics, config: PredictionConfig, seed: int
    ) -> None:
        super().__init__()
        self.model = model.requires_grad_(False).eval()
        self.slow, self.config, self.seed = slow, config, seed

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        latents, macro = self._slow(batch)
        span = self.config.span(macro.shape[1], self.seed, batch.step)
        parts = prediction_losses(self.slow.dynamics, latents, macro, self.config, span)
        return {"loss": sum_of([getattr(self.config, name) * part for name, part in parts.items()]), **parts}

    def train(self, mode: bool = True) -> SlowLatentDynamics:
        """As always, but the world model stays in evaluation mode."""
        super().train(mode)
        self.model.eval()
        return self

    @torch.no_grad()
    def monitor(self, batch: Batch) -> dict[str, float]:
        latents, macro = self._slow(batch)
        return prediction_monitors(self.slow.dynamics, latents.float(), macro, self.config)

    def _slow(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Latents ``(B, T', N, Z)`` of every k-th step, and the macro-actions ``(B, T' - 1, 1, m)`` between them."""
        assert batch.actions is not None
        with torch.no_grad():
            latents = latents_of(self.model, batch)
        latents, actions = slow_steps(latents, batch.actions, self.slow.encoder.config.steps)
        return latents, self.slow.encode_actions(actions)
