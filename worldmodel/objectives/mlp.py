"""Projectors and predictors of joint embedding: MLPs over one vector per view."""

from dataclasses import dataclass

from torch import Tensor, nn

from worldmodel.models.video_encoder import VideoEncoder
from worldmodel.nn.global_batch import GlobalBatchNorm1d

NORMS = ("batch", "layer", "none")


@dataclass
class MLPConfig:
    """Size of a projector or predictor."""

    #: Linear layers; 0: none, what comes in goes out.
    layers: int = 2
    #: Features of the hidden layers.
    hidden: int = 256
    #: Features that come out.
    width: int = 64
    #: After each hidden layer: "batch" (over the samples of all processes), "layer" or "none".
    norm: str = "batch"
    #: The same after the last layer, without learned scale and shift.
    last_norm: str = "none"

    def __post_init__(self) -> None:
        if self.layers < 0 or min(self.hidden, self.width) < 1:
            raise ValueError("an MLP needs layers >= 0, and positive hidden and width")
        for name in ("norm", "last_norm"):
            if getattr(self, name) not in NORMS:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} of an MLP is unknown; choose {', '.join(NORMS)}"
                )


def make_mlp(config: MLPConfig, inputs: int) -> nn.Sequential:
    """``(B, inputs)`` to ``(B, outputs_of(config, inputs))``: linear, norm, ReLU, ..., linear, norm."""
    parts: list[nn.Module] = []
    for layer in range(config.layers):
        last = layer + 1 == config.layers
        features = config.width if last else config.hidden
        norm = _norm(config.last_norm if last else config.norm, features, affine=not last)
        parts += [nn.Linear(inputs, features), *norm, *([] if last else [nn.ReLU()])]
        inputs = features
    return nn.Sequential(*parts)


def outputs_of(config: MLPConfig, inputs: int) -> int:
    """How many features come out of an MLP that ``inputs`` go into."""
    return config.width if config.layers else inputs


def embed_clip(encoder: VideoEncoder, projector: nn.Module, clip: Tensor) -> Tensor:
    """Embeddings ``(B, E)`` in float32 of ``clip (B, T, C, H, W)``: the projected mean token."""
    embedding: Tensor = projector(encoder.encode(clip).mean(dim=(1, 2)))
    return embedding.float()


def _norm(kind: str, features: int, affine: bool) -> list[nn.Module]:
    if kind == "batch":
        return [_Float32BatchNorm(features, affine=affine)]
    return [nn.LayerNorm(features, elementwise_affine=affine)] if kind == "layer" else []


class _Float32BatchNorm(GlobalBatchNorm1d):
    """In float32 also under autocast, where sums over a batch lose too much."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.float())
