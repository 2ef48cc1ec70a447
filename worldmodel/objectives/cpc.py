"""CPC: find a clip's later latents, from its past, among those of others (van den Oord et al. 2018, 1807.03748)."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.models.video_encoder import VideoEncoder
from worldmodel.nn.global_batch import first_row, global_rows
from worldmodel.objectives.base import Batch, Objective, ObjectiveConfig
from worldmodel.objectives.mlp import MLPConfig, make_mlp, outputs_of
from worldmodel.objectives.predictions import mean_of
from worldmodel.training.monitors import effective_rank, feature_monitors


@dataclass
class CPCConfig(ObjectiveConfig):
    """Settings of contrastive predictive coding."""

    #: From the mean token of a tubelet to its latent.
    projector: MLPConfig = field(default_factory=lambda: MLPConfig(layers=1))
    #: Features of the recurrent context.
    context: int = 128
    #: Latents are predicted so many tubelets ahead, and all that are nearer; as far as the clips go.
    ahead: int = 2

    def __post_init__(self) -> None:
        if min(self.context, self.ahead) < 1:
            raise ValueError("objective.context and ahead must be at least 1")

    def build(self, encoder: VideoEncoder, predictor: object, seed: int) -> Objective:
        return CPC(encoder, self)


class CPC(Objective):
    """Tubelet -> encoder -> latent ``z_t``; GRU over latents -> context ``c_t``; critics ``z_{t+k} W_k c_t``.

    The encoder sees each tubelet by itself, so that a latent knows nothing of what comes. For each ``t`` and ``k``,
    ``-log exp(z_{t+k} W_k c_t) / sum_z exp(z W_k c_t)`` over all latents ``z`` of the batch, of every clip and time.
    With ``N`` of them, ``log N`` less this is a lower bound of the mutual information of ``c_t`` and ``z_{t+k}``.

    Args:
        encoder: The network to pretrain.
        config: Sizes, and how far ahead.

    Raises:
        ValueError: The encoder's clips are of one tubelet only.
    """

    def __init__(self, encoder: VideoEncoder, config: CPCConfig) -> None:
        super().__init__()
        steps = encoder.grid.steps
        if steps < 2:
            raise ValueError(
                f"CPC needs two tubelets or more; raise encoder.frames={encoder.config.frames} above encoder.tubelet"
            )
        self.config, self.encoder = config, encoder
        self.projector = make_mlp(config.projector, encoder.width)
        width = outputs_of(config.projector, encoder.width)
        self.context = nn.GRU(width, config.context, batch_first=True)
        ahead = range(min(config.ahead, steps - 1))
        self.critics = nn.ModuleList(nn.Linear(config.context, width, bias=False) for _ in ahead)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        latents = self.latents(batch.views[0])
        with torch.autocast(latents.device.type, enabled=False):
            every = global_rows(latents).flatten(0, 1)
            return {"loss": mean_of(self.losses(latents, every, first_row(len(latents))))}

    def latents(self, clip: Tensor) -> Tensor:
        """``(B, P, E)`` in float32, one for each tubelet of ``clip (B, T, C, H, W)``."""
        tubelets = clip.unflatten(1, (-1, self.encoder.config.tubelet))
        latents: Tensor = self.projector(self.encoder.encode(tubelets.flatten(0, 1)).mean(dim=(1, 2)))
        return latents.float().unflatten(0, tubelets.shape[:2])

    def losses(self, latents: Tensor, every: Tensor, start: int) -> list[Tensor]:
        """InfoNCE of each distance in time.

        Args:
            latents: ``(B, P, E)``.
            every: Candidates ``(N, E)``, among them ``latents``, clip by clip.
            start: The clip among the candidates' that is the first of ``latents``.
        """
        b, p = latents.shape[:2]
        contexts, _ = self.context(latents)
        own = (start * p + torch.arange(b * p, device=latents.device)).view(b, p)
        losses = []
        for k, critic in enumerate(self.critics, 1):
            scores = critic(contexts[:, : p - k]) @ every.T
            losses.append(F.cross_entropy(scores.flatten(0, 1), own[:, k:].flatten()))
        return losses

    @torch.no_grad()
    def monitor(self, batch: Batch) -> dict[str, float]:
        """Of tokens as for V-JEPA; ``information1``, ...: the bound in nats, of this process's samples."""
        clip = batch.views[0]
        figures = feature_monitors(self.encoder.encode(clip).float().flatten(1, 2))
        latents = self.latents(clip)
        every = latents.flatten(0, 1)
        figures["latent_rank"] = effective_rank(every)
        for k, loss in enumerate(self.losses(latents, every, 0), 1):
            figures[f"information{k}"] = math.log(len(every)) - float(loss)
        return figures
