"""Randomness keyed by what it is for, instead of a state that advances.

A draw depends only on its key, e.g. ``("mask", seed, global sample index)``. So a resumed run draws what the
uninterrupted one would have drawn, also with another number of processes, and any batch can be drawn again.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def keyed_rng(stream: str, *key: int) -> np.random.Generator:
    """A NumPy generator that depends on nothing but ``stream`` and the non-negative integers in ``key``."""
    return np.random.default_rng([zlib.crc32(stream.encode()), *key])


def keyed_torch_generator(stream: str, *key: int) -> torch.Generator:
    """The same for torch (a CPU generator)."""
    import torch

    generator = torch.Generator()
    generator.manual_seed(int(keyed_rng(stream, *key).integers(2**63)))
    return generator


class KeyedOrder:
    """Which of ``count`` items the sample with a global index takes: a fresh permutation every epoch.

    ``order[i]`` for ``i`` in ``[0, count)`` is one permutation, for ``[count, 2 count)`` the next, and so on.
    """

    def __init__(self, count: int, seed: int) -> None:
        if count < 1:
            raise ValueError(
                f"cannot draw an order over {count} items; the data holds no sample of this length"
            )
        self.count, self.seed = count, seed
        self._epoch, self._permutation = -1, np.empty(0, dtype=np.int64)

    def __getitem__(self, index: int) -> int:
        epoch, position = divmod(index, self.count)
        if epoch != self._epoch:
            self._permutation = keyed_rng("order", self.seed, epoch).permutation(self.count)
            self._epoch = epoch
        return int(self._permutation[position])
