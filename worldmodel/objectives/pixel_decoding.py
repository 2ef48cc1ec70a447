"""Training of the pixel decoder on the latents of a world model that is finished."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from worldmodel.models.decoder import PixelDecoder
from worldmodel.objectives.base import Batch, Objective


class PixelDecoding(Objective):
    """Mean squared error of decoded frames, each pixel weighted by how much it varies in the data.

    Without weights, a small thing that moves over a large background would be left out for long. ``batch.views`` holds
    latents ``(B, N, Z)`` and frames ``(B, C, H, W)`` uint8. The latents are data: no gradient reaches the model.
    """

    weight: Tensor

    def __init__(self, decoder: PixelDecoder, latents: Tensor, sample: Tensor) -> None:
        """``latents (L, N, Z)`` and ``sample (L, C, H, W)`` uint8: training data, for statistics and weights."""
        super().__init__()
        self.decoder = decoder
        decoder.set_statistics(latents, sample)
        spread = (sample.float() / 255).std(dim=0).mean(dim=0, keepdim=True)
        # At least a tenth of the mean, so that what never moved is still drawn as it is.
        spread = spread / spread.mean().clamp_min(1e-6) + 0.1
        self.register_buffer("weight", spread / spread.mean())

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        latents, frames = batch.views
        wanted = frames.float() / 255
        error = (self.decoder(latents.detach()) - wanted).square() * self.weight
        return {"loss": error.mean()}

    @torch.no_grad()
    def monitor(self, batch: Batch) -> dict[str, float]:
        """``pixel_error``: RMS error, and ``mean_frame_error``: that of showing the mean frame always."""
        latents, frames = batch.views
        wanted = frames.float() / 255
        return {
            "pixel_error": float(F.mse_loss(self.decoder(latents), wanted).sqrt()),
            "mean_frame_error": float(F.mse_loss(self.decoder.mean_frame.expand_as(wanted), wanted).sqrt()),
        }
