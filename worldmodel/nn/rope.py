"""Rotary position embedding over three axes: time, height, width (RoFormer, 2104.09864; V-JEPA 2, 2506.09985).

A head's channels are shared by the axes, ``2 * (head_dim // 3 // 2)`` each; what is left over is not turned. Channels
``2 j`` and ``2 j + 1`` of an axis are a pair, turned by ``position * 10000 ** (-j / pairs)``, so that the score of a
query and a key depends on where they are relative to each other only.

V-JEPA 2's released weights were trained with something else: the two channels of a pair turn by the frequencies of
*different* pairs, which is no rotation and has no such property. ``compat=True`` does that, for those weights.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BASE = 10_000.0


class Turn(NamedTuple):
    """What is done to the channels of queries and keys at each place, for all heads and blocks alike.

    A pair of channels is read as a complex number ``z`` and becomes ``z * straight + conj(z) * mirrored``: a true
    rotation needs no mirrored part. Shapes are ``(1 or B, L, 1, 1, head_dim / 2)``.
    """

    straight: Tensor
    mirrored: Tensor | None


def rope_dims(head_dim: int) -> int:
    """Channels of a head that each of the three axes turns."""
    return 2 * (head_dim // 3 // 2)


def rope_turn(axes: tuple[Tensor, Tensor, Tensor], head_dim: int, compat: bool = False) -> Turn:
    """The turn at each place, in float32, whatever precision the network runs in.

    Args:
        axes: Step, row and column of each token, ``(1 or B, L)``.
        head_dim: Channels per head; even.
        compat: Pair the frequencies as V-JEPA 2's released weights need it.
    """
    pairs = rope_dims(head_dim) // 2
    channel = torch.arange(2 * pairs, device=axes[0].device)
    # Which frequency a channel turns by: 0 0 1 1 2 2 is a rotation, 0 1 2 0 1 2 is what V-JEPA 2 does.
    order = channel % pairs if compat else channel // 2
    frequency = BASE ** (-order.float() / pairs)
    angles = torch.cat([axis.float()[..., None] * frequency for axis in axes], dim=-1)
    angles = torch.nn.functional.pad(angles, (0, head_dim - angles.shape[-1]))
    cos, sin = (table[:, :, None, None].unflatten(-1, (-1, 2)) for table in (angles.cos(), angles.sin()))
    if not compat:
        return Turn(torch.stack([cos[..., 0], sin[..., 0]], dim=-1), None)
    mean = torch.stack([cos.sum(-1), sin.sum(-1)], dim=-1) / 2
    half = torch.stack([cos[..., 0] - cos[..., 1], sin[..., 1] - sin[..., 0]], dim=-1) / 2
    return Turn(mean, half)


def apply_turn(x: Tensor, turn: Turn) -> Tensor:
    """Turn queries and keys ``(B, L, 2, H, head_dim)``; computed and returned in float32."""
    if torch.compiler.is_compiling():
        return _turn_real(x, turn)
    # One pass over the memory per product, where the formula on real numbers needs eight.
    z = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    turned = z * torch.view_as_complex(turn.straight.float())
    if turn.mirrored is not None:
        turned = turned + z.conj() * torch.view_as_complex(turn.mirrored.float())
    return torch.view_as_real(turned).flatten(-2)


def _turn_real(x: Tensor, turn: Turn) -> Tensor:
    """The same without complex numbers, which the compiler cannot fuse."""
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    c, s = turn.straight.unbind(-1)
    real, imaginary = a * c - b * s, a * s + b * c
    if turn.mirrored is not None:
        c, s = turn.mirrored.unbind(-1)
        real, imaginary = real + a * c + b * s, imaginary + a * s - b * c
    return torch.stack([real, imaginary], dim=-1).flatten(-2)
