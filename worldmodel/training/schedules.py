"""Values that change over a training run, as functions of the step or of the share of the training that is done.

Schedules can be *stretched*, as V-JEPA's are by 1.25: they are laid out for ``stretch`` times the training, which ends
before they do. V-JEPA's learning rate, for instance, goes down to 7.5e-5 and not to its final 1e-6.
"""

from __future__ import annotations

import math


def warmup_cosine(
    step: int,
    steps: int,
    peak: float,
    warmup: int,
    final: float = 0.0,
    *,
    start: float = 0.0,
    stretch: float = 1.0,
) -> float:
    """Linear from just above ``start`` to ``peak`` over ``warmup`` steps, then half a cosine down to ``final``."""
    if step < warmup:
        return _rise(step, warmup, start, peak)
    return cosine((step - warmup) / max(1, stretch * steps - warmup), peak, final)


def warmup_constant(step: int, peak: float, warmup: int, *, start: float = 0.0) -> float:
    """Linear from just above ``start`` to ``peak`` over ``warmup`` steps, then ``peak`` for good."""
    return _rise(step, warmup, start, peak) if step < warmup else peak


def warmup_linear(
    step: int,
    steps: int,
    peak: float,
    warmup: int,
    final: float = 0.0,
    *,
    start: float = 0.0,
    stretch: float = 1.0,
) -> float:
    """Linear from just above ``start`` to ``peak`` over ``warmup`` steps, then linear down to ``final``."""
    if step < warmup:
        return _rise(step, warmup, start, peak)
    return linear((step - warmup) / max(1, stretch * steps - warmup), peak, final)


def warmup_stable_decay(
    step: int, steps: int, peak: float, warmup: int, decay: int, final: float = 0.0, *, start: float = 0.0
) -> float:
    """Linear to ``peak`` over ``warmup`` steps, then ``peak``, then linear to ``final`` in the last ``decay`` steps."""
    if step < warmup:
        return _rise(step, warmup, start, peak)
    return linear((step - (steps - decay)) / max(1, decay), peak, final)


def linear(progress: float, first: float, last: float, stretch: float = 1.0) -> float:
    """``first`` at ``progress`` 0, ``last`` at ``stretch`` and after."""
    share = min(1.0, max(0.0, progress / stretch))
    return first + (last - first) * share


def cosine(progress: float, first: float, last: float, stretch: float = 1.0) -> float:
    """Half a cosine from ``first`` at ``progress`` 0 to ``last`` at ``stretch`` and after."""
    share = min(1.0, max(0.0, progress / stretch))
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * share))


def _rise(step: int, warmup: int, start: float, peak: float) -> float:
    return start + (peak - start) * (step + 1) / warmup
