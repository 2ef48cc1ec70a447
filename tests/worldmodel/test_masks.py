"""Tube masks: exact counts, whole tubes, no dependence on the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worldmodel.masks import Grid, MaskConfig, draw_masks, token_counts

GRIDS = [Grid(4, 4, 4), Grid(1, 2, 1), Grid(8, 14, 14), Grid(3, 2, 7)]


@pytest.mark.parametrize("kind", ["random", "blocks"])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.9])
def test_context_and_target_partition_the_grid_in_whole_tubes(kind: str, grid: Grid, ratio: float) -> None:
    config = MaskConfig(kind=kind, ratio=ratio)
    places = grid.rows * grid.columns
    if not 0 < round(ratio * places) < places:
        pytest.skip("nothing to hide or to see on this grid")
    mask = draw_masks({"tube": config}, grid, 0, range(40))[0]
    hidden = token_counts(config, grid)[1] // grid.steps
    assert mask.context.shape == (40, grid.steps * (places - hidden))
    assert mask.target.shape == (40, grid.steps * hidden)
    both = torch.cat([mask.context, mask.target], dim=1).sort(dim=1).values
    assert torch.equal(both, torch.arange(grid.steps * places).expand(40, -1))
    # Each time step hides the same places.
    per_step = mask.target.reshape(40, grid.steps, hidden)
    assert torch.equal(per_step % places, (per_step[:, :1] % places).expand_as(per_step))


def test_a_samples_mask_does_not_depend_on_its_batch() -> None:
    config, grid = MaskConfig(kind="blocks"), Grid(4, 8, 8)
    together = draw_masks({"tube": config}, grid, 3, range(10, 20))[0]
    alone = draw_masks({"tube": config}, grid, 3, range(14, 15))[0]
    assert torch.equal(together.target[4:5], alone.target)
    assert not torch.equal(draw_masks({"tube": config}, grid, 4, range(14, 15))[0].target, alone.target)


def test_every_place_is_hidden_about_equally_often_by_random_tubes() -> None:
    mask = draw_masks({"tube": MaskConfig(ratio=0.5)}, Grid(2, 4, 4), 0, range(2000))[0]
    share = np.bincount(mask.target.flatten().numpy(), minlength=32) / 2000
    assert np.abs(share - 0.5).max() < 0.05


def test_blocks_hide_connected_places_more_often_than_random_does() -> None:
    grid = Grid(1, 12, 12)

    def neighbours(kind: str) -> float:
        target = draw_masks({"tube": MaskConfig(kind=kind, ratio=0.4)}, grid, 0, range(50))[0].target
        flat = torch.zeros(50, 144).scatter_(1, target, 1.0).reshape(50, 12, 12)
        return float((flat[:, :, 1:] * flat[:, :, :-1]).mean())

    assert neighbours("blocks") > 1.5 * neighbours("random")


@pytest.mark.parametrize("ratio", [0.01, 0.99])
def test_a_mask_that_hides_or_shows_nothing_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match=r"mask.tube.ratio=.* hides"):
        draw_masks({"tube": MaskConfig(ratio=ratio)}, Grid(2, 2, 2), 0, range(1))[0]


@pytest.mark.parametrize("bad", [{"ratio": 0.0}, {"ratio": 1.0}, {"kind": "tubes"}, {"scale_min": 0.0}])
def test_bad_settings_are_refused(bad: dict) -> None:
    with pytest.raises(ValueError, match="mask"):
        MaskConfig(**bad)
