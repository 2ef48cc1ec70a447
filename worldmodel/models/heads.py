"""Heads: from an encoder's tokens to the latent of a world model, in which dynamics predict and planners measure.

A head takes tokens ``(B, T, n, D)`` of an encoder to latents ``(B, T, N, Z)``, each step by itself. It has ``tokens``
(``N``), ``width`` (``Z``) and ``set_statistics(tokens (L, n, D))``, called once with a sample of the training data
where the encoder is frozen. ``HEADS`` lists the kinds.
"""

from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.nn.global_batch import GlobalBatchNorm1d


@dataclass
class TokenHeadConfig:
    """Size of a token head."""

    #: Features kept of each token.
    per_token: int = 32
    #: Hidden features of its MLP.
    hidden: int = 256
    #: Features of the latent.
    width: int = 32


class Head(nn.Module):
    """What all heads share."""

    tokens: int
    width: int

    @torch.no_grad()
    def set_statistics(self, tokens: Tensor) -> None:
        """Take what the head needs to know from a sample ``(L, n, D)`` of a frozen encoder's tokens."""

    def forward(self, tokens: Tensor) -> Tensor:
        raise NotImplementedError


class TokenHead(Head):
    """``n`` tokens of a step to a single-vector latent: ``(B, T, n, D)`` to ``(B, T, 1, Z)``.

    Tokens are centred per position by statistics of the training data, since what all frames share carries no state.
    The last layer is a BatchNorm without parameters: it fixes the latent's scale, and it makes the collapsed batch
    unreachable, which is a stationary point of SIGReg (a head without it leaves it too, since predictions of different
    samples err differently, but keeps half the rank: ``tests/worldmodel/objectives/test_collapse.py``).
    """

    token_mean: Tensor
    token_scale: Tensor

    def __init__(self, config: TokenHeadConfig, tokens: int, token_width: int) -> None:
        super().__init__()
        self.config = config
        self.tokens, self.width = 1, config.width
        self.reduce = nn.Linear(token_width, config.per_token)
        self.mlp = nn.Sequential(
            nn.Linear(tokens * config.per_token, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.width),
        )
        self.norm = GlobalBatchNorm1d(config.width, affine=False)
        self.register_buffer("token_mean", torch.zeros(tokens, token_width))
        self.register_buffer("token_scale", torch.ones(()))

    @torch.no_grad()
    def set_statistics(self, tokens: Tensor) -> None:
        """Take the tokens' mean per position, and one scale for all, from a sample ``(L, n, D)`` of training data."""
        tokens = tokens.to(self.token_mean.device)
        self.token_mean.copy_(tokens.mean(dim=0))
        self.token_scale.copy_((tokens - self.token_mean).std().clamp_min(1e-6))

    def forward(self, tokens: Tensor) -> Tensor:
        b, t = tokens.shape[:2]
        centred = (tokens.float() - self.token_mean) / self.token_scale
        latent = self.mlp(self.reduce(centred).flatten(2)).flatten(0, 1)
        return self.norm(latent.float()).reshape(b, t, 1, self.width)


@dataclass
class ProjectorHeadConfig:
    """Size of a projector. LeWM: 2048 hidden features, a latent of 192."""

    #: Hidden features.
    hidden: int = 2048
    #: Features of the latent.
    width: int = 192


class ProjectorHead(Head):
    """The mean of a step's tokens through an MLP with BatchNorm, as in LeWM (2603.19312, section 3): ``(B, T, 1, Z)``.

    LeWM projects a class token; our encoders have none, and the mean takes its place. The hidden BatchNorm spreads any
    batch that is not exactly one point, so that SIGReg finds a gradient.
    """

    def __init__(self, config: ProjectorHeadConfig, tokens: int, token_width: int) -> None:
        super().__init__()
        self.config = config
        self.tokens, self.width = 1, config.width
        self.first = nn.Linear(token_width, config.hidden)
        self.norm = GlobalBatchNorm1d(config.hidden)
        self.last = nn.Linear(config.hidden, config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        b, t = tokens.shape[:2]
        hidden = self.norm(self.first(tokens.mean(dim=2)).flatten(0, 1).float())
        return self.last(F.gelu(hidden)).reshape(b, t, 1, self.width)


@dataclass
class PatchHeadConfig:
    """A latent of many tokens: the encoder's own, and nothing learned."""

    #: "layer" (each token over its features: V-JEPA 2-AC), "statistics" (mean and standard deviation over the training
    #: data, for each position and all features) or "none" (DINO-WM).
    norm: str = "layer"
    #: Average squares of this many tokens a side, to have fewer.
    pool: int = 1

    def __post_init__(self) -> None:
        if self.norm not in ("layer", "statistics", "none"):
            raise ValueError(f"head.norm={self.norm!r} is unknown; choose layer, statistics or none")
        if self.pool < 1:
            raise ValueError(f"head.pool={self.pool} must be at least 1")


class PatchHead(Head):
    """The encoder's tokens as they are, normalised and perhaps pooled: ``(B, T, N, D)``, ``N = n / pool**2``."""

    token_mean: Tensor
    token_scale: Tensor

    def __init__(self, config: PatchHeadConfig, tokens: int, token_width: int) -> None:
        super().__init__()
        self.config, self.side = config, isqrt(tokens)
        if config.pool > 1 and (self.side**2 != tokens or self.side % config.pool):
            raise ValueError(
                f"head.pool={config.pool} needs a square of tokens whose side it divides; the encoder gives {tokens}; "
                "use pool=1"
            )
        self.tokens, self.width = tokens // config.pool**2, token_width
        if config.norm == "statistics":
            self.register_buffer("token_mean", torch.zeros(self.tokens, token_width))
            self.register_buffer("token_scale", torch.ones(()))

    @torch.no_grad()
    def set_statistics(self, tokens: Tensor) -> None:
        """Take the tokens' mean per position, and one scale for all, from a sample ``(L, n, D)`` of training data."""
        if self.config.norm == "statistics":
            pooled = self._pool(tokens[:, None])[:, 0].to(self.token_mean.device)
            self.token_mean.copy_(pooled.mean(dim=0))
            self.token_scale.copy_((pooled - self.token_mean).std().clamp_min(1e-6))

    def forward(self, tokens: Tensor) -> Tensor:
        latent = self._pool(tokens.float())
        if self.config.norm == "layer":
            return F.layer_norm(latent, (self.width,))
        return (latent - self.token_mean) / self.token_scale if self.config.norm == "statistics" else latent

    def _pool(self, tokens: Tensor) -> Tensor:
        if self.config.pool == 1:
            return tokens
        squares = tokens.unflatten(2, (self.side, self.side)).flatten(0, 1).movedim(-1, 1)
        pooled = F.avg_pool2d(squares, self.config.pool).flatten(2).transpose(1, 2)
        return pooled.unflatten(0, tokens.shape[:2])


class ProprioToken(nn.Module):
    """Proprioception ``(B, T, Q)``, normalised by stored statistics, as one more token ``(B, T, 1, Z)`` of the latent.

    The map is fixed: the first ``Q`` features are the normalised values (repeated as often as they fit, so that they
    weigh as much as another token's features), the rest zero. A learned one could shrink to nothing, since no loss but
    the prediction's own would see it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        if not 1 <= dim <= width:
            raise ValueError(
                f"proprioception has {dim} values, the latent {width} features per token: it does not fit; use a wider "
                "latent"
            )
        self.dim, self.width = dim, width
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    @torch.no_grad()
    def set_statistics(self, proprio: Tensor) -> None:
        """Take mean and standard deviation from training data ``(..., Q)``."""
        flat = proprio.reshape(-1, self.dim).to(self.mean)
        self.mean.copy_(flat.mean(dim=0))
        self.std.copy_(flat.std(dim=0).clamp_min(1e-6))

    def forward(self, proprio: Tensor) -> Tensor:
        if proprio.shape[-1] != self.dim:
            raise ValueError(
                f"proprioception has {proprio.shape[-1]} values, the model was trained with {self.dim}"
            )
        values = (proprio.float() - self.mean) / self.std
        repeated = values.repeat(*[1] * (values.ndim - 1), self.width // self.dim)
        return F.pad(repeated, (0, self.width - repeated.shape[-1])).unsqueeze(-2)


#: Kinds of heads by the name that model files use.
HEADS: dict[str, tuple[type[Any], type[Any]]] = {
    "token": (TokenHeadConfig, TokenHead),
    "projector": (ProjectorHeadConfig, ProjectorHead),
    "patches": (PatchHeadConfig, PatchHead),
}


def head_kind(config: object) -> str:
    """The name of a configuration's kind.

    Raises:
        ValueError: It configures no head.
    """
    for kind, (config_class, _) in HEADS.items():
        if type(config) is config_class:
            return kind
    raise ValueError(f"{type(config).__name__} configures no head; kinds are {', '.join(HEADS)}")


def build_head(config: object, tokens: int, token_width: int) -> Head:
    """A head for an encoder that gives ``tokens`` tokens of ``token_width`` features per step.

    Raises:
        ValueError: The configuration is of no kind, or does not fit the encoder.
    """
    head: Head = HEADS[head_kind(config)][1](config, tokens, token_width)
    return head
