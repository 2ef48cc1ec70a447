"""Training a world model: predict the next latents from latents and actions, without collapse."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from worldmodel.models.world_model import WorldModel
from worldmodel.objectives.base import Batch, Objective
from worldmodel.objectives.regularizers import sigreg
from worldmodel.seeding import keyed_torch_generator
from worldmodel.training.monitors import effective_rank


@dataclass
class LatentDynamicsConfig:
    """Weights of the world model's losses."""

    #: Weight of the loss on predictions from true latents.
    teacher_forcing: float = 1.0
    #: Weight of the loss on predictions from predictions, over all steps of the window.
    rollout: float = 1.0
    #: Weight of SIGReg, which prevents collapse. It pulls the latents towards an isotropic Gaussian of all their
    #: dimensions; too much of it curls up the few that the world has, and distance stops meaning distance.
    sigreg: float = 0.02
    #: Random directions of SIGReg.
    directions: int = 64

    def __post_init__(self) -> None:
        if (
            min(self.teacher_forcing, self.rollout, self.sigreg) < 0
            or self.teacher_forcing + self.rollout == 0
        ):
            raise ValueError(
                "objective weights must not be negative, and one of teacher_forcing and rollout positive"
            )


class LatentDynamics(Objective):
    """Teacher forcing + rollout MSE + SIGReg (LeWM, 2603.19312, with V-JEPA 2-AC's rollout loss, 2506.09985).

    Gradients flow through predictions and targets alike; SIGReg prevents the collapse that this would end in.
    ``batch.views[0]`` holds cached tokens ``(B, T+1, N, D)`` (frozen encoder: only head and dynamics train) or frames
    ``(B, T+1, C, H, W)`` (end to end).
    """

    def __init__(self, model: WorldModel, config: LatentDynamicsConfig, seed: int) -> None:
        super().__init__()
        self.model, self.config, self.seed = model, config, seed

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.actions is not None
        latents = self._latents(batch)
        forced, rolled = self._predict(latents, batch.actions)
        wanted = latents[:, 1:]
        parts = {"teacher_forcing": F.mse_loss(forced, wanted), "rollout": F.mse_loss(rolled, wanted)}
        generator = keyed_torch_generator("sigreg", self.seed, batch.step)
        parts["sigreg"] = sigreg(latents.flatten(2).flatten(0, 1), generator, self.config.directions)
        weights = {"teacher_forcing": self.config.teacher_forcing, "rollout": self.config.rollout}
        loss = sum((weights[name] * parts[name] for name in weights), self.config.sigreg * parts["sigreg"])
        return {"loss": loss, **parts}

    @torch.no_grad()
    def monitor(self, batch: Batch) -> dict[str, float]:
        assert batch.actions is not None
        latents = self._latents(batch)
        _, rolled = self._predict(latents, batch.actions)
        stay = latents[:, :1].expand_as(rolled)
        flat = latents.flatten(2).flatten(0, 1)
        return {
            "latent_std": float(flat.std(dim=0).mean()),
            "latent_rank": effective_rank(flat),
            "open_loop_error": float(F.mse_loss(rolled[:, -1], latents[:, -1]).sqrt()),
            "copy_last_error": float(F.mse_loss(stay[:, -1], latents[:, -1]).sqrt()),
        }

    def _latents(self, batch: Batch) -> Tensor:
        view = batch.views[0]
        tokens = view if view.ndim == 4 else self.model.encoder.encode_steps(view)
        return self.model.head(tokens)

    def _predict(self, latents: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Predictions ``(B, T, N, Z)`` of steps 1..T: from true latents, and rolled out from step 0."""
        forced = self.model.dynamics(latents[:, :-1], actions)
        no_past = actions[:, :0]
        rolled = self.model.dynamics.rollout(latents[:, :1], no_past, actions[:, None])[:, 0]
        return forced.float(), rolled.float()
