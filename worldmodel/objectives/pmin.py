"""PMIN: units of a code that cannot be predicted from each other (Schmidhuber 1992, Neural Computation 4(6))."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from worldmodel.models.video_encoder import VideoEncoder
from worldmodel.objectives.base import Batch, Objective, ObjectiveConfig
from worldmodel.objectives.mlp import MLPConfig, embed_clip, make_mlp, outputs_of
from worldmodel.training.monitors import effective_rank, feature_monitors


class UnitPredictors(nn.Module):
    """An MLP of one hidden layer for each unit of a code, which predicts it from all the others.

    Args:
        units: Of the code, 2 or more, with values from 0 to 1.
        hidden: Features of each hidden layer.
    """

    others: Tensor

    def __init__(self, units: int, hidden: int) -> None:
        super().__init__()
        self.inputs = nn.Parameter(torch.randn(units, units, hidden) / units**0.5)
        self.shift = nn.Parameter(torch.zeros(units, hidden))
        self.outputs = nn.Parameter(torch.randn(units, hidden) / hidden**0.5)
        self.bias = nn.Parameter(torch.zeros(units))
        self.register_buffer("others", 1 - torch.eye(units), persistent=False)

    def forward(self, code: Tensor) -> Tensor:
        """Predictions ``(B, U)`` of ``code (B, U)``."""
        hidden = torch.einsum("bj,ijh->bih", code, self.inputs * self.others[..., None]) + self.shift
        return ((hidden.tanh() * self.outputs).sum(dim=-1) + self.bias).sigmoid()


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """``x``, whose gradient is multiplied by ``factor``."""
    return x.detach() + factor * (x - x.detach())


def unpredictability(embedding: Tensor, predictors: UnitPredictors) -> Tensor:
    """Mean squared error of predictions of each unit of the code ``sigmoid(embedding)``, ``(B, U)``, from the others.

    Minimising it trains the predictors to predict, and whatever the embedding comes from to be unpredictable: there,
    gradients are turned round. So both play their game by one loss.
    """
    with torch.autocast(embedding.device.type, enabled=False):
        code = scale_gradient(embedding.float().sigmoid(), -1.0)
        predicted: Tensor = predictors(code)
        return (predicted - code).square().mean()


@dataclass
class PMINConfig(ObjectiveConfig):
    """Settings of predictability minimisation."""

    #: From the mean token to the code, whose units go through a sigmoid.
    projector: MLPConfig = field(default_factory=lambda: MLPConfig(width=16))
    #: Hidden features of each unit's predictor.
    hidden: int = 32

    def __post_init__(self) -> None:
        if self.hidden < 1 or (self.projector.layers and self.projector.width < 2):
            raise ValueError("objective.hidden must be at least 1, and projector.width 2")

    def build(self, encoder: VideoEncoder, predictor: object, seed: int) -> Objective:
        return PMIN(encoder, self)


class PMIN(Objective):
    """Predictors minimise, and the encoder maximises, the error of each unit's prediction from the other units.

    Against the best predictors, the encoder's aim is the variance of each unit that the others do not explain: at most
    1/4, when units are independent and either 0 or 1, as often (a factorial binary code).

    Args:
        encoder: The network to pretrain. It sees whole clips as they are.
        config: Size of the code and its predictors.
    """

    def __init__(self, encoder: VideoEncoder, config: PMINConfig) -> None:
        super().__init__()
        self.config, self.encoder = config, encoder
        self.projector = make_mlp(config.projector, encoder.width)
        units = outputs_of(config.projector, encoder.width)
        self.unit_predictors = UnitPredictors(units, config.hidden)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": unpredictability(self.embed(batch.views[0]), self.unit_predictors)}

    def embed(self, clip: Tensor) -> Tensor:
        """``(B, U)`` in float32 of ``clip (B, T, C, H, W)``: the code before the sigmoid."""
        return embed_clip(self.encoder, self.projector, clip)

    @torch.no_grad()
    def monitor(self, batch: Batch) -> dict[str, float]:
        """Of tokens as for V-JEPA; of the code its rank, its units' mean variance, and how much of it is explained."""
        clip = batch.views[0]
        figures = feature_monitors(self.encoder.encode(clip).float().flatten(1, 2))
        embedding = self.embed(clip)
        variance = float(embedding.sigmoid().var(dim=0, correction=0).mean())
        error = float(unpredictability(embedding, self.unit_predictors))
        return figures | {
            "code_rank": effective_rank(embedding.sigmoid()),
            "code_variance": variance,
            "code_explained": 1 - error / max(variance, 1e-12),
        }
