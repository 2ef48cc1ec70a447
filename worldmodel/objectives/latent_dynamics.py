"""Training a world model: predict the next latents from latents and actions, without collapse."""

from dataclasses import dataclass

import torch
from torch import Tensor

from worldmodel.models.world_model import WorldModel
from worldmodel.objectives import regularizers
from worldmodel.objectives.base import Batch, Objective
from worldmodel.objectives.moments import Moments
from worldmodel.objectives.predictions import (
    InverseDynamics,
    PredictionConfig,
    latent_distance,
    latents_of,
    prediction_losses,
    prediction_monitors,
    sum_of,
)
from worldmodel.seeding import keyed_torch_generator
from worldmodel.training.monitors import effective_rank

#: The settings that are weights: of predictions, of terms against collapse, of terms that shape the latent.
WEIGHTS = (
    *("teacher_forcing", "rollout"),
    *("sigreg", "variance", "covariance"),
    *("time_similarity", "time_variance", "straightening", "inverse_dynamics"),
)


@dataclass
class LatentDynamicsConfig(PredictionConfig):
    """The world model's losses: predictions, and terms on the latents. What has weight 0 is not computed."""

    #: Weight of SIGReg, which prevents collapse. It pulls the latents towards an isotropic Gaussian of all their
    #: dimensions; too much of it curls up the few that the world has, and distance stops meaning distance.
    sigreg: float = 0.02
    #: Random directions of SIGReg.
    directions: int = 64
    #: SIGReg of each step of the windows by itself, averaged (LeWM), instead of all steps together.
    sigreg_per_step: bool = False
    #: Weight of VICReg's variance term, at each step of the windows.
    variance: float = 0.0
    #: Weight of VICReg's covariance term, at each step of the windows.
    covariance: float = 0.0
    #: Weight of the squared change from step to step (PLDM).
    time_similarity: float = 0.0
    #: Weight of a hinge on the spread within each window (PLDM).
    time_variance: float = 0.0
    #: Weight of 1 - cosine of successive changes (temporal straightening).
    straightening: float = 0.0
    #: Weight of the loss of a network that reads the action from two successive latents.
    inverse_dynamics: float = 0.0
    #: Features of that network's hidden layers.
    inverse_hidden: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(getattr(self, name) for name in WEIGHTS) < 0:
            raise ValueError("objective weights must not be negative")
        if min(self.directions, self.inverse_hidden) < 1:
            raise ValueError("objective.directions and inverse_hidden must be positive")


class LatentDynamics(Objective):
    """Teacher forcing, rollout, and terms on the latents; by default MSE with SIGReg.

    LeWM (2603.19312) with V-JEPA 2-AC's rollout loss (2506.09985). By default gradients flow through predictions and
    targets alike, and SIGReg prevents the collapse that this would end in. ``batch.views[0]`` holds cached tokens
    ``(B, T+1, N, D)`` or frames ``(B, T+1, C, H, W)``; what trains (head and dynamics, or the encoder too) is what asks
    for gradients. Of an ensemble of dynamics each member has a loss of its own, and the mean of them is taken.

    With several processes all statistics over the batch are of the global batch: losses and gradients are those of one
    process. With ``loop.accumulate`` they are those of a micro-batch.

    Args:
        model: What is trained.
        config: The losses.
        seed: Keys what is drawn.
        moments: Of held-out episodes, for monitors.
    """

    def __init__(
        self, model: WorldModel, config: LatentDynamicsConfig, seed: int, moments: Moments | None = None
    ) -> None:
        super().__init__()
        self.model, self.config, self.seed, self.moments = model, config, seed, moments
        if config.inverse_dynamics:
            spec, dynamics = model.config.actions, model.dynamics
            features = (dynamics.tokens - self._proprio_tokens()) * dynamics.width
            self.inverse = InverseDynamics(features, spec.per_step * spec.dim, config.inverse_hidden)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.actions is not None
        latents = latents_of(self.model, batch)
        span = self.config.span(batch.actions.shape[1], self.seed, batch.step)
        parts = prediction_losses(self.model.dynamics, latents, batch.actions, self.config, span)
        parts |= self._latent_losses(self._seen(latents), batch)
        weights = {name: getattr(self.config, name) for name in WEIGHTS}
        # SIGReg first: float addition in another order would be another loss in the last bit.
        order = sorted(parts, key=lambda name: name != "sigreg")
        return {"loss": sum_of([weights[name] * parts[name] for name in order]), **parts}

    @torch.no_grad()
    def monitor(self, batch: Batch) -> dict[str, float]:
        assert batch.actions is not None
        latents, actions = latents_of(self.model, batch).float(), batch.actions
        flat = self._seen(latents).flatten(2).flatten(0, 1)
        spread = {"latent_std": float(flat.std(dim=0).mean()), "latent_rank": effective_rank(flat)}
        order = {} if self.moments is None else self.moments.figures(self.model)
        return spread | order | prediction_monitors(self.model.dynamics, latents, actions, self.config)

    def _proprio_tokens(self) -> int:
        return int(self.model.proprio is not None)

    def _seen(self, latents: Tensor) -> Tensor:
        """The latents without the proprioception token, which is not learned and says what the camera should show."""
        return latents[:, :, : latents.shape[2] - self._proprio_tokens()]

    def _latent_losses(self, latents: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The terms on latents ``(B, T+1, N, Z)`` alone that have a weight."""
        config, parts = self.config, {}
        windows = latents.flatten(2)
        by_step = windows.transpose(0, 1)
        if config.sigreg:
            generator = keyed_torch_generator("sigreg", self.seed, batch.step)
            rows = by_step if config.sigreg_per_step else windows.flatten(0, 1)
            parts["sigreg"] = regularizers.sigreg(rows, generator, config.directions)
        if config.variance:
            parts["variance"] = regularizers.variance_loss(by_step)
        if config.covariance:
            parts["covariance"] = regularizers.covariance_loss(by_step)
        if config.time_similarity:
            parts["time_similarity"] = regularizers.time_similarity_loss(windows)
        if config.time_variance:
            parts["time_variance"] = regularizers.time_variance_loss(windows)
        if config.straightening:
            parts["straightening"] = regularizers.straightening_loss(windows)
        if config.inverse_dynamics:
            assert batch.actions is not None
            dynamics = self.model.dynamics
            wanted = ((batch.actions - dynamics.action_mean) / dynamics.action_std).flatten(2)
            parts["inverse_dynamics"] = latent_distance(self.inverse(latents), wanted, "l2")
        return parts
