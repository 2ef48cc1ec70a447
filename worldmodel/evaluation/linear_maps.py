"""Ridge regressions whose penalty is chosen on rows that were set apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worldmodel.evaluation.fitting import ridge

PENALTIES = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True)
class LinearMap:
    """``y = ((x - mean) / scale) @ weight + bias``."""

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor
    penalty: float

    def __call__(self, x: Tensor) -> Tensor:
        return ((x - self.mean) / self.scale) @ self.weight + self.bias


def fit_linear_map(x: Tensor, y: Tensor, select: Tensor, penalties: Sequence[float] = PENALTIES) -> LinearMap:
    """Fit ``y (n, Q)`` to ``x (n, F)``; the penalty with the least error on the rows in ``select (n,)`` is taken.

    Inputs are standardised. The error counts each output by its own variance, so that none is chosen for alone. The map
    that is returned is fitted to all rows.
    """
    variance = y.var(dim=0).clamp_min(1e-12)
    fit = ~select

    def error(penalty: float) -> float:
        answer = _fit(x[fit], y[fit], penalty)(x[select])
        return float(((answer - y[select]).square() / variance).mean())

    best = min(penalties, key=error) if bool(select.any()) and bool(fit.any()) else penalties[0]
    return _fit(x, y, best)


def _fit(x: Tensor, y: Tensor, penalty: float) -> LinearMap:
    mean, scale = x.mean(dim=0), x.std(dim=0)
    # Features that never change stay as they are: zero after centring.
    scale = torch.where(scale > 1e-6 * scale.max().clamp_min(1e-12), scale, torch.ones_like(scale))
    return LinearMap(mean, scale, *ridge((x - mean) / scale, y, penalty), penalty)
