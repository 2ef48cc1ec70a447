"""Colours as eyes see them: CIE Lab, greys of equal lightness, and bins of (a, b)."""

from __future__ import annotations

import torch
from torch import Tensor

#: Linear sRGB to CIE XYZ (IEC 61966-2-1); the rows' sums are its white, D65.
_XYZ = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))


def srgb_to_lab(x: Tensor) -> Tensor:
    """sRGB ``(..., 3, H, W)`` in [0, 1] to CIE Lab of white D65: L from 0 to 100, a and b about -110 to 110."""
    xyz = torch.einsum("ij,...jhw->...ihw", _matrix(x), _linear(x))
    ratio = xyz / _matrix(x).sum(dim=1)[:, None, None]
    edge = 6 / 29
    f = torch.where(ratio > edge**3, ratio.clamp_min(edge**3) ** (1 / 3), ratio / (3 * edge**2) + 4 / 29)
    fx, fy, fz = f.unbind(dim=-3)
    return torch.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)], dim=-3)


def grey_of(x: Tensor) -> Tensor:
    """The greys of the same lightness as the sRGB colours ``(..., 3, H, W)``, in three equal channels."""
    light = torch.einsum("j,...jhw->...hw", _matrix(x)[1], _linear(x))[..., None, :, :].clamp(0, 1)
    value = torch.where(
        light > 0.0031308, 1.055 * light.clamp_min(0.0031308) ** (1 / 2.4) - 0.055, 12.92 * light
    )
    return value.expand_as(x)


def colour_bins(side: float) -> Tensor:
    """The ``(Q, 2)`` points of a grid in (a, b) that some sRGB colour is nearest to.

    260 of them for a side of 10. (The paper's 313 must hold others that no such colour is nearest to.)
    """
    steps = torch.linspace(0, 1, 52)
    cube = torch.cartesian_prod(steps, steps, steps).T[:, None]
    ab = srgb_to_lab(cube)[1:, 0].T
    return torch.unique((ab / side).round(), dim=0) * side


def _linear(x: Tensor) -> Tensor:
    """Linear light of sRGB values."""
    return torch.where(x > 0.04045, ((x.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4, x / 12.92)


def _matrix(x: Tensor) -> Tensor:
    return x.new_tensor(_XYZ)
