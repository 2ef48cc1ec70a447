"""Values that change over a training run, as functions of the step."""

from __future__ import annotations

import math


def warmup_cosine(step: int, steps: int, peak: float, warmup: int, final: float = 0.0) -> float:
    """Linear from ``peak / warmup`` to ``peak`` over ``warmup`` steps, then half a cosine down to ``final``."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return final + (peak - final) * 0.5 * (1 + math.cos(math.pi * progress))
