"""Contrastive masked autoencoders (Huang et al. 2022, 2207.13532): masked pixels, and a second view to recognise."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from worldmodel.models.masked_predictor import MaskedPredictor, MaskedPredictorConfig
from worldmodel.models.video_encoder import VideoEncoder
from worldmodel.objectives.base import Batch, Objective
from worldmodel.objectives.distances import info_nce
from worldmodel.objectives.masked import predict_hidden
from worldmodel.objectives.masked_pixels import MaskedPixelPrediction, MaskedPixelsConfig, pixels_per_patch
from worldmodel.objectives.mlp import MLPConfig, make_mlp, outputs_of
from worldmodel.objectives.predictions import mean_of
from worldmodel.objectives.targets import check_momentum, frozen_copy
from worldmodel.objectives.views import ViewConfig, draw_view
from worldmodel.training.ema import ema_update
from worldmodel.training.monitors import weight_gap
from worldmodel.training.schedules import cosine


@dataclass
class CMAEConfig(MaskedPixelsConfig):
    """Settings of contrastive masked autoencoders; those of masked pixels and these."""

    #: The second view, which the moving average sees whole.
    view: ViewConfig = field(default_factory=lambda: ViewConfig(scale=[0.75, 1.0], flip=0.0))
    projector: MLPConfig = field(default_factory=MLPConfig)
    #: Between the projector and the distance, on the online side only.
    view_predictor: MLPConfig = field(default_factory=MLPConfig)
    #: Weight of InfoNCE.
    contrast: float = 1.0
    #: Temperature of InfoNCE.
    temperature: float = 0.07
    #: Momentum of the moving average: half a cosine from this to ema_end over the training.
    ema_start: float = 0.996
    #: See ema_start.
    ema_end: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_momentum(self.ema_start, self.ema_end)
        if min(self.contrast, self.temperature) <= 0:
            raise ValueError("objective.contrast and temperature must be positive")

    def build(self, encoder: VideoEncoder, predictor: MaskedPredictorConfig, seed: int) -> Objective:
        decoder = MaskedPredictor(predictor, encoder.grid, encoder.width, pixels_per_patch(encoder))
        features = MaskedPredictor(predictor, encoder.grid, encoder.width)
        return ContrastiveMaskedAutoencoder(encoder, decoder, features, self, seed)


class ContrastiveMaskedAutoencoder(MaskedPixelPrediction):
    """Encoder of the visible patches -> pixels of the hidden ones, and their features -> the other view's embedding.

    A second decoder completes the features of the clip. Their mean, projected, shall be nearest to the projection that
    a moving average has of the same clip's second view, among those of the whole batch.

    Args:
        encoder: Sees visible patches.
        decoder: Of pixels.
        feature_decoder: Of the hidden patches' features.
        config: Both losses, the second view and the moving average.
        seed: Keys the second view.
    """

    config: CMAEConfig

    def __init__(
        self,
        encoder: VideoEncoder,
        decoder: MaskedPredictor,
        feature_decoder: MaskedPredictor,
        config: CMAEConfig,
        seed: int,
    ) -> None:
        super().__init__(encoder, decoder, config)
        width = outputs_of(config.projector, encoder.width)
        if outputs_of(config.view_predictor, width) != width:
            raise ValueError(
                f"objective.view_predictor.width={config.view_predictor.width} must be the embeddings' {width}"
            )
        self.seed, self.feature_decoder = seed, feature_decoder
        self.projector = make_mlp(config.projector, encoder.width)
        self.view_predictor = make_mlp(config.view_predictor, width)
        self.target_encoder = frozen_copy(encoder)
        self.target_projector = frozen_copy(self.projector)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        clip, keys = batch.views[0], self._keys(batch)
        pixels, contrasts = [], []
        for index, mask in enumerate(batch.masks):
            context = self.encoder.encode(clip, keep=mask.context)
            pixels.append(self.reconstruction(context, clip, mask, index))
            grid = self.encoder.grid_of(clip)
            hidden = predict_hidden(self.feature_decoder, context, mask, grid, index)
            whole = torch.cat([context, hidden.to(context.dtype)], dim=1).mean(dim=1)
            queries = self.view_predictor(self.projector(whole))
            with torch.autocast(clip.device.type, enabled=False):
                contrasts.append(info_nce(queries.float(), keys, self.config.temperature))
        parts = {"pixels": mean_of(pixels), "contrast": mean_of(contrasts)}
        return {"loss": parts["pixels"] + self.config.contrast * parts["contrast"], **parts}

    @torch.no_grad()
    def _keys(self, batch: Batch) -> Tensor:
        """The moving average's embeddings ``(B, E)`` of the second views."""
        patch = self.encoder.config.patch_size
        view = draw_view(batch.views[0], batch.ids, self.seed, 0, self.config.view, patch)
        embedding: Tensor = self.target_projector(self.target_encoder.encode(view).mean(dim=(1, 2)))
        return embedding.float()

    def after_step(self, progress: float) -> None:
        momentum = cosine(progress, self.config.ema_start, self.config.ema_end)
        ema_update(self.target_encoder, self.encoder, momentum)
        ema_update(self.target_projector, self.projector, momentum)

    def train(self, mode: bool = True) -> "ContrastiveMaskedAutoencoder":
        """As always, but the target encoder never drops anything."""
        super().train(mode)
        self.target_encoder.eval()
        return self

    @torch.no_grad()
    def monitor(self, batch: Batch) -> dict[str, float]:
        return super().monitor(batch) | {"ema_weight_gap": weight_gap(self.encoder, self.target_encoder)}
