"""A causal transformer that actions modulate at every layer (LeWM, 2603.19312; JEPA-WM, 2512.24497)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldmodel.models.dynamics.causal import CausalDynamics, check_causal
from worldmodel.nn.global_batch import GlobalBatchNorm1d


@dataclass
class AdaLNDynamicsConfig:
    """Size of the transformer. LeWM: 192, 6 blocks, 16 heads of 64, MLPs of 2048, dropout 0.1, context 3."""

    #: Features per token.
    width: int = 96
    #: Transformer blocks.
    depth: int = 3
    #: Attention heads.
    heads: int = 3
    #: Features per head.
    head_width: int = 32
    #: Hidden features of a block's MLP.
    mlp_hidden: int = 384
    #: In training.
    dropout: float = 0.0
    #: The longest history that a prediction depends on, in steps.
    context: int = 3
    #: "learned" (LeWM), "rope" (JEPA-WM: rotary over time, rows and columns) or "rope_compat" (V-JEPA 2's weights).
    positions: str = "learned"
    #: Rows of the grid of visual tokens, for rotary positions; 0: a square.
    rows: int = 0
    #: Features that the actions of a step are first mapped to; 0: as many as they are (10 in LeWM, either way).
    action_width: int = 0
    #: Hidden features of an MLP that makes the prediction of the last tokens; 0: one linear layer.
    projection: int = 0
    #: "none", or "batch": a batch norm in that MLP, as LeWM has. While training, rows then see each other's statistics.
    projection_norm: str = "none"
    #: Compute each block again for its gradient instead of keeping its activations.
    checkpoint_blocks: bool = False

    def __post_init__(self) -> None:
        check_causal(self)
        if self.width < 1 or self.action_width < 0:
            raise ValueError("dynamics: width must be positive, and action_width not negative")
        check_projection(self.projection, self.projection_norm)


class AdaLNDynamics(CausalDynamics):
    """Each layer's norms are shifted, scaled and gated by the step's action (AdaLN-zero, DiT, 2212.09748).

    Modulation begins at zero, so an untrained model ignores actions. LeWM is this with ``N = 1``; its published
    predictor has 11,584,128 parameters beside the action embedding, and so has this one at its size.
    """

    def __init__(
        self, config: AdaLNDynamicsConfig, tokens: int, width: int, actions_per_step: int, action_dim: int
    ) -> None:
        shape = (tokens, width, actions_per_step, action_dim)
        super().__init__(config, shape, config.width, conditioned=True)
        self.config = config
        self.embed_action = ActionEmbedding(actions_per_step * action_dim, config.action_width, config.width)
        self.enter: nn.Module = nn.Linear(width, config.width) if width != config.width else nn.Identity()
        self.leave = make_projection(config.width, config.projection, width, config.projection_norm)

    def embed(self, tokens: Tensor, actions: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.enter(tokens), self.embed_action(self.scaled(actions, tokens))

    def read(self, x: Tensor) -> Tensor:
        return self.leave(x)


class ActionEmbedding(nn.Module):
    """The actions of a step ``(..., K * A)`` to a condition: a linear map and an MLP, as in LeWM.

    Args:
        size: ``K * A``.
        narrow: Features after the linear map; 0: ``K * A``.
        width: Of the condition.
    """

    def __init__(self, size: int, narrow: int, width: int) -> None:
        super().__init__()
        narrow = narrow or size
        self.mix = nn.Linear(size, narrow)
        self.mlp = nn.Sequential(nn.Linear(narrow, 4 * width), nn.SiLU(), nn.Linear(4 * width, width))

    def forward(self, actions: Tensor) -> Tensor:
        return self.mlp(self.mix(actions))


class Projection(nn.Module):
    """An MLP on each token, with a batch norm over all of them if asked for."""

    def __init__(self, width: int, hidden: int, out: int, batch_norm: bool) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.norm = GlobalBatchNorm1d(hidden) if batch_norm else nn.Identity()
        self.fc2 = nn.Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.fc1(x).flatten(0, -2))
        return self.fc2(torch.nn.functional.gelu(hidden)).reshape(*x.shape[:-1], -1)


def make_projection(width: int, hidden: int, out: int, norm: str) -> nn.Module:
    """A :class:`Projection`, or a linear layer where ``hidden`` is 0."""
    return Projection(width, hidden, out, norm == "batch") if hidden else nn.Linear(width, out)


def check_projection(hidden: int, norm: str) -> None:
    """Refuse what :func:`make_projection` cannot make.

    Raises:
        ValueError: Says which key is wrong.
    """
    if hidden < 0:
        raise ValueError(f"dynamics.projection={hidden} must not be negative; 0 is a linear layer")
    if norm not in ("none", "batch"):
        raise ValueError(f"dynamics.projection_norm={norm!r} is unknown; choose none or batch")
    if norm == "batch" and not hidden:
        raise ValueError("dynamics.projection_norm=batch needs dynamics.projection, the MLP that it is in")
