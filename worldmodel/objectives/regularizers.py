"""Terms that keep learned latents from collapsing."""

from __future__ import annotations

import torch
from torch import Tensor


def sigreg(latents: Tensor, generator: torch.Generator, directions: int = 64, knots: int = 17) -> Tensor:
    """Sketched isotropic Gaussian regularisation (LeJEPA, 2511.08544): distance of a batch from a standard normal.

    The latents are projected on random unit directions; for each, the Epps-Pulley statistic compares the empirical
    characteristic function with a standard normal's, on ``knots`` points in [0, 3] under a Gaussian window.

    A batch at a single point is a stationary point of this term when the point is the origin (all derivatives
    vanish by symmetry), so it cannot lead out of a full collapse: an output BatchNorm makes that point unreachable.

    Args:
        latents: ``(B, D)``; computed in float32 also under autocast.
        generator: Draws the directions; key it by the step.
        directions: How many random directions.
        knots: How many points of the characteristic function.

    Returns:
        A scalar: ``B`` times the integrated squared difference, averaged over directions.
    """
    with torch.autocast(latents.device.type, enabled=False):
        latents = latents.float()
        axes = torch.randn(latents.shape[1], directions, generator=generator).to(latents.device)
        projected = latents @ (axes / axes.norm(dim=0))
        t = torch.linspace(0, 3, knots, device=latents.device)
        gauss = torch.exp(-0.5 * t.square())
        # Trapezoid rule on [0, 3], doubled because the integrand is even.
        weights = torch.full((knots,), 2 * 3 / (knots - 1), device=latents.device)
        weights[[0, -1]] /= 2
        angles = projected[..., None] * t
        real, imaginary = angles.cos().mean(dim=0), angles.sin().mean(dim=0)
        difference = (real - gauss).square() + imaginary.square()
        return latents.shape[0] * (difference * gauss * weights).sum(dim=-1).mean()
