"""Pictures of a search are drawn for one and for more dimensions, and where something is missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from worldmodel.report.search_pictures import PICTURES
from worldmodel.report.search_record import SearchRecord
from worldmodel.report.theme import DARK


def record(dims: int, **changes: Any) -> SearchRecord:
    """Two of three decisions are shown; the second ended after one of two iterations."""
    rng = np.random.default_rng(0)
    frames = rng.integers(256, size=(2, 3, 3, 8, 8), dtype=np.uint8)
    best = np.array([[3.0, 2.0], [2.0, np.nan], [1.0, 0.5]])
    rounds = np.array([[1.0, 2.0], [1.0, np.nan]])
    first, first_cost = rng.normal(size=(2, 2, 5, dims)), rng.random((2, 2, 5))
    first[1, 1], first_cost[1, 1], first_cost[0, 0, 0] = np.nan, np.nan, np.inf
    free = min(dims, 2)
    arrays: dict[str, Any] = {
        "step": np.array([0, 2, 4]),
        "best": best,
        "mean": best + 1,
        "cost": np.array([2.0, 2.0, 0.5]),
        "shown": np.array([0, 1]),
        "rounds": rounds,
        "first": first,
        "first_cost": first_cost,
        "spread": rng.random((2, 2, 4)),
        "chosen": np.zeros((2, dims)),
        "low": np.full(dims, -np.inf),
        "high": np.ones(dims),
        "dims": np.arange(free),
        "axes": np.broadcast_to(np.linspace(-3, 1, 4), (2, free, 4)),
        "landscape": rng.random((2, 4 if free == 2 else 1, 4)),
        "columns": np.array([0, 2, 4]),
        "imagined": frames,
        "planned": frames,
        "came": frames,
        "came_there": np.array([[True] * 3, [True, False, False]]),
        "goal": frames[0, 0],
        "viewer": np.array("decoded"),
    }
    return SearchRecord(**{**arrays, **changes})


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dims", [1, 3])
def test_each_picture_is_drawn_without_a_warning(dims: int) -> None:
    found = record(dims)
    for _, draw, meaning in PICTURES:
        assert draw(found, DARK).startswith(b"\x89PNG") and meaning.endswith(".")


@pytest.mark.filterwarnings("error")
def test_what_has_no_finite_cost_and_no_imagination_is_left_out() -> None:
    found = record(2)
    nothing = np.full_like(found.landscape, np.nan)
    costs = np.full_like(found.first_cost, np.inf)
    empty = record(2, landscape=nothing, first_cost=costs, imagined=found.imagined[:0])
    pictures = {name: draw(empty, DARK) for name, draw, _ in PICTURES}
    full = {name: draw(found, DARK) for name, draw, _ in PICTURES}
    assert all(picture.startswith(b"\x89PNG") for picture in pictures.values())
    assert pictures["costs"] == full["costs"] and pictures["futures"] != full["futures"]
