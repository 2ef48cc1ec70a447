"""How far the embeddings of two views are apart: losses that compare a sample with the rest of the batch.

Plain functions of float32 embeddings ``(B, D)``. The batch is that of all processes, gradients included: negatives and
correlations are those of one process with the whole batch (``worldmodel.nn.global_batch``). Distances of a sample by
itself (L1, L2, cosine) are in ``worldmodel.objectives.predictions``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from worldmodel.nn.global_batch import first_row, global_mean, global_rows


def info_nce(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """InfoNCE (van den Oord et al. 2018, 1807.03748) by cosines, as MoCo v3 has it (2104.02057).

    Each query shall find its own key among those of the whole batch:
    ``-log exp(cos(q_i, k_i) / t) / sum_j exp(cos(q_i, k_j) / t)``, averaged. ``log N`` less this is a lower bound of
    the mutual information of two views among ``N`` samples.
    """
    return matching_loss(_cosines(queries, keys) / temperature)


def matching_loss(scores: Tensor) -> Tensor:
    """Cross-entropy of ``scores (B, P B)`` of own rows against all processes' columns, each row's own being right."""
    own = torch.arange(len(scores), device=scores.device) + first_row(len(scores))
    return F.cross_entropy(scores, own)


def nt_xent(anchors: Tensor, others: Tensor, temperature: float) -> Tensor:
    """SimCLR's normalised, temperature-scaled cross-entropy (2002.05709), for the anchors of one view.

    The positive of an anchor is the same sample's other view, its negatives are the other samples in both views:
    2 N - 1 candidates. The mean over both views as anchors is the paper's loss.
    """
    same = _cosines(anchors, anchors) / temperature
    itself = torch.eye(len(same), dtype=torch.bool, device=same.device)
    start = first_row(len(same))
    same = same.clone()
    same[:, start : start + len(same)].masked_fill_(itself, -torch.inf)
    scores = torch.cat([_cosines(anchors, others) / temperature, same], dim=1)
    return matching_loss(scores)


def cross_correlation_loss(first: Tensor, second: Tensor, redundancy: float) -> Tensor:
    """Barlow Twins (2103.03230): ``sum_i (1 - C_ii)^2 + redundancy * sum_{i != j} C_ij^2``.

    ``C`` is the matrix of correlations between the features of two views over the batch. (PMAX, section 2.3.)
    """
    matrix = _correlations(first, second)
    on = (1 - matrix.diagonal()).square().sum()
    off = matrix.square().sum() - matrix.diagonal().square().sum()
    return on + redundancy * off


def margin_loss(first: Tensor, second: Tensor, margin: float) -> Tensor:
    """The contrastive loss of siamese networks (Hadsell, Chopra & LeCun 2006; Bromley et al. 1993).

    Half the squared Euclidean distance of a sample's two views, and ``max(0, margin - distance)^2 / 2`` for a sample
    and another one's view: the mean over samples, and the mean over pairs of different samples.

    Raises:
        ValueError: There is only one sample.
    """
    every, start = global_rows(second), first_row(len(first))
    if len(every) < 2:
        raise ValueError("objective.distance=margin needs at least 2 samples; raise loop.batch_size")
    other = torch.ones(len(first), len(every), device=first.device)
    other[:, start : start + len(first)].fill_diagonal_(0)
    # The root has no slope at 0.
    apart = ((first[:, None] - every).square().sum(dim=-1) + 1e-12).sqrt()
    too_near = (other * torch.relu(margin - apart).square()).sum() / other.sum()
    return ((first - second).square().sum(dim=-1).mean() + too_near) / 2


def gaussian_information(first: Tensor, second: Tensor, noise: float) -> Tensor:
    """IMAX (Becker & Hinton 1992): minus the information that two views' embeddings share, taken as Gaussian.

    Both are one signal with noise of their own; their mean tells ``1/2 log(det cov(a + b) / det cov(a - b))`` nats of
    the signal, for one feature ``1/2 log(var(a + b) / var(a - b))``. (Each tells less of the other.)

    Args:
        first: ``(B, D)``; ``B`` over all processes should be several times ``D``.
        second: ``(B, D)``.
        noise: Added to all variances, which bounds the information.
    """
    signal, difference = (covariance(x) for x in (first + second, first - second))
    floor = noise * torch.eye(len(signal), device=signal.device, dtype=signal.dtype)
    return (torch.logdet(difference + floor) - torch.logdet(signal + floor)) / 2


def alignment(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared distance of two views' embeddings on the unit sphere (Wang & Isola 2020, 2005.10242)."""
    first, second = F.normalize(first.float(), dim=-1), F.normalize(second.float(), dim=-1)
    return (first - second).square().sum(dim=-1).mean()


def uniformity(embeddings: Tensor, everywhere: bool = True) -> Tensor:
    """``log mean exp(-2 |x - y|^2)`` over pairs of different samples on the unit sphere (2005.10242).

    0 when all are one point, down to about -4 when they are spread evenly over a sphere of many dimensions.

    Args:
        embeddings: ``(B, D)``.
        everywhere: Pairs with the samples of all processes (a collective call).

    Raises:
        ValueError: There is only one sample.
    """
    own = F.normalize(embeddings.float(), dim=-1)
    every = global_rows(own) if everywhere else own
    if len(every) < 2:
        raise ValueError("objective.uniformity needs at least 2 samples; raise loop.batch_size")
    kernel = torch.exp(-2 * (2 - 2 * own @ every.T).clamp_min(0))
    start = first_row(len(own)) if everywhere else 0
    itself = kernel[:, start : start + len(own)].diagonal().sum()
    mean = (kernel.sum() - itself) / (len(own) * (len(every) - 1))
    return (global_mean(mean) if everywhere else mean).log()


def _cosines(own: Tensor, others: Tensor) -> Tensor:
    """``(B, P B)``: cosines of this process's rows with all processes'."""
    return F.normalize(own, dim=-1) @ global_rows(F.normalize(others, dim=-1)).T


def _correlations(first: Tensor, second: Tensor) -> Tensor:
    """``(D, D)`` correlations of features over the whole batch; a feature that never varies correlates with none."""
    return global_mean(_standardised(first).T @ _standardised(second) / len(first))


def covariance(x: Tensor) -> Tensor:
    """``(D, D)`` over the whole batch."""
    centred = x - global_mean(x.mean(dim=0))
    return global_mean(centred.T @ centred / len(x))


def _standardised(x: Tensor) -> Tensor:
    centred = x - global_mean(x.mean(dim=0))
    return centred * (global_mean(centred.square().mean(dim=0)) + 1e-6).rsqrt()
