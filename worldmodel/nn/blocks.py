"""Pre-norm transformer blocks (Dosovitskiy et al. 2021, 2010.11929)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from worldmodel.nn.rope import Turn, apply_turn

MLPS = ("gelu", "swiglu")


class Attention(nn.Module):
    """Multi-head self-attention over all tokens: ``(B, L, D)`` to ``(B, L, D)``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(
                f"width {width} cannot be shared by {heads} heads; choose a divisor of the width"
            )
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        # Without matrix instructions for bfloat16, a CPU's attention takes twice as long in it as in float32.
        self.slow_half = not getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()

    def forward(self, x: Tensor, turn: Turn | None = None) -> Tensor:
        """``turn`` holds the rotary positions of the tokens, where the model uses those."""
        b, length, width = x.shape
        qk, v = self.qkv(x).split((2 * width, width), dim=-1)
        qk = qk.unflatten(-1, (2, self.heads, -1))
        v = v.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        if turn is None:
            q, k = qk.transpose(1, 3).unbind(2)
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            q, k = apply_turn(qk, turn).transpose(1, 3).unbind(2)
            mixed = self._attend_turned(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(b, length, width))

    def _attend_turned(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of queries and keys in float32; returns the type of the values."""
        if v.dtype == torch.float32 or not (self.slow_half and v.device.type == "cpu"):
            return F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v)
        with torch.autocast("cpu", enabled=False):
            return F.scaled_dot_product_attention(q, k, v.float()).to(v.dtype)


class MLP(nn.Module):
    """``fc2(gelu(fc1(x)))``."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    @property
    def last(self) -> nn.Linear:
        """The layer whose output is added to the tokens."""
        return self.fc2

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SwiGLU(nn.Module):
    """``fc3(silu(fc1(x)) * fc2(x))`` (Shazeer 2020, 2002.05202).

    The hidden width is two thirds of ``hidden``, rounded up to a multiple of 8, so that there are about as many
    parameters as in an :class:`MLP` of ``hidden``.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        hidden = (2 * hidden // 3 + 7) // 8 * 8
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(width, hidden)
        self.fc3 = nn.Linear(hidden, width)

    @property
    def last(self) -> nn.Linear:
        """The layer whose output is added to the tokens."""
        return self.fc3

    def forward(self, x: Tensor) -> Tensor:
        return self.fc3(F.silu(self.fc1(x)) * self.fc2(x))


class Block(nn.Module):
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``.

    Args:
        width: Features per token.
        heads: Attention heads; must divide the width.
        mlp_ratio: Hidden features of the MLP, as a multiple of the width.
        mlp: ``"gelu"`` or ``"swiglu"``.
        drop_path: Share of the samples for which a branch is left out in training (Huang et al. 2016, 1603.09382).
        eps: Of the layer norms.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float,
        mlp: str = "gelu",
        drop_path: float = 0.0,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        hidden = round(width * mlp_ratio)
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = SwiGLU(width, hidden) if mlp == "swiglu" else MLP(width, hidden)
        self.drop_path = drop_path

    def forward(self, x: Tensor, turn: Turn | None = None) -> Tensor:
        x = x + self._drop(self.attn(self.norm1(x), turn))
        return x + self._drop(self.mlp(self.norm2(x)))

    def _drop(self, branch: Tensor) -> Tensor:
        if not self.training or self.drop_path == 0.0:
            return branch
        kept = 1.0 - self.drop_path
        return branch * branch.new_empty(len(branch), 1, 1).bernoulli_(kept).div_(kept)


def make_blocks(
    width: int, depth: int, heads: int, mlp_ratio: float, mlp: str, drop_path: float = 0.0
) -> nn.ModuleList:
    """``depth`` blocks; drop path grows linearly from 0 at the first to ``drop_path`` at the last."""
    rates = [drop_path * i / max(1, depth - 1) for i in range(depth)]
    return nn.ModuleList(Block(width, heads, mlp_ratio, mlp, rate) for rate in rates)


def through_blocks(
    blocks: Iterable[nn.Module], x: Tensor, turn: Turn | None, recompute: bool
) -> Iterator[Tensor]:
    """The tokens after each block.

    Args:
        blocks: Modules called as ``block(x, turn)``.
        x: ``(B, L, D)``.
        turn: Rotary positions, or None.
        recompute: Keep only what goes into a block, and compute the rest again for the gradient (Chen et al. 2016,
            1604.06174): memory for about a third more time.
    """
    for block in blocks:
        if recompute and torch.is_grad_enabled():
            x = checkpoint(block, x, turn, use_reentrant=False)
        else:
            x = block(x, turn)
        yield x


def init_transformer(module: nn.Module, blocks: nn.ModuleList) -> None:
    """V-JEPA's initialisation: normal of std 0.02, biases 0, outputs of block ``i`` (from 1) over ``sqrt(2 i)``."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    with torch.no_grad():
        for index, block in enumerate(blocks, start=1):
            assert isinstance(block, Block)
            block.attn.proj.weight.div_(math.sqrt(2 * index))
            block.mlp.last.weight.div_(math.sqrt(2 * index))


def check_mlp(mlp: str, where: str) -> None:
    """Refuse an unknown kind of MLP.

    Raises:
        ValueError: Says which key is wrong; ``where`` stands before it.
    """
    if mlp not in MLPS:
        raise ValueError(f"{where}.mlp={mlp!r} is unknown; choose one of {', '.join(MLPS)}")
