"""What the transformer dynamics share: positions, teacher forcing, and rollouts that remember keys and values.

**A prediction depends on the last ``context`` steps, and on nothing else.** The first of them has position 0, whatever
came before: what ``forward`` gives on that window. As long as the history fits into the window, a rollout only computes
new steps, with the keys and values of earlier ones. When the window slides, keys and values of what remains are those
of steps that saw the dropped one, so they are computed again. (Keeping them would be another function, with another
history in each layer, that no training window shows.) A rollout that should not pay for this has a ``context`` of at
least its context steps and its plan's length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from worldmodel.models.dynamics.base import Dynamics
from worldmodel.nn.causal import CausalBlock, KeyValue, Memory, frame_causal_mask, init_blocks
from worldmodel.nn.rope import Turn, rope_dims, rope_turn

POSITIONS = ("learned", "rope", "rope_compat")


class CausalConfig(Protocol):
    """Settings that all transformer dynamics have."""

    depth: int
    heads: int
    head_width: int
    mlp_hidden: int
    dropout: float
    context: int
    positions: str
    rows: int
    checkpoint_blocks: bool


def check_causal(config: CausalConfig) -> None:
    """Refuse sizes that cannot be.

    Raises:
        ValueError: Says which key is wrong.
    """
    for name in ("depth", "heads", "head_width", "mlp_hidden", "context"):
        if getattr(config, name) < 1:
            raise ValueError(f"dynamics.{name}={getattr(config, name)} must be at least 1")
    if not 0 <= config.dropout < 1:
        raise ValueError(f"dynamics.dropout={config.dropout} must be at least 0 and below 1")
    if config.rows < 0:
        raise ValueError(f"dynamics.rows={config.rows} must not be negative; 0 is a square")
    if config.positions not in POSITIONS:
        raise ValueError(
            f"dynamics.positions={config.positions!r} is unknown; choose one of {', '.join(POSITIONS)}"
        )
    if config.positions != "learned" and (config.head_width % 2 or not rope_dims(config.head_width)):
        raise ValueError(
            f"dynamics.head_width={config.head_width} is too small or odd for positions={config.positions}; "
            "use an even number of at least 6"
        )


def places(tokens: int, rows: int) -> tuple[Tensor, Tensor]:
    """Row and column ``(N,)`` of each token of a step; proprioception, the last of ``rows * columns + 1``, is at 0, 0.

    Args:
        tokens: ``N``.
        rows: Of the grid of visual tokens; 0: it is a square.

    Raises:
        ValueError: The tokens are no such grid.
    """
    side = math.isqrt(tokens)
    high = rows or side
    wide = tokens // high if rows else side
    if not wide or tokens - high * wide not in (0, 1):
        shape = f"a grid of {rows} rows" if rows else "a square"
        raise ValueError(
            f"{tokens} tokens per step are not {shape}, nor that and one for proprioception; "
            "set dynamics.rows, or dynamics.positions=learned"
        )
    place = torch.arange(high * wide)
    extra = place.new_zeros(tokens - high * wide)
    return torch.cat([place // wide, extra]), torch.cat([place % wide, extra])


class CausalDynamics(Dynamics):
    """A frame-causal transformer. Subclasses say how tokens and actions go in, and how predictions come out.

    Args:
        config: See :class:`CausalConfig`.
        shape: ``(N, Z, K, A)``.
        width: Features per token inside.
        actions_first: Tokens of a step that stand before its latent's.
        bias: Whether queries, keys and values have one.
        conditioned: Whether the blocks get a condition from :meth:`embed`.
    """

    row: Tensor
    column: Tensor

    def __init__(
        self,
        config: CausalConfig,
        shape: tuple[int, int, int, int],
        width: int,
        *,
        actions_first: int = 0,
        bias: bool = False,
        conditioned: bool = False,
    ) -> None:
        super().__init__(*shape, context=config.context)
        self.group = actions_first + self.tokens
        self.blocks = nn.ModuleList(
            CausalBlock(
                width, config.heads, config.head_width, config.mlp_hidden, config.dropout, bias, conditioned
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        init_blocks(self.blocks)
        self.table: nn.Parameter | None = None
        self.head_width, self.compat = config.head_width, config.positions == "rope_compat"
        self.recompute = config.checkpoint_blocks
        if config.positions == "learned":
            self.table = nn.Parameter(torch.empty(config.context, self.group, width))
            nn.init.trunc_normal_(self.table, std=0.02)
        else:
            for name, axis in zip(("row", "column"), places(self.tokens, config.rows), strict=True):
                first = axis.new_zeros(actions_first)  # an action is turned by its time alone
                self.register_buffer(name, torch.cat([first, axis]), persistent=False)

    def embed(self, tokens: Tensor, actions: Tensor) -> tuple[Tensor, Tensor | None]:
        """Latents ``(B, T, N, Z)`` and actions to tokens ``(B, T, G, D)`` and a condition ``(B, T, D)``."""
        raise NotImplementedError

    def read(self, x: Tensor) -> Tensor:
        """Normed tokens ``(B, T, G, D)`` to latents ``(B, T, N, Z)``."""
        raise NotImplementedError

    def forward(self, tokens: Tensor, actions: Tensor) -> Tensor:
        extra = tokens.shape[1] - self.context
        x, _ = self._through(tokens[:, : self.context], actions[:, : self.context])
        predicted = self._predicted(x, tokens)
        if extra <= 0:
            return predicted
        # Every later row has a window of its own.
        windows = [slice(first, first + self.context) for first in range(1, extra + 1)]
        x, _ = self._through(
            torch.cat([tokens[:, window] for window in windows]),
            torch.cat([actions[:, window] for window in windows]),
        )
        later = self._predicted(x[:, -1:], tokens)[:, 0].unflatten(0, (extra, -1)).transpose(0, 1)
        return torch.cat([predicted, later], dim=1)

    def _rollout(self, context: Tensor, past_actions: Tensor, plans: Tensor) -> Tensor:
        """The last step of the context is the first of each candidate's own: its action is the candidate's."""
        envs, candidates, length = plans.shape[:3]
        last = context.shape[1] - 1
        actions = plans.flatten(0, 1)
        own = [context[:, -1].repeat_interleave(candidates, dim=0)]
        memory: Memory | None = None
        for step in range(length):
            dropped = max(0, last + step + 1 - self.context)
            first = step
            if step == 0 or dropped > 0:
                memory = self._remember(context[:, dropped:-1], past_actions[:, dropped:])
                first = max(0, dropped - last)
            new = slice(first, step + 1)
            x, memory = self._through(torch.stack(own[new], dim=1), actions[:, new], memory)
            own.append(self._predicted(x[:, -1:], context)[:, 0])
        return torch.stack(own[1:], dim=1).unflatten(0, (envs, candidates))

    def _remember(self, context: Tensor, actions: Tensor) -> Memory | None:
        """Keys and values of the context, for all candidates."""
        if not context.shape[1]:
            return None
        _, memory = self._through(context, actions)
        return Memory(memory.steps, shared=memory.own)

    def _predicted(self, x: Tensor, tokens: Tensor) -> Tensor:
        """Latents of ``x (B, T, G, D)``, in the type of the tokens that came in also under autocast."""
        return self.read(self.norm(x)).to(tokens.dtype)

    def _through(
        self, tokens: Tensor, actions: Tensor, memory: Memory | None = None
    ) -> tuple[Tensor, Memory]:
        """New steps through the blocks, ``(B, T, G, D)``, after the remembered ones; and the memory that has both."""
        memory = memory or Memory(0)
        new = tokens.shape[1]
        x, condition = self.embed(tokens, actions)
        if self.table is not None:
            x = x + self.table[memory.steps : memory.steps + new].to(x.dtype)
        turn = self._turn(memory.steps, new)
        known = memory.own[0][0].shape[2] // self.group if memory.own else 0
        mask = frame_causal_mask(new, known, self.group, x.device)
        own: list[KeyValue] = []
        for index, block in enumerate(self.blocks):
            given = (x, condition, turn, mask, _of(memory.shared, index), _of(memory.own, index))
            if self.recompute and torch.is_grad_enabled():
                x, kept = checkpoint(block, *given, use_reentrant=False)
            else:
                x, kept = block(*given)
            own.append(kept)
        return x, Memory(memory.steps + new, memory.shared, own)

    def _turn(self, start: int, new: int) -> Turn | None:
        """How queries and keys of ``new`` steps from position ``start`` on turn."""
        if self.table is not None:
            return None
        time = torch.arange(start, start + new, device=self.row.device).repeat_interleave(self.group)
        axes = (time[None], self.row.repeat(new)[None], self.column.repeat(new)[None])
        return rope_turn(axes, self.head_width, self.compat)


def _of(kept: Sequence[KeyValue] | None, index: int) -> KeyValue | None:
    return None if kept is None else kept[index]
