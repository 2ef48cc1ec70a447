"""Terms that keep learned latents from collapsing, and terms that shape them for planning.

Plain functions of latents to a scalar, computed in float32 also under autocast. Means and variances over the batch are
over the samples of all processes, gradients included (``worldmodel.nn.global_batch``): SIGReg, variance and covariance
have the same value in every process, that of the whole batch in one. What each sample has for itself (time similarity,
straightening) is averaged over the process's own samples, as every loss is.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from worldmodel.nn.global_batch import global_mean, process_count
from worldmodel.objectives.distances import covariance

#: Squared speed below which straightening does not trust a direction, as a share of the batch's mean squared speed.
_SLOW = 1e-4


def sigreg(latents: Tensor, generator: torch.Generator, directions: int = 64, knots: int = 17) -> Tensor:
    """Sketched isotropic Gaussian regularisation (LeJEPA, 2511.08544): distance of a batch from a standard normal.

    The latents are projected on random unit directions; for each, the Epps-Pulley statistic compares the empirical
    characteristic function with a standard normal's, on ``knots`` points in [0, 3] under a Gaussian window.

    A batch at a single point is a stationary point of this term when the point is the origin (all derivatives
    vanish by symmetry), so it cannot lead out of a full collapse: an output BatchNorm makes that point unreachable.

    Args:
        latents: ``(B, D)``, or ``(G, B, D)`` for the mean of the statistics of ``G`` groups, such as the steps of a
            window (LeWM, 2603.19312). Computed in float32 also under autocast.
        generator: Draws the directions; key it by the step.
        directions: How many random directions.
        knots: How many points of the characteristic function.

    Returns:
        A scalar: ``B`` (over all processes) times the integrated squared difference, averaged over directions and
        groups. So the statistic of ``G`` groups is about ``1 / G`` of that of all their samples together.
    """
    with torch.autocast(latents.device.type, enabled=False):
        latents = latents.float()
        axes = torch.randn(latents.shape[-1], directions, generator=generator).to(latents.device)
        projected = latents @ (axes / axes.norm(dim=0))
        t = torch.linspace(0, 3, knots, device=latents.device)
        gauss = torch.exp(-0.5 * t.square())
        # Trapezoid rule on [0, 3], doubled because the integrand is even.
        weights = torch.full((knots,), 2 * 3 / (knots - 1), device=latents.device)
        weights[[0, -1]] /= 2
        angles = projected[..., None] * t
        real, imaginary = (global_mean(part.mean(dim=-3)) for part in (angles.cos(), angles.sin()))
        difference = (real - gauss).square() + imaginary.square()
        samples = latents.shape[-2] * process_count()
        return samples * (difference * gauss * weights).sum(dim=-1).mean()


def variance_loss(latents: Tensor, margin: float = 1.0, eps: float = 1e-4) -> Tensor:
    """VICReg's variance term (Bardes et al., 2105.04906): ``mean(relu(margin - std))`` over features.

    Args:
        latents: ``(B, D)``, or ``(G, B, D)`` for the mean over groups, each with its own statistics.
        margin: The std that every feature shall have at least.
        eps: Added to the variance, whose root has no slope at 0.

    Raises:
        ValueError: There is only one sample, over all processes.
    """
    with torch.autocast(latents.device.type, enabled=False):
        centred, count = _centred(latents)
        variance = global_mean(centred.square().mean(dim=-2)) * (count / (count - 1))
        return F.relu(margin - (variance + eps).sqrt()).mean()


def covariance_loss(latents: Tensor) -> Tensor:
    """VICReg's covariance term: the mean square of the covariances of different features.

    The mean over the ``D (D - 1)`` pairs, as PLDM takes it (2502.14819). Bardes et al. divide by ``D`` only: their
    coefficient is to be multiplied by ``D - 1`` here.

    Args:
        latents: ``(B, D)``, or ``(G, B, D)`` for the mean over groups. Takes memory for ``G x D x D`` numbers.

    Raises:
        ValueError: There is only one sample over all processes, or only one feature.
    """
    with torch.autocast(latents.device.type, enabled=False):
        centred, count = _centred(latents)
        features = latents.shape[-1]
        if features < 2:
            raise ValueError("objective.covariance needs latents of at least 2 features; set it to 0")
        own = centred.transpose(-1, -2) @ centred / centred.shape[-2]
        matrix = global_mean(own) * (count / (count - 1))
        rest = matrix - torch.diag_embed(matrix.diagonal(dim1=-2, dim2=-1))
        return rest.square().sum(dim=(-1, -2)).mean() / (features * (features - 1))


def gaussian_infomax(code: Tensor, noise: float = 1e-3) -> Tensor:
    """``(tr C - log det C) / 2 D - 1/2`` of the covariance ``C`` of ``code (B, D)``, with some noise added to it.

    The divergence of a Gaussian with this covariance from one with the identity, per feature: the entropy is large
    (Linsker's infomax) and the variance limited, which makes features of unit variance that do not correlate.
    """
    matrix = covariance(code) + noise * torch.eye(code.shape[1], device=code.device)
    return (matrix.trace() - torch.logdet(matrix)) / (2 * code.shape[1]) - 0.5


def time_similarity_loss(latents: Tensor) -> Tensor:
    """Mean square of the change from one step to the next (PLDM): latents ``(B, T, D)`` shall change slowly."""
    latents = latents.float()
    return (latents[:, 1:] - latents[:, :-1]).square().mean()


def time_variance_loss(latents: Tensor, margin: float = 1.0, eps: float = 1e-4) -> Tensor:
    """Hinge on each sample's std over time (PLDM): ``(B, T, D)`` shall vary within a window, at least by ``margin``.

    Raises:
        ValueError: There is only one step.
    """
    if latents.shape[1] < 2:
        raise ValueError("objective.time_variance needs windows of at least 2 frames; lengthen window")
    return F.relu(margin - (latents.float().var(dim=1) + eps).sqrt()).mean()


def straightening_loss(latents: Tensor) -> Tensor:
    """Temporal straightening (2603.12231): ``1 - cosine`` of successive changes of ``latents (B, T, D)``, averaged.

    Where nothing moves there is no direction, and the gradient of a cosine is without bound. So a small square, 1e-4 of
    the mean squared change over all processes, is added to both squared lengths: the term does not depend on the
    latents' scale, is 1 for steps without movement, and differs from the cosine by 1e-4 at common speeds.

    Raises:
        ValueError: There are less than three steps.
    """
    if latents.shape[1] < 3:
        raise ValueError("objective.straightening needs windows of at least 3 frames; lengthen window")
    change = latents.float().diff(dim=1)
    squares = change.square().sum(dim=-1)
    slow = _SLOW * global_mean(squares.detach().mean()) + 1e-12
    before, after = change[:, :-1], change[:, 1:]
    lengths = ((squares[:, :-1] + slow) * (squares[:, 1:] + slow)).sqrt()
    return 1 - ((before * after).sum(dim=-1) / lengths).mean()


def _centred(latents: Tensor) -> tuple[Tensor, int]:
    """Latents less their mean over the samples of all processes, and how many samples that are."""
    latents = latents.float()
    count = latents.shape[-2] * process_count()
    if count < 2:
        raise ValueError(
            "objective.variance and objective.covariance need at least 2 samples; raise loop.batch_size"
        )
    return latents - global_mean(latents.mean(dim=-2, keepdim=True)), count
