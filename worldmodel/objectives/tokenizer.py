"""A discrete autoencoder of patches, with a few bits for each: what BEiT's tokens come from."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.models.video_encoder import VideoEncoder
from worldmodel.objectives.base import Batch, Objective, ObjectiveConfig
from worldmodel.objectives.masked_pixels import pixel_targets, pixels_per_patch
from worldmodel.objectives.mlp import MLPConfig, make_mlp
from worldmodel.objectives.predictions import sum_of
from worldmodel.objectives.regularizers import covariance_loss
from worldmodel.training.monitors import feature_monitors


@dataclass
class TokenizerConfig(ObjectiveConfig):
    """Settings of the discrete autoencoder."""

    #: Of a token; there are 2 to the power of it different ones.
    bits: int = 8
    #: Hidden features of the decoder, an MLP that makes a patch of a token's bits.
    hidden: int = 256
    #: Weight of the mean squared distance of numbers to their signs.
    commitment: float = 0.02
    #: Weight of the mean squared covariance of different numbers, which keeps them from all saying the same.
    covariance: float = 0.1

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 16 or self.hidden < 1:
            raise ValueError(
                f"objective.bits={self.bits} must be from 2 to 16, and objective.hidden positive"
            )
        if min(self.commitment, self.covariance) < 0:
            raise ValueError("objective.commitment and objective.covariance must not be negative")

    def build(self, encoder: VideoEncoder, predictor: object, seed: int) -> Objective:
        return DiscreteAutoencoder(encoder, self)


class Quantiser(nn.Module):
    """Tokens to the signs of a few numbers: quantisation without a table of codes (LFQ, 2310.05737).

    A batch norm before the signs makes each of them split the patches about evenly.

    Args:
        width: Features per token.
        bits: How many numbers.
    """

    def __init__(self, width: int, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.project = make_mlp(MLPConfig(layers=1, width=bits, last_norm="batch"), width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Numbers ``(B, L, bits)`` in float32 of tokens ``(B, L, D)``."""
        numbers: Tensor = self.project(tokens.flatten(0, 1)).unflatten(0, tokens.shape[:2])
        return numbers.float()

    def ids(self, tokens: Tensor) -> Tensor:
        """Which of ``2 ** bits`` tokens: ``(B, L)``."""
        powers = 2 ** torch.arange(self.bits, device=tokens.device)
        return ((self(tokens) > 0) * powers).sum(dim=-1)


class DiscreteAutoencoder(Objective):
    """Encoder -> signs of a few numbers for each patch -> pixels of the patch, from its signs alone.

    The gradient at a sign goes to the number that it is of, unchanged.

    Args:
        encoder: Sees whole clips.
        config: Bits and decoder.
    """

    def __init__(self, encoder: VideoEncoder, config: TokenizerConfig) -> None:
        super().__init__()
        self.encoder, self.config = encoder, config
        self.quantiser = Quantiser(encoder.width, config.bits)
        size = MLPConfig(layers=2, hidden=config.hidden, width=pixels_per_patch(encoder), norm="layer")
        self.decoder = make_mlp(size, config.bits)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        clip = batch.views[0]
        numbers = self.quantiser(self.encoder.encode(clip).flatten(1, 2))
        signs = torch.where(numbers > 0, 1.0, -1.0)
        pixels = self.decoder(numbers + (signs - numbers).detach()).float()
        parts = {
            "pixels": F.mse_loss(pixels, pixel_targets(self.encoder, clip, normalise=False)),
            "commitment": F.mse_loss(numbers, signs),
            "covariance": covariance_loss(numbers.flatten(0, 1)),
        }
        added = sum_of([getattr(self.config, name) * parts[name] for name in ("commitment", "covariance")])
        return {"loss": parts["pixels"] + added, **parts}

    @torch.no_grad()
    def monitor(self, batch: Batch) -> dict[str, float]:
        """Of tokens as always; ``codes_used``: the exponential of the entropy of the codes' shares."""
        tokens = self.encoder.encode(batch.views[0]).float().flatten(1, 2)
        used = codes_used(self.quantiser.ids(tokens), 2**self.config.bits)
        return feature_monitors(tokens) | {"codes_used": used}


def codes_used(ids: Tensor, codes: int) -> float:
    """The exponential of the entropy of the codes' shares among ``ids``, from 1 to ``codes``."""
    shares = torch.bincount(ids.flatten(), minlength=codes).float() / ids.numel()
    return float(torch.exp(-(shares * shares.clamp_min(1e-12).log()).sum()))
