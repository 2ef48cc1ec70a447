"""Rotary positions: a rotation, relative positions only, and V-JEPA 2's variant against its formula."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from worldmodel.masks import Grid
from worldmodel.nn.positions import Positions, axes_of, resample_table, sincos_3d
from worldmodel.nn.rope import _turn_real, apply_turn, rope_dims, rope_turn

GRID = Grid(3, 4, 5)
HEAD = 32  # 10 channels per axis, 2 are not turned


def turned(x: Tensor, ids: Tensor, compat: bool = False) -> Tensor:
    """``x (L, head_dim)`` turned as the tokens at ``ids (L,)``."""
    turn = rope_turn(axes_of(ids[None], GRID), x.shape[-1], compat)
    return apply_turn(x[None, :, None, None], turn)[0, :, 0, 0]


def test_ids_are_steps_rows_and_columns() -> None:
    t, h, w = axes_of(torch.arange(60), GRID)
    assert torch.equal((t * 4 + h) * 5 + w, torch.arange(60))
    assert (int(t.max()), int(h.max()), int(w.max())) == (2, 3, 4)


@pytest.mark.parametrize(("head_dim", "each"), [(64, 20), (80, 26), (88, 28), (24, 8), (32, 10), (12, 4)])
def test_the_axes_share_a_head(head_dim: int, each: int) -> None:
    assert rope_dims(head_dim) == each


places = st.tuples(st.integers(-50, 50), st.integers(-50, 50), st.integers(-50, 50))


@settings(max_examples=25, deadline=None)
@given(a=places, b=places, move=places)
def test_scores_depend_on_relative_places_only(
    a: tuple[int, ...], b: tuple[int, ...], move: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 1, HEAD, generator=generator, dtype=torch.float64).float()

    def score(first: tuple[int, ...], second: tuple[int, ...], compat: bool = False) -> float:
        sides = [
            apply_turn(x, rope_turn(tuple(torch.tensor([[p]]) for p in place), HEAD, compat))  # type: ignore[arg-type]
            for x, place in ((q, first), (k, second))
        ]
        return float((sides[0] * sides[1]).sum())

    def moved(place: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(p + m for p, m in zip(place, move, strict=True))

    assert score(a, b) == pytest.approx(score(moved(a), moved(b)), abs=1e-3)


def test_only_the_correct_one_is_a_rotation() -> None:
    torch.manual_seed(0)
    x, ids = torch.randn(60, HEAD), torch.arange(60)
    torch.testing.assert_close(turned(x, ids).norm(dim=1), x.norm(dim=1))
    assert (turned(x, ids, compat=True).norm(dim=1) - x.norm(dim=1)).abs().max() > 0.05


def test_the_order_of_frequencies() -> None:
    """Channel pairs of the time axis at step 1: angles 1, 10000 ** -0.2, ... for both channels of a pair."""
    x = torch.zeros(1, HEAD)
    x[0, 0::2] = 1.0
    y = turned(x, torch.tensor([20]))  # step 1, row 0, column 0
    angles = 10_000.0 ** (-torch.arange(5) / 5)
    torch.testing.assert_close(y[0, 0:10:2], angles.cos())
    torch.testing.assert_close(y[0, 1:10:2], angles.sin())
    assert torch.equal(y[0, 10:], x[0, 10:])


def test_compat_is_v_jepa_2s_formula() -> None:
    """Sines and cosines of the frequencies f0 .. f4 f0 .. f4, where a pair is two neighbouring channels."""
    torch.manual_seed(0)
    x, ids = torch.randn(60, HEAD), torch.arange(60)
    wanted = x.clone()
    for number, axis in enumerate(axes_of(ids, GRID)):
        part = slice(10 * number, 10 * number + 10)
        angles = axis.float()[:, None] * (10_000.0 ** (-torch.arange(5) / 5)).repeat(2)
        neighbour = torch.stack([-x[:, part][:, 1::2], x[:, part][:, 0::2]], dim=2).flatten(1)
        wanted[:, part] = x[:, part] * angles.cos() + neighbour * angles.sin()
    torch.testing.assert_close(turned(x, ids, compat=True), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("compat", [False, True])
def test_complex_and_real_arithmetic_agree(compat: bool) -> None:
    torch.manual_seed(0)
    turn = rope_turn(axes_of(torch.arange(60)[None], GRID), HEAD, compat)
    inputs = [torch.randn(2, 60, 2, 3, HEAD).requires_grad_() for _ in range(2)]
    inputs[1].data.copy_(inputs[0].data)
    results = [function(x, turn) for function, x in zip((apply_turn, _turn_real), inputs, strict=True)]
    torch.testing.assert_close(*results)
    weights = torch.randn_like(results[0])
    for result in results:
        (result * weights).sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)


def test_angles_are_float32_in_a_bfloat16_network() -> None:
    x, ids = torch.randn(60, HEAD), torch.arange(60)
    half = turned(x.bfloat16(), ids)
    assert half.dtype == torch.float32
    assert torch.equal(half, turned(x.bfloat16().float(), ids))
    with torch.autocast("cpu", torch.bfloat16):
        assert turned(x, ids).dtype == torch.float32
        assert rope_turn(axes_of(ids[None], GRID), HEAD).straight.dtype == torch.float32


def test_a_sincos_table_for_another_grid() -> None:
    grid = Grid(4, 6, 6)
    table = sincos_3d(*grid, 24)
    # Fewer steps: the first ones.
    assert torch.equal(resample_table(table, grid, Grid(2, 6, 6)), table[:2])
    # Twice as many rows: a new row lies a quarter of the way between two old ones.
    old, fine = table.reshape(4, 6, 6, 24), resample_table(table, grid, Grid(4, 12, 6)).reshape(4, 12, 6, 24)
    torch.testing.assert_close(fine[:, 2:-1:2], 0.25 * old[:, :-1] + 0.75 * old[:, 1:])
    assert resample_table(table, grid, Grid(8, 3, 9)).shape == (8, 27, 24)


def test_one_table_serves_all_heads_and_blocks() -> None:
    positions = Positions("rope", GRID, 4 * HEAD, 4)
    turn = positions.turn(GRID, None, torch.device("cpu"))
    assert turn is not None and turn.mirrored is None
    assert turn.straight.shape == (1, 60, 1, 1, HEAD // 2, 2)
    assert Positions("sincos", GRID, 4 * HEAD, 4).turn(GRID, None, torch.device("cpu")) is None
