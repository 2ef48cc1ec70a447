"""Discrete visual tokens: an autoencoder of patches with a few bits for each, or a random quantiser."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.models.files import load_part, read_config
from worldmodel.models.pretrained import KIND
from worldmodel.models.video_encoder import VideoEncoder
from worldmodel.nn.patches import to_patches
from worldmodel.objectives.base import Batch, Objective, ObjectiveConfig
from worldmodel.objectives.masked_pixels import pixel_targets, pixels_per_patch
from worldmodel.objectives.mlp import MLPConfig, make_mlp
from worldmodel.objectives.predictions import sum_of
from worldmodel.objectives.regularizers import covariance_loss
from worldmodel.objectives.teacher import load_teacher
from worldmodel.seeding import keyed_torch_generator
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


class Tokens(nn.Module):
    """Clips ``(B, T, C, H, W)`` to token ids ``(B, L)``, of ``codes`` different ones; frozen."""

    codes: int

    def forward(self, clip: Tensor) -> Tensor:
        raise NotImplementedError


class LearnedTokens(Tokens):
    """Those of a discrete autoencoder."""

    def __init__(self, encoder: VideoEncoder, quantiser: Quantiser) -> None:
        super().__init__()
        self.encoder, self.quantiser, self.codes = encoder, quantiser, 2**quantiser.bits
        self.requires_grad_(False).eval()

    def forward(self, clip: Tensor) -> Tensor:
        return self.quantiser.ids(self.encoder.encode(clip).flatten(1, 2))


class RandomTokens(Tokens):
    """The nearest of random directions to a random projection of a patch's pixels (BEST-RQ, 2202.01855).

    Args:
        encoder: Says how clips are cut, and how pixels are normalised.
        codes: How many directions.
        seed: Of projection and directions.
    """

    projection: Tensor
    directions: Tensor
    #: Axes that pixels are projected on.
    WIDTH = 16

    def __init__(self, encoder: VideoEncoder, codes: int, seed: int) -> None:
        super().__init__()
        generator, pixels = keyed_torch_generator("tokenizer", seed), pixels_per_patch(encoder)
        self.config, self.codes = encoder.config, codes
        self.register_buffer("projection", torch.randn(pixels, self.WIDTH, generator=generator))
        directions = torch.randn(self.WIDTH, codes, generator=generator)
        self.register_buffer("directions", F.normalize(directions, dim=0))

    def forward(self, clip: Tensor) -> Tensor:
        with torch.autocast(clip.device.type, enabled=False):
            pixels = clip.float() / 255 if clip.dtype == torch.uint8 else clip.float()
            mean, std = (
                pixels.new_tensor(row).view(3, 1, 1)
                for row in (self.config.pixel_mean, self.config.pixel_std)
            )
            patches = to_patches((pixels - mean) / std, self.config.patch_size, self.config.tubelet)
            return (patches.flatten(1, 2) @ self.projection @ self.directions).argmax(dim=-1)


def load_tokens(path: str, encoder: VideoEncoder, codes: int, seed: int) -> Tokens:
    """The tokenizer in the model directory ``path``, which ``objective=tokenizer`` trained; empty: a random one.

    Args:
        path: ``RUN/model``, or empty.
        encoder: Of the student.
        codes: Of a random tokenizer.
        seed: Of a random tokenizer.

    Raises:
        FileNotFoundError: There is no model.
        ValueError: It has no codes, or cuts clips in another way than the student.
    """
    if not path:
        return RandomTokens(encoder, codes, seed)
    settings = read_config(Path(path), KIND)
    if settings.get("objective") != TokenizerConfig.__name__:
        raise ValueError(f"{path} is no tokenizer; train one: worldmodel pretrain objective=tokenizer")
    own = load_teacher(path, encoder, seed)
    quantiser = Quantiser(own.width, settings["objective_settings"]["bits"])
    load_part(Path(path), "quantiser", quantiser)
    return LearnedTokens(own, quantiser)


def codes_used(ids: Tensor, codes: int) -> float:
    """The exponential of the entropy of the codes' shares among ``ids``, from 1 to ``codes``."""
    shares = torch.bincount(ids.flatten(), minlength=codes).float() / ids.numel()
    return float(torch.exp(-(shares * shares.clamp_min(1e-12).log()).sum()))
