"""DINO: self-distillation of a softmax over prototypes, centred and sharpened (Caron et al. 2021, 2104.14294)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from worldmodel.models.video_encoder import VideoEncoder
from worldmodel.nn.global_batch import global_mean
from worldmodel.objectives.base import Objective
from worldmodel.objectives.joint_embedding import JointEmbedding, JointEmbeddingConfig
from worldmodel.objectives.predictions import mean_of
from worldmodel.objectives.prototypes import Prototypes, soft_cross_entropy
from worldmodel.objectives.targets import frozen_copy
from worldmodel.objectives.views import View
from worldmodel.training.ema import ema_update


@dataclass
class DINOConfig(JointEmbeddingConfig):
    """Settings of DINO: those of joint embedding, and what is done to the teacher's outputs."""

    only_distance: ClassVar[str] = "cross_entropy"
    only_target: ClassVar[str] = "ema"

    #: "cross_entropy", the only one.
    distance: str = "cross_entropy"
    #: How many outputs student and teacher have.
    prototypes: int = 256
    #: Temperature of the teacher's softmax. Below the student's (temperature) it sharpens.
    target_temperature: float = 0.04
    #: Momentum of the mean of the teacher's outputs, which is subtracted from them; 1: no centring.
    centre_momentum: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prototypes < 2 or self.target_temperature <= 0 or not 0 <= self.centre_momentum <= 1:
            raise ValueError(
                "objective.prototypes must be at least 2, target_temperature positive, and centre_momentum from 0 to 1"
            )

    def build(self, encoder: VideoEncoder, predictor: object, seed: int) -> Objective:
        return DINO(encoder, self, seed)


class DINO(JointEmbedding):
    """Cross-entropy of the student's softmax for a view and the teacher's for another, large one.

    The teacher, a moving average with its own prototypes, would soon say the same for all: one output that dominates,
    or a uniform distribution. Centring prevents the first, and favours the second; sharpening does the opposite.
    """

    config: DINOConfig
    centre: Tensor

    def __init__(self, encoder: VideoEncoder, config: DINOConfig, seed: int) -> None:
        super().__init__(encoder, config, seed)
        self.prototypes = Prototypes(self.embedding_width, config.prototypes)
        self.target_prototypes = frozen_copy(self.prototypes)
        self.register_buffer("centre", torch.zeros(config.prototypes))

    def predict(self, embedding: Tensor) -> Tensor:
        scores: Tensor = self.prototypes(super().predict(embedding))
        return scores

    @torch.no_grad()
    def targets(self, views: list[View], online: list[Tensor]) -> list[Tensor | None]:
        scores = [None if x is None else self.target_prototypes(x) for x in super().targets(views, online)]
        return self.centred(scores, self.centre)

    def centred(self, scores: list[Tensor | None], centre: Tensor) -> list[Tensor | None]:
        """The teacher's distributions for its scores ``(..., K)``; in training, their mean then moves ``centre``."""
        sharpness = self.config.target_temperature
        found = [None if x is None else ((x - centre) / sharpness).softmax(dim=-1) for x in scores]
        if self.training:
            mean = mean_of([x.flatten(0, -2).mean(dim=0) for x in scores if x is not None])
            centre.lerp_(global_mean(mean), 1 - self.config.centre_momentum)
        return found

    def compare(self, predicted: Tensor, target: Tensor) -> Tensor:
        return soft_cross_entropy(predicted / self.config.temperature, target)

    def after_step(self, progress: float) -> None:
        super().after_step(progress)
        ema_update(self.target_prototypes, self.prototypes, self.momentum(progress))
