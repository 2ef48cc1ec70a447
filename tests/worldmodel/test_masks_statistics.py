"""What masks do on average: V-JEPA's statistics, its repositories' bias where it is asked for, and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from worldmodel.masks import Grid, MaskConfig, coverage, draw_masks, token_counts
from worldmodel.masks.boxes import _all_covered, box_corners, cover_probability, covered, ranges, union_share

SHORT = MaskConfig(kind="blocks")
LONG = MaskConfig(kind="blocks", blocks=2, scale_min=0.7, scale_max=0.7)
IJEPA = MaskConfig(kind="ijepa", blocks=4, scale_max=0.2)
IN_TIME = MaskConfig(kind="blocks", scale_max=0.3, temporal_min=0.25, temporal_max=0.75)
RASTER = {"short": replace(SHORT, collate="raster"), "long": replace(LONG, collate="raster")}

# Measured with the V-JEPA 2 repository's own sampler (commit c2963a4), 60 batches each: grid, batch, mask, and the
# share of tokens in context and target after its truncation. The size of the blocks varies from batch to batch, so that
# 60 batches say the context's share to about 0.006 (short) and 0.004 (long).
UPSTREAM = [
    (Grid(8, 14, 14), 24, "short", 0.236, 0.481),
    (Grid(8, 14, 14), 24, "long", 0.071, 0.701),
    (Grid(8, 16, 16), 24, "short", 0.243, 0.471),
    (Grid(8, 16, 16), 24, "long", 0.060, 0.701),
    (Grid(32, 16, 16), 6, "short", 0.296, 0.533),
    (Grid(32, 16, 16), 6, "long", 0.098, 0.735),
    (Grid(32, 24, 24), 6, "short", 0.296, 0.521),
    (Grid(32, 24, 24), 6, "long", 0.114, 0.735),
]


@pytest.mark.parametrize(("grid", "batch", "name", "context", "target"), UPSTREAM)
def test_raster_collation_drops_as_much_as_upstreams(
    grid: Grid, batch: int, name: str, context: float, target: float
) -> None:
    measured = coverage(RASTER[name], grid, 0, 60 * batch, batch)
    assert measured.context.mean() == pytest.approx(context, abs=0.025)
    assert measured.target.mean() == pytest.approx(target, abs=0.025)
    assert measured.unused > 0.14


@pytest.mark.parametrize(
    ("name", "context", "target"),
    [
        # Upstream's mean tokens per step at 256 pixels, 16 frames, batches of 24.
        ("long", [48.0, 40.1, 23.1, 12.7, 6.2, 3.3, 2.2, 1.8], None),
        (
            "short",
            [98.8, 98.8, 98.7, 91.0, 63.4, 31.0, 12.0, 4.3],
            [157.2, 157.2, 157.2, 157.2, 154.8, 122.2, 56.7, 12.8],
        ),
    ],
)
def test_raster_collation_favours_early_frames_as_upstreams_does(
    name: str, context: list[float], target: list[float] | None
) -> None:
    measured = coverage(RASTER[name], Grid(8, 16, 16), 0, 120 * 24, 24)
    np.testing.assert_allclose(measured.context.sum(axis=(1, 2)), context, atol=6)
    if target is not None:
        np.testing.assert_allclose(measured.target.sum(axis=(1, 2)), target, atol=10)


@pytest.mark.parametrize(
    ("config", "grid", "seen"),
    [
        # Upstream's sampler without truncation, 6000 samples: right to 0.001.
        (SHORT, Grid(8, 14, 14), 0.3725),
        (LONG, Grid(8, 14, 14), 0.1888),
        (SHORT, Grid(8, 16, 16), 0.3814),
        (LONG, Grid(8, 16, 16), 0.1891),
    ],
)
def test_default_counts_are_what_upstreams_blocks_leave_on_average(
    config: MaskConfig, grid: Grid, seen: float
) -> None:
    context, target = token_counts(config, grid)
    total = grid.steps * grid.rows * grid.columns
    assert context / total == pytest.approx(seen, abs=0.004)
    assert context + target == total and context % grid.steps == 0


@pytest.mark.parametrize("config", [SHORT, LONG, IJEPA, MaskConfig()])
def test_no_step_is_favoured_by_tubes(config: MaskConfig) -> None:
    measured = coverage(config, Grid(8, 14, 14), 0, 48)
    assert np.ptp(measured.context.sum(axis=(1, 2))) == pytest.approx(0, abs=1e-9)
    assert np.ptp(measured.target.sum(axis=(1, 2))) == pytest.approx(0, abs=1e-9)


def test_no_step_is_favoured_by_blocks_that_last_for_a_part_of_the_clip() -> None:
    per_step = coverage(IN_TIME, Grid(8, 10, 10), 0, 3000).context.mean(axis=(1, 2))
    assert np.ptp(per_step) < 0.02


@pytest.mark.parametrize("config", [SHORT, LONG])
def test_places_are_seen_as_often_as_by_upstreams_blocks_and_none_is_favoured_by_the_exact_count(
    config: MaskConfig,
) -> None:
    grid = Grid(1, 14, 14)
    ours = coverage(config, grid, 0, 4000).context[0]
    # Batches of one are not truncated: this is upstream's distribution of positions.
    upstream = coverage(replace(config, collate="raster"), grid, 0, 4000, batch_size=1).context[0]
    assert np.abs(ours - upstream).max() < 0.09
    assert np.abs(ours - upstream).mean() < 0.024
    # Blocks within the frame hide the middle more often, in the same way on each side.
    for mirrored in (ours[::-1], ours[:, ::-1]):
        assert np.abs(ours - mirrored).max() < 0.05


def test_the_average_is_exact_over_positions() -> None:
    grid = Grid(2, 4, 3)
    config = MaskConfig(
        kind="blocks", blocks=3, scale_min=0.4, scale_max=0.4, aspect_min=1, aspect_max=1, temporal_min=0.5
    )
    config.temporal_max = 0.5
    rng = np.random.default_rng(0)
    size = np.tile([[1, 2, 2]], (20000, 1))
    hidden = np.zeros((20000, *grid), dtype=bool)
    for _ in range(3):
        hidden |= covered(size, box_corners(size, grid, rng.random((20000, 3))), grid)
    expected = cover_probability(ranges(config), grid, 3)
    np.testing.assert_allclose(hidden.mean(axis=(0, 1)), expected, atol=0.01)
    assert union_share(ranges(config), grid, 3) == pytest.approx(expected.mean())


@pytest.mark.parametrize(
    ("size", "length", "count"), [(3, 5, 2), (3, 7, 3), (2, 5, 4), (10, 14, 2), (1, 3, 2)]
)
def test_how_likely_intervals_cover_everything(size: int, length: int, count: int) -> None:
    whole = [
        len({i for left in lefts for i in range(left, left + size)}) == length
        for lefts in product(range(length - size + 1), repeat=count)
    ]
    assert _all_covered(size, length, count) == pytest.approx(np.mean(whole))


def test_raster_collation_ends_where_blocks_hide_everything() -> None:
    config = MaskConfig(
        kind="blocks", blocks=400, scale_min=0.5, scale_max=0.5, aspect_min=1, aspect_max=1, collate="raster"
    )
    with pytest.raises(ValueError, match="left nothing of a grid of 1 x 3 x 3 to see in 1000 tries"):
        draw_masks({"one": config}, Grid(1, 3, 3), 0, range(2))
