"""Which file each sample of a corpus takes: permutations, and exact shares of weighted sources."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import ceil

import numpy as np

from worldmodel.seeding import KeyedOrder, keyed_rng


class MixedOrder:
    """Which source, and which of its items, the sample with a global index takes.

    Without weights, an epoch is one permutation of all items. With them, samples come in blocks; in every block each
    source has its share to within one sample, never drifting, in an order that is drawn anew; and each source goes
    through permutations of its own items.
    """

    def __init__(self, counts: Sequence[int], weights: Sequence[float] | None, seed: int) -> None:
        self.seed = seed
        self.starts = np.cumsum([0, *counts])
        self.weighted = weights is not None and len(counts) > 1
        if weights is None or len(counts) == 1:
            self.orders = [KeyedOrder(int(self.starts[-1]), seed)]
            return
        self.orders = [KeyedOrder(count, seed + (number << 32)) for number, count in enumerate(counts)]
        shares = [Fraction(weight) for weight in weights]
        self.upto = [sum(shares[: k + 1], Fraction(0)) / sum(shares) for k in range(len(shares))]
        # At least two samples of each source in a block: so rounding never asks for a negative number of them.
        self.block = max(100, ceil(2 * sum(shares) / min(shares)))
        self._last: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))

    def __getitem__(self, index: int) -> tuple[int, int]:
        """``(source, item of that source)``."""
        if not self.weighted:
            position = self.orders[0][index]
            source = int(np.searchsorted(self.starts, position, side="right")) - 1
            return source, position - int(self.starts[source])
        block, place = divmod(index, self.block)
        if self._last[0] != block:
            self._last = (block, keyed_rng("source", self.seed, block).permutation(self.block))
        slot = int(self._last[1][place])
        before, after = self._taken(block), self._taken(block + 1)
        source = 0
        while slot >= after[source] - before[source]:
            slot -= after[source] - before[source]
            source += 1
        return source, self.orders[source][before[source] + slot]

    def _taken(self, blocks: int) -> list[int]:
        """How many samples of each source the first blocks hold, in integers: exact after any number."""
        ends = [0] + [(2 * blocks * self.block * upto + 1) // 2 for upto in self.upto]
        return [int(b - a) for a, b in zip(ends, ends[1:], strict=False)]
