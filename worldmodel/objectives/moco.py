"""MoCo: contrast with a queue of keys, so that negatives do not need a large batch (He et al. 2020, 1911.05722)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from worldmodel.models.video_encoder import VideoEncoder
from worldmodel.nn.global_batch import global_rows
from worldmodel.objectives.base import Objective
from worldmodel.objectives.joint_embedding import JointEmbedding, JointEmbeddingConfig
from worldmodel.seeding import keyed_torch_generator


@dataclass
class MoCoConfig(JointEmbeddingConfig):
    """Settings of MoCo: those of joint embedding, and a queue."""

    only_distance: ClassVar[str] = "info_nce"
    only_target: ClassVar[str] = "ema"

    #: "info_nce", the only one.
    distance: str = "info_nce"
    #: Keys of earlier steps that queries are compared with.
    queue: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.queue < 1:
            raise ValueError(f"objective.queue={self.queue} must be at least 1")

    def build(self, encoder: VideoEncoder, predictor: object, seed: int) -> Objective:
        return MoCo(encoder, self, seed)


class MoCo(JointEmbedding):
    """Each query shall find its key, of the moving average, among the queue's keys; the step's keys then join these.

    ``-log exp(q k / t) / (exp(q k / t) + sum_i exp(q k_i / t))`` with unit vectors, and ``k_i`` from the queue. It
    begins with random directions, and holds the keys of all views and processes, the newest first.
    """

    queue: Tensor

    def __init__(self, encoder: VideoEncoder, config: MoCoConfig, seed: int) -> None:
        super().__init__(encoder, config, seed)
        generator = keyed_torch_generator("queue", seed)
        keys = torch.randn(config.queue, self.embedding_width, generator=generator)
        self.register_buffer("queue", F.normalize(keys, dim=-1))

    def agreement(self, predicted: list[Tensor], targets: list[Tensor | None]) -> Tensor:
        loss = super().agreement(predicted, targets)
        if self.training:
            self._join([key for key in targets if key is not None])
        return loss

    def compare(self, predicted: Tensor, target: Tensor) -> Tensor:
        queries, keys = F.normalize(predicted, dim=-1), F.normalize(target, dim=-1)
        # A copy: the queue changes before gradients are computed.
        others = queries @ self.queue.clone().T
        scores = torch.cat([(queries * keys).sum(dim=1, keepdim=True), others], dim=1)
        right = torch.zeros(len(scores), dtype=torch.long, device=scores.device)
        return F.cross_entropy(scores / self.config.temperature, right)

    @torch.no_grad()
    def _join(self, keys: list[Tensor]) -> None:
        """Put the keys ``(B, E)`` of each target view before the others; the oldest leave."""
        new = [global_rows(F.normalize(key, dim=-1)) for key in keys]
        self.queue.copy_(torch.cat([*new, self.queue])[: len(self.queue)])
