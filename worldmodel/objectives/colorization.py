"""Colorization (Zhang et al. 2016, 1603.08511): which colours does a grey clip have?

Colours are the a and b of CIE Lab, quantised: the task is classification, as several colours may be right where their
mean is not. The encoder sees lightness only, a linear layer on each token says the colours at several places of its
patch. Rare colours count for more, else all would become brownish.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldmodel.models.masked_predictor import MaskedPredictorConfig
from worldmodel.models.video_encoder import VideoEncoder
from worldmodel.nn.global_batch import global_mean
from worldmodel.nn.patches import to_patches
from worldmodel.objectives.base import Batch, Objective, ObjectiveConfig
from worldmodel.objectives.colours import colour_bins, grey_of, srgb_to_lab
from worldmodel.objectives.views import unit_range
from worldmodel.training.monitors import feature_monitors


@dataclass
class ColorizationConfig(ObjectiveConfig):
    """Settings of colorization."""

    #: Side of a bin of (a, b).
    bin: float = 10.0
    #: Places along each side of a patch whose colour is predicted; must divide it. (The paper's: every fourth pixel.)
    places: int = 4
    #: A colour's nearest bins share it, by a Gaussian of their distance.
    neighbours: int = 5
    #: The Gaussian's standard deviation.
    spread: float = 5.0
    #: 1 / frequency is mixed with this share of equal weights; 1: no rebalancing.
    uniform: float = 0.5
    #: Momentum of the moving average of colours' frequencies.
    momentum: float = 0.99

    def __post_init__(self) -> None:
        if min(self.bin, self.places, self.neighbours, self.spread) <= 0:
            raise ValueError("objective.bin, places, neighbours and spread must be positive")
        if not 0 < self.uniform <= 1 or not 0 <= self.momentum < 1:
            raise ValueError("objective.uniform must be above 0, up to 1, and momentum 0 or more, below 1")

    def build(self, encoder: VideoEncoder, predictor: MaskedPredictorConfig, seed: int) -> Objective:
        return Colorization(encoder, self)


class Colorization(Objective):
    """Grey clip -> encoder -> linear layer -> cross-entropy with the bins of the colours, rebalanced.

    Args:
        encoder: The network to pretrain.
        config: Bins, places, and how much rare colours count.
    """

    bins: Tensor
    frequencies: Tensor

    def __init__(self, encoder: VideoEncoder, config: ColorizationConfig) -> None:
        super().__init__()
        if encoder.config.patch_size % config.places:
            raise ValueError(
                f"objective.places={config.places} must divide encoder.patch_size={encoder.config.patch_size}"
            )
        self.config, self.encoder = config, encoder
        bins = colour_bins(config.bin)
        if config.neighbours > len(bins):
            raise ValueError(
                f"objective.neighbours={config.neighbours} is more than the {len(bins)} bins of objective.bin="
                f"{config.bin}; lower one of them"
            )
        self.classifier = nn.Linear(encoder.width, config.places**2 * len(bins))
        self.register_buffer("bins", bins, persistent=False)
        self.register_buffer("frequencies", torch.full((len(bins),), 1 / len(bins)))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        logits, shares, nearest = self._compare(batch.views[0])
        with torch.autocast(logits.device.type, enabled=False):
            if self.training:
                self._count(shares, nearest)
            losses = -(shares * logits.log_softmax(dim=-1).gather(-1, nearest)).sum(dim=-1)
            return {"loss": (self.weights()[nearest[..., 0]] * losses).mean()}

    def weights(self) -> Tensor:
        """What a place of each bin counts ``(Q,)``: ``1 / ((1 - u) p + u / Q)``, 1 on average over colours."""
        share, count = self.config.uniform, len(self.bins)
        weights = 1 / ((1 - share) * self.frequencies + share / count)
        return weights / (weights * self.frequencies).sum()

    def _compare(self, clip: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits ``(B, L, places^2, Q)``; of the true colours the nearest bins' shares and numbers ``(.., k)``."""
        with torch.no_grad(), torch.autocast(clip.device.type, enabled=False):
            x = unit_range(clip)
            shares, nearest = self._colours(srgb_to_lab(x)[..., 1:, :, :])
            grey = grey_of(x)
        tokens = self.encoder.encode(grey).flatten(1, 2)
        logits = self.classifier(tokens).unflatten(-1, (-1, len(self.bins)))
        return logits.float(), shares, nearest

    def _colours(self, ab: Tensor) -> tuple[Tensor, Tensor]:
        """Shares and numbers ``(B, L, places^2, k)`` of the bins nearest to each place's mean colour, nearest first."""
        size, places = self.encoder.config, self.config.places
        patches = to_patches(ab, size.patch_size, size.tubelet).flatten(1, 2)
        cell = size.patch_size // places
        grid = patches.unflatten(-1, (size.tubelet, 2, places, cell, places, cell))
        means = grid.mean(dim=(2, 5, 7)).permute(0, 1, 3, 4, 2).flatten(2, 3)
        # Not as a matrix product, whose rounding errors are as large as small distances.
        gaps = torch.cdist(means.flatten(0, 2), self.bins, compute_mode="donot_use_mm_for_euclid_dist")
        gaps, nearest = gaps.topk(self.config.neighbours, largest=False)
        shares = torch.softmax(-0.5 * (gaps / self.config.spread).square(), dim=-1)
        return shares.unflatten(0, means.shape[:3]), nearest.unflatten(0, means.shape[:3])

    @torch.no_grad()
    def _count(self, shares: Tensor, nearest: Tensor) -> None:
        """Move the frequencies towards those of all processes' batch."""
        seen = torch.zeros_like(self.frequencies).scatter_add_(0, nearest.flatten(), shares.flatten())
        self.frequencies.lerp_(global_mean(seen / seen.sum()), 1 - self.config.momentum)

    @torch.no_grad()
    def monitor(self, batch: Batch) -> dict[str, float]:
        """Of tokens as for V-JEPA; ``accuracy`` of the nearest bin, and that of always saying the most common one."""
        clip = batch.views[0]
        logits, _, nearest = self._compare(clip)
        right = nearest[..., 0]
        return feature_monitors(self.encoder.encode(clip).float().flatten(1, 2)) | {
            "accuracy": float((logits.argmax(dim=-1) == right).float().mean()),
            "common_accuracy": float(right.flatten().bincount().max() / right.numel()),
        }
