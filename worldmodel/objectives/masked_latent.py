"""V-JEPA: predict the hidden tubes' features from the visible ones (Bardes et al. 2024, 2404.08471)."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from worldmodel.models.masked_predictor import MaskedPredictor
from worldmodel.models.video_encoder import VideoEncoder
from worldmodel.nn.patches import gather_tokens
from worldmodel.objectives.base import Batch, Objective
from worldmodel.training.ema import ema_update
from worldmodel.training.monitors import feature_monitors


@dataclass
class MaskedLatentConfig:
    """Settings of the V-JEPA objective."""

    #: "l1" (the papers') or "l2".
    loss: str = "l1"
    #: "layer" normalises each target token over its features (the papers'), "none" leaves it.
    target_norm: str = "layer"
    #: Momentum of the target encoder: linear from the first value to the second over the training.
    ema_start: float = 0.98
    #: See ema_start.
    ema_end: float = 1.0

    def __post_init__(self) -> None:
        if self.loss not in ("l1", "l2"):
            raise ValueError(f"objective.loss={self.loss!r} is unknown; choose 'l1' or 'l2'")
        if self.target_norm not in ("layer", "none"):
            raise ValueError(
                f"objective.target_norm={self.target_norm!r} is unknown; choose 'layer' or 'none'"
            )
        if not 0 <= self.ema_start <= self.ema_end <= 1:
            raise ValueError("objective.ema_start and ema_end must satisfy 0 <= start <= end <= 1")


class MaskedLatentPrediction(Objective):
    """Context encoder -> predictor -> L1 distance to the EMA target encoder's tokens of the whole clip."""

    def __init__(self, encoder: VideoEncoder, predictor: MaskedPredictor, config: MaskedLatentConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder
        self.predictor = predictor
        self.target_encoder = copy.deepcopy(encoder).requires_grad_(False)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        clip = batch.views[0]
        targets = self._targets(clip)
        losses = []
        for mask in batch.masks:
            context = self.encoder.encode(clip, keep=mask.context)
            predicted = self.predictor(context, mask.context, mask.target).float()
            wanted = gather_tokens(targets, mask.target)
            losses.append(
                F.l1_loss(predicted, wanted) if self.config.loss == "l1" else F.mse_loss(predicted, wanted)
            )
        return {"loss": torch.stack(losses).mean()}

    def after_step(self, progress: float) -> None:
        momentum = self.config.ema_start + (self.config.ema_end - self.config.ema_start) * progress
        ema_update(self.target_encoder, self.encoder, momentum)

    @torch.no_grad()
    def monitor(self, batch: Batch) -> dict[str, float]:
        clip = batch.views[0]
        tokens = self.target_encoder.encode(clip).float().flatten(1, 2)
        targets = self._targets(clip)
        mean = targets.mean(dim=(0, 1), keepdim=True)
        distance = F.l1_loss if self.config.loss == "l1" else F.mse_loss
        baseline = distance(mean.expand_as(targets), targets)
        return {**feature_monitors(tokens), "predict_mean_loss": float(baseline)}

    @torch.no_grad()
    def _targets(self, clip: Tensor) -> Tensor:
        """Target features of all tokens ``(B, P * N, D)``, in float32."""
        tokens = self.target_encoder.encode(clip).float().flatten(1, 2)
        return F.layer_norm(tokens, tokens.shape[-1:]) if self.config.target_norm == "layer" else tokens
