"""Training a world model: predict the next latents from latents and actions, without collapse."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from worldmodel.models.world_model import WorldModel
from worldmodel.objectives import regularizers
from worldmodel.objectives.base import Batch, Objective
from worldmodel.objectives.predictions import (
    DISTANCES,
    InverseDynamics,
    latent_distance,
    members_of,
    rolled_out,
)
from worldmodel.seeding import keyed_rng, keyed_torch_generator
from worldmodel.training.monitors import effective_rank

#: The settings that are weights: of predictions, of terms against collapse, of terms that shape the latent.
PREDICTIONS = ("teacher_forcing", "rollout")
WEIGHTS = (
    *PREDICTIONS,
    *("sigreg", "variance", "covariance"),
    *("time_similarity", "time_variance", "straightening", "inverse_dynamics"),
)


@dataclass
class LatentDynamicsConfig:
    """The world model's losses. What has weight 0 is not computed."""

    #: Weight of the loss on predictions from true latents.
    teacher_forcing: float = 1.0
    #: Weight of the loss on predictions from predictions.
    rollout: float = 1.0
    #: Steps of the rollout; 0: all that the window has.
    rollout_steps: int = 0
    #: True latents that the rollout begins with; 0: any number, drawn each step.
    rollout_context: int = 1
    #: "through": gradients of the rollout pass through its steps. "stop": each prediction is an input like any other.
    rollout_gradient: str = "through"
    #: Distance of prediction and target: "l1", "l2", "smooth_l1" or "cosine".
    loss: str = "l2"
    #: "layer": targets are normalised over the features of each token. "none": they are the latents.
    target_norm: str = "none"
    #: Whether gradients reach the targets too. Without, an encoder learns from its latents as inputs only.
    target_gradient: bool = True
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
        if min(getattr(self, name) for name in WEIGHTS) < 0 or self.teacher_forcing + self.rollout == 0:
            raise ValueError(
                "objective weights must not be negative, and one of teacher_forcing and rollout positive"
            )
        for name, known in {
            "loss": DISTANCES,
            "target_norm": ("none", "layer"),
            "rollout_gradient": ("through", "stop"),
        }.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"objective.{name}={getattr(self, name)!r} is unknown; choose one of {', '.join(known)}"
                )
        if min(self.rollout_steps, self.rollout_context) < 0 or min(self.directions, self.inverse_hidden) < 1:
            raise ValueError(
                "objective.rollout_steps and rollout_context must not be negative, directions and inverse_hidden "
                "must be positive"
            )


class LatentDynamics(Objective):
    """Teacher forcing, rollout, and terms on the latents; by default MSE with SIGReg.

    LeWM (2603.19312) with V-JEPA 2-AC's rollout loss (2506.09985). By default gradients flow through predictions and
    targets alike, and SIGReg prevents the collapse that this would end in. ``batch.views[0]`` holds cached tokens
    ``(B, T+1, N, D)`` or frames ``(B, T+1, C, H, W)``; what trains (head and dynamics, or the encoder too) is what asks
    for gradients. Of an ensemble of dynamics each member has a loss of its own, and the mean of them is taken.

    With several processes all statistics over the batch are of the global batch: losses and gradients are those of one
    process. With ``loop.accumulate`` they are those of a micro-batch.
    """

    def __init__(self, model: WorldModel, config: LatentDynamicsConfig, seed: int) -> None:
        super().__init__()
        self.model, self.config, self.seed = model, config, seed
        if config.inverse_dynamics:
            spec, dynamics = model.config.actions, model.dynamics
            features = dynamics.tokens * dynamics.width
            self.inverse = InverseDynamics(features, spec.per_step * spec.dim, config.inverse_hidden)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.actions is not None
        latents = latents_of(self.model, batch)
        parts = self._prediction_losses(latents, batch.actions, batch.step)
        parts |= self._latent_losses(latents, batch)
        weights = {name: getattr(self.config, name) for name in WEIGHTS}
        # SIGReg first: float addition in another order would be another loss in the last bit.
        order = sorted(parts, key=lambda name: name != "sigreg")
        return {"loss": sum_of([weights[name] * parts[name] for name in order]), **parts}

    @torch.no_grad()
    def monitor(self, batch: Batch) -> dict[str, float]:
        assert batch.actions is not None
        latents, actions = latents_of(self.model, batch).float(), batch.actions
        wanted = self._targets(latents)
        rolled = rolled_out(self.model.dynamics, latents, actions, 1, actions.shape[1]).float()
        flat = latents.flatten(2).flatten(0, 1)
        error, stays = _rms(rolled[:, -1] - wanted[:, -1]), _rms(wanted[:, 0] - wanted[:, -1])
        figures = {
            "latent_std": float(flat.std(dim=0).mean()),
            "latent_rank": effective_rank(flat),
            "open_loop_error": error,
            "copy_last_error": stays,
            "open_loop_ratio": error / max(stays, 1e-12),
        }
        if len(latents) > 1:
            forced = self.model.dynamics(latents[:, :-1], actions).float()
            others = self.model.dynamics(latents[:, :-1], actions.roll(1, dims=0)).float()
            change = _rms(wanted[:, 1:] - wanted[:, :-1])
            figures["action_sensitivity"] = _rms(forced - others) / max(change, 1e-12)
        return figures

    def _targets(self, latents: Tensor) -> Tensor:
        """What is to be predicted, of the shape of ``latents``."""
        targets = latents if self.config.target_gradient else latents.detach()
        if self.config.target_norm == "layer":
            return F.layer_norm(targets.float(), targets.shape[-1:])
        return targets

    def _prediction_losses(self, latents: Tensor, actions: Tensor, step: int) -> dict[str, Tensor]:
        config, (start, steps) = self.config, self._span(actions.shape[1], step)
        through = config.rollout_gradient == "through"
        forced, rolled = [], []
        for dynamics in members_of(self.model.dynamics):
            if config.teacher_forcing:
                forced.append(dynamics(latents[:, :-1], actions))
            if config.rollout:
                rolled.append(rolled_out(dynamics, latents, actions, start, steps, through))
        wanted = self._targets(latents[:, 1:])
        parts = {}
        if forced:
            parts["teacher_forcing"] = mean_of([latent_distance(x, wanted, config.loss) for x in forced])
        if rolled:
            ahead = wanted[:, start - 1 : start - 1 + steps]
            parts["rollout"] = mean_of([latent_distance(x, ahead, config.loss) for x in rolled])
        return parts

    def _span(self, length: int, step: int) -> tuple[int, int]:
        """Where the rollout begins in a window of ``length`` steps, and its steps; the same in every process.

        Raises:
            ValueError: The window is too short.
        """
        steps, context = self.config.rollout_steps, self.config.rollout_context
        last = length + 1 - max(1, steps)
        if last < max(1, context):
            raise ValueError(
                f"objective.rollout_context={context} and rollout_steps={steps} need a longer window than "
                f"{length}; set window={max(1, context) + max(1, steps) - 1} or more"
            )
        start = context or int(keyed_rng("rollout", self.seed, step).integers(1, last + 1))
        return start, steps or length + 1 - start

    def _latent_losses(self, latents: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The terms on latents alone that have a weight."""
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


def latents_of(model: WorldModel, batch: Batch) -> Tensor:
    """Latents ``(B, T+1, N, Z)`` of a batch's first view, frames or cached tokens, with gradient."""
    view = batch.views[0]
    return model.head(view if view.ndim == 4 else model.encoder.encode_steps(view))


def sum_of(values: list[Tensor]) -> Tensor:
    """The sum of one or more scalars, from left to right."""
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total


def mean_of(values: list[Tensor]) -> Tensor:
    """The mean of one or more scalars."""
    return sum_of(values) / len(values)


def _rms(gap: Tensor) -> float:
    return float(gap.square().mean().sqrt())
