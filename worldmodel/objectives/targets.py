"""Target networks: copies that no gradient reaches."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def frozen_copy(network: Network) -> Network:
    """A copy without gradients, in evaluation mode: the beginning of a moving average, or a teacher."""
    return copy.deepcopy(network).requires_grad_(False).eval()


def check_momentum(start: float, end: float) -> None:
    """See that the momentum of a moving average never falls, from ``start`` to ``end``.

    Raises:
        ValueError: It is no momentum, or falls.
    """
    if not 0 <= start <= end <= 1:
        raise ValueError("objective.ema_start and ema_end must satisfy 0 <= start <= end <= 1")
