"""Noise whose steps belong together: plans drawn with it get somewhere, where white noise cancels itself."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor


@functools.lru_cache(maxsize=16)
def colour(steps: int, exponent: float) -> Tensor:
    """A matrix `(T, T)` that turns white noise of T steps into noise whose power at frequency f is 1 / f**exponent.

    0 is white, 1 pink, 2 nearly a random walk; the larger, the smoother. The matrix is the root of the noise's
    covariance: every step has variance 1, and the first and the last step are no neighbours, as they are where the
    spectrum of T steps is filtered. Frequencies below one period in 2 T steps have as much power as that one.

    Source: the spectrum of Timmer & Koenig, "On generating power law noise" (1995).
    """
    frequencies = np.arange(2 * steps)
    frequencies = np.minimum(frequencies, 2 * steps - frequencies)  # of a circle of twice the length
    power = np.maximum(frequencies, 1) ** -float(exponent)
    covariance = np.fft.ifft(power).real[:steps]
    lags = np.abs(np.arange(steps)[:, None] - np.arange(steps))
    values, vectors = np.linalg.eigh((covariance / covariance[0])[lags])
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    return torch.from_numpy(root).float()


@functools.lru_cache(maxsize=16)
def persistence(steps: int) -> Tensor:
    """A matrix `(T, T)` that turns white noise of T steps into a first-order autoregressive process.

    Every step has variance 1, and the memory, in which correlation falls by e, is half the plan.
    """
    rho = math.exp(-2 / steps)
    lags = np.arange(steps)[:, None] - np.arange(steps)
    root = np.where(lags >= 0, rho ** lags.clip(min=0), 0) * np.where(
        np.arange(steps), np.sqrt(1 - rho**2), 1
    )
    return torch.from_numpy(root).float()


def apply_filter(matrix: Tensor, noise: Tensor) -> Tensor:
    """`matrix (L * K, L * K)` applied along the actions of each plan in `noise (E, S, L, K, A)`."""
    transposed = matrix.T.contiguous()
    # Environments by themselves: products of other batch sizes may round differently.
    parts = [(one.flatten(1, 2).mT @ transposed).mT.reshape(one.shape) for one in noise.unbind()]
    return torch.stack(parts)
