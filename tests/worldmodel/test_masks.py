"""Masks: exact counts, whole tubes, no dependence on the batch, on any grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worldmodel.masks import Grid, Mask, MaskConfig, draw_masks, token_counts

SHORT = MaskConfig(kind="blocks")
LONG = MaskConfig(kind="blocks", blocks=2, scale_min=0.7, scale_max=0.7)
IJEPA = MaskConfig(kind="ijepa", blocks=4, scale_max=0.2)
IN_TIME = MaskConfig(kind="blocks", scale_max=0.3, temporal_min=0.25, temporal_max=0.75)

fractions = st.floats(0.02, 0.98)
grids = st.builds(Grid, st.integers(1, 6), st.integers(1, 9), st.integers(1, 9))


def draw(config: MaskConfig, grid: Grid, indices: range = range(5), seed: int = 0) -> Mask:
    return draw_masks({"one": config}, grid, seed, indices)[0]


@st.composite
def configs(draw: st.DrawFn) -> MaskConfig:
    """Any configuration of any kind."""
    low, high = sorted((draw(fractions), draw(fractions)))
    narrow, wide = sorted((draw(st.floats(0.2, 5)), draw(st.floats(0.2, 5))))
    kind = draw(st.sampled_from(["random", "blocks", "blocks", "ijepa", "future"]))
    span = (
        sorted((draw(fractions), draw(fractions))) if kind == "blocks" and draw(st.booleans()) else (1.0, 1.0)
    )
    return MaskConfig(
        kind=kind,
        ratio=draw(st.none() | fractions) if kind != "ijepa" else None,
        blocks=draw(st.integers(1, 9)),
        scale_min=low,
        scale_max=high,
        aspect_min=narrow,
        aspect_max=wide,
        temporal_min=span[0],
        temporal_max=span[1],
        max_temporal_keep=draw(st.sampled_from([1.0, 0.5])) if kind in ("random", "blocks") else 1.0,
    )


@settings(max_examples=250, deadline=None)
@given(configs(), grids, st.integers(0, 2**31), st.integers(0, 2**40))
def test_any_possible_mask_is_well_formed_and_an_impossible_one_is_refused(
    config: MaskConfig, grid: Grid, seed: int, first: int
) -> None:
    indices = range(first, first + 3)
    try:
        k, m = token_counts(config, grid)
    except ValueError as error:
        with pytest.raises(ValueError) as again:
            draw(config, grid, indices, seed)
        assert str(again.value) == str(error).replace("mask.*", "mask.one")
        return
    mask = draw(config, grid, indices, seed)
    places, total = grid.rows * grid.columns, grid.steps * grid.rows * grid.columns
    assert mask.context.shape == (3, k) and mask.target.shape == (3, m) and k > 0 and m > 0
    assert mask.context.dtype == mask.target.dtype == torch.int64
    groups = mask.target.reshape(3, mask.groups, -1)
    assert (mask.context.diff() > 0).all() and (groups.diff() > 0).all(), "in order, none twice"
    for context, target in zip(mask.context.tolist(), groups.tolist(), strict=True):
        hidden = {i for group in target for i in group}
        assert hidden.isdisjoint(context) and hidden | set(context) <= set(range(total))
        if config.kind != "ijepa":
            assert len(context) + len(hidden) == total, "every token is one or the other"
    assert mask.groups == (config.blocks if config.kind == "ijepa" else 1)
    if config.kind != "future" and config.temporal_min == 1 and config.max_temporal_keep == 1:
        for ids in (mask.context, *groups.unbind(1)):
            tube = (ids % places).reshape(3, grid.steps, -1)
            assert torch.equal(tube, tube[:, :1].expand_as(tube)), "a tube: the same places at each step"
    # Keyed: neither the batch nor its order matters.
    alone = draw(config, grid, range(first + 2, first + 3), seed)
    assert torch.equal(alone.context[0], mask.context[2]) and torch.equal(alone.target[0], mask.target[2])


@pytest.mark.parametrize("config", [SHORT, LONG, IN_TIME, IJEPA, MaskConfig()])
def test_seed_index_and_position_each_make_another_mask(config: MaskConfig) -> None:
    grid = Grid(4, 9, 9)
    targets = [draw(config, grid, range(7, 8)).target, draw(config, grid, range(8, 9)).target]
    targets += [draw(config, grid, range(7, 8), seed=1).target]
    first, second = draw_masks({"a": config, "b": config}, grid, 0, range(7, 8))
    targets += [second.target]
    assert torch.equal(first.target, targets[0])
    assert len({tuple(target[0].tolist()) for target in targets}) == 4


def test_many_samples_are_drawn_in_parts_that_do_not_matter() -> None:
    grid = Grid(32, 24, 24)  # 57 masks fill a part
    many = draw(LONG, grid, range(70))
    assert torch.equal(many.context[55:60], draw(LONG, grid, range(55, 60)).context)
    assert draw(LONG, grid, range(0)).context.shape == (0, token_counts(LONG, grid)[0])


def test_random_tubes_are_those_that_published_results_used() -> None:
    mask = draw(MaskConfig(ratio=0.5), Grid(1, 3, 3), range(3, 5))
    assert mask.target.tolist() == [[1, 2, 3, 6], [1, 2, 3, 4]]


def test_every_place_is_hidden_about_equally_often_by_random_tubes() -> None:
    mask = draw(MaskConfig(ratio=0.5), Grid(2, 4, 4), range(2000))
    share = np.bincount(mask.target.flatten().numpy(), minlength=32) / 2000
    assert np.abs(share - 0.5).max() < 0.05


def test_blocks_are_connected_where_random_places_are_not() -> None:
    def neighbours(config: MaskConfig) -> float:
        target = draw(config, Grid(1, 12, 12), range(50)).target
        flat = torch.zeros(50, 144).scatter_(1, target, 1.0).reshape(50, 12, 12)
        return float((flat[:, :, 1:] * flat[:, :, :-1]).mean())

    assert neighbours(MaskConfig(kind="blocks", ratio=0.4)) > 1.7 * neighbours(MaskConfig(ratio=0.4))


def test_one_block_is_a_rectangle_with_one_line_cut() -> None:
    config, grid = (
        MaskConfig(kind="blocks", blocks=1, scale_min=0.3, scale_max=0.3, ratio=0.28),
        Grid(1, 10, 10),
    )
    for ids in draw(config, grid, range(60)).target.numpy():
        rows, columns = ids // 10, ids % 10
        box = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        full = (np.bincount(rows)[rows.min() :] == np.ptp(columns) + 1).sum() * (np.ptp(columns) + 1)
        full = max(
            full, (np.bincount(columns)[columns.min() :] == np.ptp(rows) + 1).sum() * (np.ptp(rows) + 1)
        )
        assert len(ids) == 28 and box - 28 < 8 and full >= 20


def test_a_block_that_is_too_small_grows_around_itself() -> None:
    config = MaskConfig(
        kind="blocks", blocks=1, scale_min=0.04, scale_max=0.04, ratio=0.36, aspect_min=1, aspect_max=1
    )
    for ids in draw(config, Grid(1, 10, 10), range(40)).target.numpy():
        rows, columns = ids // 10, ids % 10
        assert np.ptp(rows) <= 7 and np.ptp(columns) <= 7 and len(ids) == 36


def test_a_block_lasts_for_its_share_of_the_clip() -> None:
    config = MaskConfig(
        kind="blocks", blocks=1, scale_min=0.25, scale_max=0.25, temporal_min=0.5, temporal_max=0.5,
        aspect_min=1, aspect_max=1,
    )  # fmt: skip
    grid = Grid(8, 8, 8)
    assert token_counts(config, grid) == (512 - 64, 64)
    starts = set()
    for ids in draw(config, grid, range(100)).target:
        per_step = np.bincount(ids // 64, minlength=8)
        assert set(per_step) == {0, 16} and (per_step > 0).sum() == 4
        starts.add(tuple(per_step))
    assert len(starts) == 8, "each step begins a block; one that passes the end goes on at the beginning"


def test_future_shows_the_first_steps() -> None:
    mask = draw(MaskConfig(kind="future", ratio=0.75), Grid(8, 2, 3))
    assert torch.equal(mask.context, torch.arange(12).expand(5, 12))
    assert torch.equal(mask.target, torch.arange(12, 48).expand(5, 36))


@pytest.mark.parametrize("config", [MaskConfig(), SHORT, IN_TIME])
def test_a_causal_mask_sees_only_the_first_steps(config: MaskConfig) -> None:
    grid = Grid(8, 6, 6)
    causal = MaskConfig(**{**vars(config), "max_temporal_keep": 0.5})
    mask = draw(causal, grid, range(20))
    assert mask.context.max() < 4 * 36
    assert mask.context.shape[1] + mask.target.shape[1] == 8 * 36
    if config is not IN_TIME:
        assert torch.equal(mask.context, draw(config, grid, range(20)).context[:, : mask.context.shape[1]])


def test_ijepa_keeps_its_target_blocks_apart_and_alike() -> None:
    grid = Grid(2, 14, 14)
    mask = draw(IJEPA, grid, range(100))
    assert mask.groups == 4
    blocks = mask.target.reshape(100, 4, 2, -1)[:, :, 0].numpy()
    assert blocks.shape[-1] == 34, "0.175 of 196 places"
    rows, columns = blocks // 14, blocks % 14
    filled = blocks.shape[-1] / ((np.ptp(rows, -1) + 1) * (np.ptp(columns, -1) + 1))
    assert filled.mean() > 0.8 and len(np.unique(blocks.reshape(400, -1), axis=0)) > 300
    last = ((rows == 13).any() and (columns == 13).any(), "the last row and column are used")
    assert all(last)


def test_target_blocks_that_leave_too_little_are_laid_upon_one_another() -> None:
    config = MaskConfig(
        kind="ijepa", blocks=9, scale_min=0.6, scale_max=0.6, context_min=1, aspect_min=1, aspect_max=1
    )
    grid = Grid(1, 5, 5)
    k, m = token_counts(config, grid)
    mask = draw(config, grid, range(50))
    assert mask.context.shape == (50, k) and mask.target.shape == (50, m)
    for context, target in zip(mask.context.tolist(), mask.target.tolist(), strict=True):
        assert not set(context) & set(target)


@pytest.mark.parametrize("config", [SHORT, LONG, IJEPA, IN_TIME])
@pytest.mark.parametrize("grid", [Grid(1, 2, 2), Grid(1, 1, 2), Grid(3, 2, 1), Grid(2, 2, 2)])
def test_the_smallest_grids_have_masks(config: MaskConfig, grid: Grid) -> None:
    mask = draw(config, grid, range(30))
    assert mask.context.shape[1] >= 1 and mask.target.shape[1] >= 1


@pytest.mark.parametrize(
    ("config", "grid", "message"),
    [
        (MaskConfig(ratio=0.01), Grid(2, 2, 2), r"mask\.one\.ratio=0.01 hides 0 of the 4 places of a grid of 2 steps"),
        (MaskConfig(ratio=0.99), Grid(2, 2, 2), r"mask\.one\.ratio=0.99 hides 4 of the 4 places"),
        (MaskConfig(), Grid(4, 1, 1), r"mask\.one: a grid of 4 steps of 1 x 1 has one place"),
        (SHORT, Grid(1, 1, 1), "has one place"),
        (IJEPA, Grid(1, 1, 1), "leaves nothing"),
        (MaskConfig(kind="blocks", scale_min=1, scale_max=1, aspect_max=1, aspect_min=1), Grid(4, 6, 6), "every block"),
        (MaskConfig(kind="ijepa", min_keep=10), Grid(1, 4, 4), r"min_keep=10, but a grid of 4 x 4 has"),
        (MaskConfig(kind="future"), Grid(1, 4, 4), "predicts 0 of 1 steps"),
        (MaskConfig(kind="future", ratio=0.01), Grid(8, 4, 4), "predicts 0 of 8 steps"),
        (MaskConfig(), Grid(0, 4, 4), "is empty"),
    ],
)  # fmt: skip
def test_an_impossible_mask_is_one_clear_message(config: MaskConfig, grid: Grid, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        draw(config, grid)
    assert "\n" not in str(error.value)


def test_no_mask_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="mask is empty"):
        draw_masks({}, Grid(2, 2, 2), 0, range(1))


@pytest.mark.parametrize(
    "bad",
    [
        {"ratio": 0.0},
        {"ratio": 1.0},
        {"kind": "tubes"},
        {"scale_min": 0.0},
        {"scale_min": 0.5, "scale_max": 0.2},
        {"scale_max": 1.5},
        {"aspect_min": float("nan")},
        {"blocks": 0},
        {"min_keep": 0},
        {"max_temporal_keep": 0.0},
        {"collate": "cut"},
        {"collate": "raster", "kind": "random"},
        {"collate": "raster", "kind": "blocks", "ratio": 0.5},
        {"temporal_min": 0.5},
        {"kind": "future", "max_temporal_keep": 0.5},
        {"kind": "ijepa", "ratio": 0.5},
    ],
)
def test_bad_settings_are_refused(bad: dict) -> None:
    with pytest.raises(ValueError, match=r"a mask's \w+"):
        MaskConfig(**bad)
