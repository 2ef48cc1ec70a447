"""The small trained head that turns an encoder's tokens into a latent in which distance is a useful planning cost."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class TokenHeadConfig:
    """Size of a token head."""

    #: Features kept of each token.
    per_token: int = 32
    #: Hidden features of its MLP.
    hidden: int = 256
    #: Features of the latent.
    width: int = 32


class TokenHead(nn.Module):
    """``N`` tokens of a step to a single-vector latent: ``(B, T, N, D)`` to ``(B, T, 1, Z)``.

    Tokens are centred per position by statistics of the training data, since what all frames share carries no state.
    The last layer is a BatchNorm without parameters: it fixes the latent's scale, and it makes the collapsed batch
    unreachable, which is a stationary point of SIGReg (a head without it stays there).
    """

    token_mean: Tensor
    token_scale: Tensor

    def __init__(self, config: TokenHeadConfig, tokens: int, token_width: int) -> None:
        super().__init__()
        self.config = config
        self.width = config.width
        self.reduce = nn.Linear(token_width, config.per_token)
        self.mlp = nn.Sequential(
            nn.Linear(tokens * config.per_token, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.width),
        )
        self.norm = nn.BatchNorm1d(config.width, affine=False)
        self.register_buffer("token_mean", torch.zeros(tokens, token_width))
        self.register_buffer("token_scale", torch.ones(()))

    @torch.no_grad()
    def set_statistics(self, tokens: Tensor) -> None:
        """Take the tokens' mean per position, and one scale for all, from a sample ``(L, N, D)`` of training data."""
        tokens = tokens.to(self.token_mean.device)
        self.token_mean.copy_(tokens.mean(dim=0))
        self.token_scale.copy_((tokens - self.token_mean).std().clamp_min(1e-6))

    def forward(self, tokens: Tensor) -> Tensor:
        b, t = tokens.shape[:2]
        centred = (tokens.float() - self.token_mean) / self.token_scale
        latent = self.mlp(self.reduce(centred).flatten(2)).flatten(0, 1)
        return self.norm(latent.float()).reshape(b, t, 1, self.width)
