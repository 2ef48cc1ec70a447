"""VideoMAE: predict the hidden patches' pixels from the visible ones (Tong et al. 2022, 2203.12602)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from worldmodel.masks import Mask
from worldmodel.models.masked_predictor import MaskedPredictor, MaskedPredictorConfig
from worldmodel.models.video_encoder import VideoEncoder
from worldmodel.nn.patches import gather_tokens, to_patches
from worldmodel.objectives.base import Batch, Objective, ObjectiveConfig
from worldmodel.objectives.masked import distance, predict_hidden
from worldmodel.objectives.views import unit_range
from worldmodel.training.monitors import baseline_losses, feature_monitors


@dataclass
class MaskedPixelsConfig(ObjectiveConfig):
    """Settings of the VideoMAE objective."""

    masked: ClassVar[bool] = True

    #: "l2" (the paper's) or "l1".
    loss: str = "l2"
    #: Normalise each patch's pixels by their own mean and std, channel by channel (the paper's).
    normalise: bool = True

    def __post_init__(self) -> None:
        if self.loss not in ("l1", "l2"):
            raise ValueError(f"objective.loss={self.loss!r} is unknown; choose one of l1, l2")

    def build(self, encoder: VideoEncoder, predictor: MaskedPredictorConfig, seed: int) -> Objective:
        outputs = pixels_per_patch(encoder)
        decoder = MaskedPredictor(predictor, encoder.grid, encoder.width, output_width=outputs)
        return MaskedPixelPrediction(encoder, decoder, self)


class MaskedPixelPrediction(Objective):
    """Encoder of the visible patches -> narrow decoder -> distance to the hidden patches' pixels.

    Args:
        encoder: As for V-JEPA.
        decoder: A masked predictor with ``output_width=pixels_per_patch(encoder)``.
        config: Loss and normalisation.
    """

    def __init__(self, encoder: VideoEncoder, decoder: MaskedPredictor, config: MaskedPixelsConfig) -> None:
        super().__init__()
        self.encoder, self.decoder, self.config = encoder, decoder, config

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        clip = batch.views[0]
        losses = [
            self.reconstruction(self.encoder.encode(clip, keep=mask.context), clip, mask, index)
            for index, mask in enumerate(batch.masks)
        ]
        return {"loss": torch.stack(losses).mean()}

    def reconstruction(self, context: Tensor, clip: Tensor, mask: Mask, index: int) -> Tensor:
        """The loss of one mask, from the tokens ``context (B, K, D)`` that the encoder makes of what it leaves."""
        predicted = predict_hidden(self.decoder, context, mask, self.encoder.grid_of(clip), index)
        wanted = pixel_targets(self.encoder, clip, mask.target, self.config.normalise)
        return distance(predicted, wanted, self.config.loss)

    @torch.no_grad()
    def monitor(self, batch: Batch) -> dict[str, float]:
        clip = batch.views[0]
        figures = feature_monitors(self.encoder.encode(clip).float().flatten(1, 2))
        return figures | baseline_losses(
            pixel_targets(self.encoder, clip, normalise=self.config.normalise), self.config.loss
        )


def pixel_targets(
    encoder: VideoEncoder, clip: Tensor, ids: Tensor | None = None, normalise: bool = True
) -> Tensor:
    """Pixels ``(B, M, tubelet * C * patch * patch)`` of the encoder's patches ``ids (B, M)``, or of all.

    Args:
        encoder: Says how clips are cut.
        clip: ``(B, T, C, H, W)`` uint8, or float in [0, 1].
        ids: Which patches.
        normalise: Each patch by its own mean and std, channel by channel; otherwise values are in [0, 1].
    """
    size = encoder.config
    patches = to_patches(clip, size.patch_size, size.tubelet).flatten(1, 2)
    if ids is not None:
        patches = gather_tokens(patches, ids)
    pixels = unit_range(patches)
    if not normalise:
        return pixels
    channels = pixels.unflatten(-1, (size.tubelet, clip.shape[2], -1))
    var, mean = torch.var_mean(channels, dim=(-3, -1), keepdim=True)
    return ((channels - mean) / (var.sqrt() + 1e-6)).flatten(-3)


def pixels_per_patch(encoder: VideoEncoder) -> int:
    """How many numbers a decoder predicts for each token: those of a tubelet patch in three channels."""
    return encoder.config.tubelet * 3 * encoder.config.patch_size**2
