"""Keyed randomness."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worldmodel.seeding import KeyedOrder, keyed_rng, keyed_torch_generator


def test_draws_depend_on_the_whole_key_and_nothing_else() -> None:
    draws = {
        key: keyed_rng(*key).integers(2**63) for key in [("a", 0, 1), ("a", 1, 0), ("b", 0, 1), ("a", 0, 2)]
    }
    assert len(set(draws.values())) == 4
    assert keyed_rng("a", 0, 1).integers(2**63) == draws["a", 0, 1]
    first = torch.rand(3, generator=keyed_torch_generator("a", 5))
    assert torch.equal(first, torch.rand(3, generator=keyed_torch_generator("a", 5)))


def test_each_epoch_visits_every_item_once_in_another_order() -> None:
    order = KeyedOrder(50, seed=1)
    epochs = [[order[i] for i in range(50 * e, 50 * (e + 1))] for e in range(3)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    # Any position can be asked for, in any order.
    assert [KeyedOrder(50, seed=1)[i] for i in (120, 3)] == [epochs[2][20], epochs[0][3]]
    assert KeyedOrder(50, seed=2)[3] != epochs[0][3] or KeyedOrder(50, seed=2)[4] != epochs[0][4]


def test_an_order_over_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="0 items"):
        KeyedOrder(0, 0)


def test_numpy_streams_are_not_the_global_generator() -> None:
    np.random.seed(0)
    before = np.random.random()
    np.random.seed(0)
    keyed_rng("a", 1).random(10)
    assert np.random.random() == before
