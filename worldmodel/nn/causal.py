"""Frame-causal transformer blocks with a memory of earlier steps, for dynamics.

A step has ``G`` tokens. They see each other and all tokens of earlier steps, and nothing later. At a rollout, the keys
and values of earlier steps are kept: those of the context once for all candidate plans of an environment, those of
imagined steps for each candidate.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.nn.rope import Turn, apply_turn

KeyValue = tuple[Tensor, Tensor]

#: Up to so many queries per candidate, shared keys are not repeated. With more of them, their scores are larger than
#: the repeated keys, and attention that keeps no scores is faster (on one CPU thread, 3 times at 197 tokens per step).
FEW_QUERIES = 32


@dataclass
class Memory:
    """Keys and values ``(rows, H, tokens, head width)`` of earlier steps, one pair for each block."""

    #: Steps that are remembered: the next one has this position.
    steps: int
    #: Of the context: rows are environments, each shared by all its candidates, without a copy.
    shared: list[KeyValue] | None = None
    #: Of imagined steps: rows are candidates.
    own: list[KeyValue] | None = None


class CausalAttention(nn.Module):
    """Multi-head attention of new steps to themselves and to remembered ones.

    Args:
        width: Features per token.
        heads: Attention heads.
        head_width: Features per head; heads times this need not be the width.
        dropout: Of attention weights, in training.
        bias: Whether queries, keys and values have one.
    """

    def __init__(self, width: int, heads: int, head_width: int, dropout: float, bias: bool) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * heads * head_width, bias=bias)
        self.proj = nn.Linear(heads * head_width, width)

    def forward(
        self, x: Tensor, turn: Turn | None, mask: Tensor | None, shared: KeyValue | None, own: KeyValue | None
    ) -> tuple[Tensor, KeyValue]:
        """The result, shaped as ``x``, and keys and values of all own steps, the new ones included.

        Args:
            x: Tokens of the new steps ``(B, T, G, D)``; below, ``L = T * G``.
            turn: Their rotary positions, or None.
            mask: ``(L, own tokens)``, true where a query may look; None: everywhere. Shared steps are seen by all.
            shared: Keys and values ``(E, H, P, d)``; rows ``e * S`` to ``e * S + S - 1`` of ``x`` see row ``e``.
            own: Keys and values ``(B, H, n, d)``.
        """
        qkv = self.qkv(x).flatten(1, 2).unflatten(-1, (3, self.heads, -1))
        v = qkv[:, :, 2].transpose(1, 2)
        qk = qkv[:, :, :2] if turn is None else apply_turn(qkv[:, :, :2], turn).to(v.dtype)
        q, k = qk.transpose(1, 3).unbind(2)
        if own is not None:
            k, v = torch.cat([own[0], k], dim=2), torch.cat([own[1], v], dim=2)
        dropout = self.dropout if self.training else 0.0
        if shared is None:
            mixed = F.scaled_dot_product_attention(q, k, v, mask, dropout)
        elif q.shape[2] <= FEW_QUERIES:
            mixed = attend_to_shared(q, k, v, shared, mask, dropout)
        else:
            mixed = attend_to_repeated(q, k, v, shared, mask, dropout)
        return self.proj(mixed.transpose(1, 2).flatten(2)).view_as(x), (k, v)


def attend_to_shared(
    q: Tensor, k: Tensor, v: Tensor, shared: KeyValue, mask: Tensor | None, dropout: float
) -> Tensor:
    """Attention of ``q (E * S, H, L, d)`` to its own ``k, v (E * S, H, n, d)`` and to shared ``(E, H, P, d)``.

    All candidates of an environment are queries of one product with the shared keys, which are never repeated.
    """
    envs, length = len(shared[0]), q.shape[2]

    def together(x: Tensor) -> Tensor:
        """``(E * S, H, L, ...)`` to ``(E, H, S * L, ...)``."""
        return x.unflatten(0, (envs, -1)).transpose(1, 2).flatten(2, 3)

    def apart(x: Tensor) -> Tensor:
        return x.unflatten(2, (-1, length)).transpose(1, 2).flatten(0, 1)

    near = q @ k.mT
    if mask is not None:
        near = near.masked_fill(~mask, float("-inf"))
    scores = torch.cat([apart(together(q) @ shared[0].mT), near], dim=-1).float()
    weights = F.dropout((scores * q.shape[-1] ** -0.5).softmax(dim=-1), dropout).to(v.dtype)
    far, near = weights.split([shared[0].shape[2], k.shape[2]], dim=-1)
    return apart(together(far) @ shared[1]) + near @ v


def attend_to_repeated(
    q: Tensor, k: Tensor, v: Tensor, shared: KeyValue, mask: Tensor | None, dropout: float
) -> Tensor:
    """The same, with shared keys and values repeated for each candidate, and the scores never written down."""
    times, known = len(q) // len(shared[0]), shared[0].shape[2]
    keys, values = (
        torch.cat([far.repeat_interleave(times, dim=0), near], dim=2)
        for far, near in zip(shared, (k, v), strict=True)
    )
    if mask is not None:
        mask = F.pad(mask, (known, 0), value=True)
    return F.scaled_dot_product_attention(q, keys, values, mask, dropout)


class CausalBlock(nn.Module):
    """Pre-norm block, with adaptive layer norm where there is a condition (AdaLN-zero, DiT, 2212.09748).

    A condition gives shift, scale and gate of both branches by a linear layer that begins at zero: at first, a block
    passes its tokens on, whatever the condition.

    Args:
        width: Features per token.
        heads: Attention heads.
        head_width: Features per head.
        hidden: Of the MLP.
        dropout: Of attention weights, of the MLP's hidden features and of both branches, in training.
        bias: Of queries, keys and values.
        conditioned: Whether there is a condition.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        head_width: int,
        hidden: int,
        dropout: float,
        bias: bool,
        conditioned: bool,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = CausalAttention(width, heads, head_width, dropout, bias)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width)
        )
        self.drop = nn.Dropout(dropout)
        self.modulation = nn.Linear(width, 6 * width) if conditioned else None

    def forward(
        self,
        x: Tensor,
        condition: Tensor | None,
        turn: Turn | None,
        mask: Tensor | None,
        shared: KeyValue | None,
        own: KeyValue | None,
    ) -> tuple[Tensor, KeyValue]:
        """``x (B, T, G, D)``, a ``condition (B, T, D)`` of each step; the rest as in :class:`CausalAttention`."""
        if self.modulation is None:
            mixed, own = self.attn(self.norm1(x), turn, mask, shared, own)
            x = x + self.drop(mixed)
            return x + self.drop(self.mlp(self.norm2(x))), own
        assert condition is not None
        changes = self.modulation(F.silu(condition))[:, :, None]
        shift1, scale1, gate1, shift2, scale2, gate2 = changes.chunk(6, dim=-1)
        mixed, own = self.attn(self.norm1(x) * (1 + scale1) + shift1, turn, mask, shared, own)
        x = x + gate1 * self.drop(mixed)
        return x + gate2 * self.drop(self.mlp(self.norm2(x) * (1 + scale2) + shift2)), own


def frame_causal_mask(new: int, known: int, group: int, device: torch.device) -> Tensor | None:
    """Who may look where: ``(new * group, (known + new) * group)``, or None where everybody may look everywhere.

    Args:
        new: Steps whose tokens are queries.
        known: Own steps before them.
        group: Tokens per step.
        device: Where the mask is needed.
    """
    if new == 1:
        return None
    step = torch.arange(known + new, device=device).repeat_interleave(group)
    return step[known * group :, None] >= step


def init_blocks(blocks: nn.ModuleList) -> None:
    """Normal of std 0.02, biases 0, outputs of block ``i`` (from 1) over ``sqrt(2 i)``, modulations 0.

    What is before and after the blocks keeps torch's own initialisation: were the embedding of an action as small as
    that, a modulation that begins at zero would learn slowly.
    """
    for index, block in enumerate(blocks, start=1):
        assert isinstance(block, CausalBlock)
        for part in block.modules():
            if isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=0.02)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
        last = block.mlp[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            block.attn.proj.weight.div_((2 * index) ** 0.5)
            last.weight.div_((2 * index) ** 0.5)
        if block.modulation is not None:
            nn.init.zeros_(block.modulation.weight)
