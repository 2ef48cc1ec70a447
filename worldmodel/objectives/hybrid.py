"""Hybrid distillation (after 2306.15876): masked pixels, and a teacher's features of the visible patches."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.models.masked_predictor import MaskedPredictor, MaskedPredictorConfig
from worldmodel.models.video_encoder import VideoEncoder
from worldmodel.nn.patches import gather_tokens
from worldmodel.objectives.base import Batch, Objective
from worldmodel.objectives.masked_pixels import MaskedPixelPrediction, MaskedPixelsConfig, pixels_per_patch
from worldmodel.objectives.predictions import DISTANCES, latent_distance, mean_of
from worldmodel.objectives.teacher import load_teacher


@dataclass
class HybridConfig(MaskedPixelsConfig):
    """Settings of hybrid distillation; those of masked pixels and these."""

    #: Model directory of the teacher, best of a contrastive objective; empty: a network with random weights.
    teacher: str = ""
    #: Weight of the distance to the teacher's features.
    distillation: float = 1.0
    #: That distance: "l1", "l2", "smooth_l1" or "cosine".
    distance: str = "smooth_l1"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.distance not in DISTANCES:
            raise ValueError(
                f"objective.distance={self.distance!r} is unknown; choose one of {', '.join(DISTANCES)}"
            )
        if self.distillation <= 0:
            raise ValueError(
                f"objective.distillation={self.distillation} must be positive; "
                "without a teacher it is objective=videomae"
            )

    def models(self) -> dict[str, str]:
        return {"teacher": self.teacher} if self.teacher else {}

    def build(self, encoder: VideoEncoder, predictor: MaskedPredictorConfig, seed: int) -> Objective:
        decoder = MaskedPredictor(predictor, encoder.grid, encoder.width, pixels_per_patch(encoder))
        return HybridDistillation(encoder, decoder, self, load_teacher(self.teacher, encoder, seed))


class HybridDistillation(MaskedPixelPrediction):
    """Masked pixels keep features diverse, the teacher's features make them discriminative: the sum of two losses.

    The teacher sees the whole clip. A linear layer reads its features, normalised token by token, off the student's
    visible tokens. (The paper distils relations of tokens in the middle of the network too.)

    Args:
        encoder: The student.
        decoder: Of pixels.
        config: Both losses.
        teacher: Frozen.
    """

    config: HybridConfig

    def __init__(
        self, encoder: VideoEncoder, decoder: MaskedPredictor, config: HybridConfig, teacher: VideoEncoder
    ) -> None:
        super().__init__(encoder, decoder, config)
        self.projector = nn.Linear(encoder.width, teacher.width)
        self.teacher = teacher

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        clip, config = batch.views[0], self.config
        with torch.no_grad():
            tokens = self.teacher.encode(clip).flatten(1, 2).float()
            taught = F.layer_norm(tokens, tokens.shape[-1:])
        pixels, features = [], []
        for index, mask in enumerate(batch.masks):
            context = self.encoder.encode(clip, keep=mask.context)
            pixels.append(self.reconstruction(context, clip, mask, index))
            wanted = gather_tokens(taught, mask.context)
            features.append(latent_distance(self.projector(context), wanted, config.distance))
        parts = {"pixels": mean_of(pixels), "distillation": mean_of(features)}
        return {"loss": parts["pixels"] + config.distillation * parts["distillation"], **parts}

    def parts(self) -> dict[str, nn.Module]:
        """``encoder``, ``decoder`` and ``projector``; the teacher has a directory of its own."""
        return {name: part for name, part in self.named_children() if name != "teacher"}

    def train(self, mode: bool = True) -> "HybridDistillation":
        """As always, but the teacher never drops anything."""
        super().train(mode)
        self.teacher.eval()
        return self
