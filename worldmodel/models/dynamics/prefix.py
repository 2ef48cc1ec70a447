"""Whole prefixes of a plan predicted from one latent, all at once (Fast-LeWM)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.models.dynamics.adaln import ActionEmbedding, check_projection, make_projection
from worldmodel.models.dynamics.base import Dynamics
from worldmodel.nn.causal import CausalBlock, frame_causal_mask, init_blocks


@dataclass
class PrefixDynamicsConfig:
    """Size of both networks. Fast-LeWM: 192, 3 blocks, 6 heads of 32, MLPs of 768; 6 layers of 2048, fusion 768."""

    #: Features per token.
    width: int = 96
    #: Blocks of the transformer over a plan's actions.
    depth: int = 2
    #: Its attention heads.
    heads: int = 3
    #: Features per head.
    head_width: int = 32
    #: Hidden features of its MLPs.
    mlp_hidden: int = 384
    #: Residual layers that move the latent.
    layers: int = 3
    #: Their hidden features.
    hidden: int = 384
    #: Features of what joins a prefix and the state, and modulates these layers.
    fusion: int = 192
    #: In training.
    dropout: float = 0.0
    #: The longest prefix, in steps: longer rollouts go on from the last prediction.
    prefix: int = 5
    #: Hidden features of an MLP that makes the prediction of the last tokens; 0: one linear layer.
    projection: int = 0
    #: "none", or "batch": a batch norm in that MLP. While training, rows then see each other's statistics.
    projection_norm: str = "none"

    def __post_init__(self) -> None:
        for name in (
            "width",
            "depth",
            "heads",
            "head_width",
            "mlp_hidden",
            "layers",
            "hidden",
            "fusion",
            "prefix",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"dynamics.{name}={getattr(self, name)} must be at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dynamics.dropout={self.dropout} must be at least 0 and below 1")
        check_projection(self.projection, self.projection_norm)


class PrefixDynamics(Dynamics):
    """``z[t+l] = g(z[t], a[t] .. a[t+l-1])`` for all ``l`` up to ``config.prefix`` in one pass.

    A causal transformer over the actions, modulated by the state, summarises each prefix; residual layers, modulated by
    that, move the latent. Errors do not build up within a prefix, and a plan costs one pass instead of one per step.

    ``forward`` is the prefix of length 1. ``rollout`` predicts prefixes, so unlike that of other dynamics it is not
    ``forward`` on its own predictions, except with ``prefix=1``; trained by the rollout loss, it learns all prefixes.
    The tokens of a step see each other only through their mean: meant for few of them.
    """

    def __init__(
        self, config: PrefixDynamicsConfig, tokens: int, width: int, actions_per_step: int, action_dim: int
    ) -> None:
        super().__init__(tokens, width, actions_per_step, action_dim)
        self.config = config
        inside = config.width
        self.embed_action = ActionEmbedding(actions_per_step * action_dim, 0, inside)
        self.embed_state = nn.Linear(tokens * width, inside)
        self.times = nn.Parameter(torch.empty(config.prefix, inside))
        nn.init.trunc_normal_(self.times, std=0.02)
        self.blocks = nn.ModuleList(
            CausalBlock(
                inside, config.heads, config.head_width, config.mlp_hidden, config.dropout, False, True
            )
            for _ in range(config.depth)
        )
        init_blocks(self.blocks)
        self.fuse = nn.Linear(2 * inside, config.fusion)
        self.enter = nn.Linear(width, inside)
        self.layers = nn.ModuleList(
            ModulatedMLP(inside, config.fusion, config.hidden, config.dropout) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(inside, eps=1e-6)
        self.leave = make_projection(inside, config.projection, width, config.projection_norm)

    def forward(self, tokens: Tensor, actions: Tensor) -> Tensor:
        """Row ``t`` is the prediction from token ``t`` and action ``t`` alone."""
        steps = self.predict_prefixes(tokens.flatten(0, 1), actions.flatten(0, 1)[:, None])
        return steps[:, 0].unflatten(0, tokens.shape[:2])

    def predict_prefixes(self, tokens: Tensor, actions: Tensor) -> Tensor:
        """The latents ``(B, L, N, Z)`` after each of the actions.

        Args:
            tokens: What was observed, ``(B, N, Z)``.
            actions: ``(B, L, K, A)``; prediction ``l`` depends on the first ``l + 1``.

        Raises:
            ValueError: There are more of them than ``config.prefix``, or rows do not match.
        """
        length = actions.shape[1]
        if length > self.config.prefix or len(actions) != len(tokens):
            raise ValueError(
                f"actions have shape {tuple(actions.shape)}; expected (B, L, K, A) with B = {len(tokens)} and L at "
                f"most {self.config.prefix}"
            )
        state = self.embed_state(tokens.flatten(1))[:, None].expand(-1, length, -1)
        x = (self.embed_action(self.scaled(actions)) + self.times[:length])[:, :, None]
        mask = frame_causal_mask(length, 0, 1, x.device)
        for block in self.blocks:
            x, _ = block(x, state, None, mask, None, None)
        prefix = self.fuse(torch.cat([x[:, :, 0], state.to(x.dtype)], dim=-1))[:, :, None]
        latent = self.enter(tokens)[:, None].expand(-1, length, -1, -1)
        for layer in self.layers:
            latent = layer(latent, prefix)
        return self.leave(self.norm(latent)).to(tokens.dtype)

    def _rollout(self, context: Tensor, past_actions: Tensor, plans: Tensor) -> Tensor:
        envs, candidates, length = plans.shape[:3]
        actions = plans.flatten(0, 1)
        state = context[:, -1].repeat_interleave(candidates, dim=0)
        parts = []
        for first in range(0, length, self.config.prefix):
            parts.append(self.predict_prefixes(state, actions[:, first : first + self.config.prefix]))
            state = parts[-1][:, -1]
        return torch.cat(parts, dim=1).unflatten(0, (envs, candidates))


class ModulatedMLP(nn.Module):
    """A residual MLP whose norm is shifted and scaled, and whose branch is gated, by a condition; at first it is 0.

    Args:
        width: Features of the tokens.
        condition: Features of the condition.
        hidden: Features of its hidden layer.
        dropout: Of the hidden features, in training.
    """

    def __init__(self, width: int, condition: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.fc1 = nn.Linear(width, hidden)
        self.drop = nn.Dropout(dropout)
        self.fc2 = nn.Linear(hidden, width)
        self.modulation = nn.Linear(condition, 3 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(F.silu(condition)).chunk(3, dim=-1)
        hidden = F.gelu(self.fc1(self.norm(x) * (1 + scale) + shift))
        return x + gate * self.fc2(self.drop(hidden))
