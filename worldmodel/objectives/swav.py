"""SwAV: predict which prototypes the other view is assigned to (Caron et al. 2020, 2006.09882)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from worldmodel.models.video_encoder import VideoEncoder
from worldmodel.objectives.base import Objective
from worldmodel.objectives.joint_embedding import JointEmbedding, JointEmbeddingConfig
from worldmodel.objectives.prototypes import Prototypes, sinkhorn, soft_cross_entropy
from worldmodel.objectives.views import View


@dataclass
class SwAVConfig(JointEmbeddingConfig):
    """Settings of SwAV: those of joint embedding, and prototypes."""

    only_distance: ClassVar[str] = "cross_entropy"
    only_target: ClassVar[str] = "stop"

    #: "stop", the only one.
    target: str = "stop"
    #: "cross_entropy", the only one.
    distance: str = "cross_entropy"
    #: How many; of the order of the batch size or less, or codes cannot use them equally.
    prototypes: int = 32
    #: Sharpness of the codes: the smaller, the nearer are they to one prototype each.
    sharpness: float = 0.05
    #: Rounds of Sinkhorn's algorithm, which lets a batch's codes use all prototypes equally; 0: codes collapse.
    sinkhorn: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prototypes < 2 or self.sharpness <= 0 or self.sinkhorn < 0:
            raise ValueError(
                "objective.prototypes must be at least 2, sharpness positive, and sinkhorn not negative"
            )

    def build(self, encoder: VideoEncoder, predictor: object, seed: int) -> Objective:
        return SwAV(encoder, self, seed)


class SwAV(JointEmbedding):
    """Swapped prediction: cross-entropy of a view's softmax over prototypes and the other, large view's code."""

    config: SwAVConfig

    def __init__(self, encoder: VideoEncoder, config: SwAVConfig, seed: int) -> None:
        super().__init__(encoder, config, seed)
        self.prototypes = Prototypes(self.embedding_width, config.prototypes)

    def predict(self, embedding: Tensor) -> Tensor:
        scores: Tensor = self.prototypes(super().predict(embedding))
        return scores

    def targets(self, views: list[View], online: list[Tensor]) -> list[Tensor | None]:
        return [
            None
            if embedding is None
            else sinkhorn(self.predict(embedding), self.config.sharpness, self.config.sinkhorn)
            for embedding in super().targets(views, online)
        ]

    def compare(self, predicted: Tensor, target: Tensor) -> Tensor:
        return soft_cross_entropy(predicted / self.config.temperature, target)
