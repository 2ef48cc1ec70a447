"""Frozen tokenizers: clips to the ids that BEiT predicts, by a trained autoencoder or a random quantiser."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.models.files import load_part, read_config
from worldmodel.models.pretrained import KIND
from worldmodel.models.video_encoder import VideoEncoder
from worldmodel.nn.patches import to_patches
from worldmodel.objectives.masked_pixels import pixels_per_patch
from worldmodel.objectives.teacher import load_teacher
from worldmodel.objectives.tokenizer import Quantiser, TokenizerConfig
from worldmodel.objectives.views import unit_range
from worldmodel.seeding import keyed_torch_generator


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
            pixels = unit_range(clip)
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
