"""BEiT (Bao et al. 2022, 2106.08254): which discrete token is behind each hidden patch?"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.models.video_encoder import VideoEncoder
from worldmodel.objectives.base import Batch, Objective, ObjectiveConfig
from worldmodel.objectives.hidden_patches import HiddenPatches
from worldmodel.objectives.predictions import mean_of
from worldmodel.objectives.tokenizer import codes_used
from worldmodel.objectives.tokens import Tokens, load_tokens
from worldmodel.training.monitors import feature_monitors


@dataclass
class BEiTConfig(ObjectiveConfig):
    """Settings of BEiT."""

    masked: ClassVar[bool] = True

    #: Model directory that objective=tokenizer wrote; empty: a random projection of patches and random codes (BEST-RQ).
    tokenizer: str = ""
    #: How many codes the random tokenizer has; a trained one has its own.
    codes: int = 256

    def __post_init__(self) -> None:
        if self.codes < 2:
            raise ValueError(f"objective.codes={self.codes} must be at least 2")

    def models(self) -> dict[str, str]:
        return {"tokenizer": self.tokenizer} if self.tokenizer else {}

    def build(self, encoder: VideoEncoder, predictor: object, seed: int) -> Objective:
        return TokenPrediction(encoder, load_tokens(self.tokenizer, encoder, self.codes, seed))


class TokenPrediction(Objective):
    """Mask tokens in the encoder's input -> classifier -> cross-entropy with the hidden patches' token ids.

    Args:
        encoder: The network to pretrain.
        tokenizer: Frozen; sees whole clips.
    """

    def __init__(self, encoder: VideoEncoder, tokenizer: Tokens) -> None:
        super().__init__()
        self.encoder, self.tokenizer = encoder, tokenizer
        self.hidden_patches = HiddenPatches(encoder.width, tokenizer.codes)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        clip, losses, right = batch.views[0], [], []
        with torch.no_grad():
            ids = self.tokenizer(clip)
        for mask in batch.masks:
            scores, wanted = self.hidden_patches(self.encoder, clip, mask), ids.gather(1, mask.target)
            losses.append(F.cross_entropy(scores.flatten(0, 1), wanted.flatten()))
            right.append((scores.detach().argmax(dim=-1) == wanted).float().mean())
        return {"loss": mean_of(losses), "accuracy": mean_of(right)}

    def parts(self) -> dict[str, nn.Module]:
        """``encoder`` and ``hidden_patches``; a trained tokenizer has a directory of its own."""
        return {name: part for name, part in self.named_children() if name != "tokenizer"}

    def train(self, mode: bool = True) -> "TokenPrediction":
        """As always, but the tokenizer never drops anything."""
        super().train(mode)
        self.tokenizer.eval()
        return self

    @torch.no_grad()
    def monitor(self, batch: Batch) -> dict[str, float]:
        """Of tokens as always; ``codes_used``: how many different ids there are to predict, by entropy."""
        clip = batch.views[0]
        figures = feature_monitors(self.encoder.encode(clip).float().flatten(1, 2))
        return figures | {"codes_used": codes_used(self.tokenizer(clip), self.tokenizer.codes)}
