"""Masks for a batch, and how many tokens they have."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from worldmodel.masks.blocks import (
    separate_counts,
    separate_masks,
    separate_noise,
    union_masks,
    union_noise,
)
from worldmodel.masks.boxes import ranges, size_distribution, union_share
from worldmodel.masks.config import Grid, Mask, MaskConfig
from worldmodel.masks.raster import raster_mask
from worldmodel.seeding import keyed_rng

#: Cells that are worked on at a time, so that memory stays small.
_CELLS = 1 << 20


def draw_masks(configs: Mapping[str, MaskConfig], grid: Grid, seed: int, indices: range) -> tuple[Mask, ...]:
    """One mask per named configuration and sample.

    A mask is keyed by the seed, the sample's global index and the configuration's position; it does not depend on the
    batch that it is drawn in.

    Args:
        configs: Configurations by name, e.g. V-JEPA's "short" and "long".
        grid: The clips' token grid.
        seed: Of the run.
        indices: Global sample indices, B of them.

    Returns:
        In the order of ``configs``, each with tensors of ``B`` rows; see ``token_counts`` for their lengths.

    Raises:
        ValueError: A mask is impossible on this grid, or there are no configurations.
    """
    if not configs:
        raise ValueError("mask is empty: there is nothing to predict; choose an option, such as mask=vjepa")
    return tuple(
        _draw_mask(config, grid, seed, indices, position, name)
        for position, (name, config) in enumerate(configs.items())
    )


def token_counts(config: MaskConfig, grid: Grid, name: str = "*") -> tuple[int, int]:
    """How many tokens a mask's context and target have: K and M, the same for every sample.

    With ``collate="raster"`` they vary with the batch; these are then the averages before masks are cut.

    Args:
        config: How the mask is drawn.
        grid: The token grid.
        name: The mask's name in the configuration, for messages.

    Raises:
        ValueError: There would be nothing to see, nothing to predict, or fewer than ``config.min_keep`` to see.
    """
    places, total = grid.rows * grid.columns, grid.steps * grid.rows * grid.columns
    if min(grid) < 1:
        raise ValueError(f"a token grid of {grid.steps} x {grid.rows} x {grid.columns} is empty")
    if config.kind == "future":
        context = total - _future_steps(config, grid, name) * places
        target = total - context
    elif config.kind == "ijepa":
        _check_blocks(config, grid, name)
        seen, block = separate_counts(config, _frame(grid))
        if seen < 1:
            raise ValueError(f"mask.{name}: a target block leaves nothing of {_shape(grid)} to see")
        context, target = seen * grid.steps, config.blocks * block * grid.steps
    else:
        inner = _inner(config, grid)
        context = inner.steps * places - _hidden(config, inner, name)
        target = total - context
    if context < config.min_keep:
        raise ValueError(
            f"mask.{name}.min_keep={config.min_keep}, but {_shape(grid)} has a context of {context} tokens; "
            "lower it, or use smaller patches or larger frames"
        )
    return context, target


def _draw_mask(config: MaskConfig, grid: Grid, seed: int, indices: range, position: int, name: str) -> Mask:
    token_counts(config, grid, name)
    # The first mask has the key that a mask had when there was one only.
    tail = (position,) if position else ()
    keys: list[tuple[int, ...]] = [(seed, index, *tail) for index in indices]
    if config.collate == "raster":
        return raster_mask(config, grid, keys)
    step = max(1, _CELLS // (grid.steps * grid.rows * grid.columns))
    parts = [_draw_part(config, grid, keys[i : i + step], name) for i in range(0, len(keys), step)]
    if not parts:
        context, target = token_counts(config, grid, name)
        parts = [(torch.empty(0, context, dtype=torch.int64), torch.empty(0, target, dtype=torch.int64))]
    groups = config.blocks if config.kind == "ijepa" else 1
    return Mask(torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts]), groups)


def _draw_part(
    config: MaskConfig, grid: Grid, keys: list[tuple[int, ...]], name: str
) -> tuple[Tensor, Tensor]:
    """Context and target ids of some samples."""
    if config.kind == "ijepa":
        seen, targets = separate_masks(config, _frame(grid), _noise(keys, separate_noise(config)))
        blocks = _ids(_through_time(targets.reshape(-1, targets.shape[-1]), grid.steps))
        return _ids(_through_time(seen, grid.steps)), blocks.reshape(len(keys), -1)
    if config.kind == "future":
        shown = grid.steps - _future_steps(config, grid, name)
        hidden = np.broadcast_to(np.arange(grid.steps) >= shown, (len(keys), grid.steps))
        hidden = hidden.repeat(grid.rows * grid.columns, axis=1)
        return _ids(~hidden), _ids(hidden)
    inner = _inner(config, grid)
    count = _hidden(config, inner, name)
    if config.kind == "random":
        hidden = np.zeros((len(keys), grid.rows * grid.columns), dtype=bool)
        for row, key in zip(hidden, keys, strict=True):
            row[keyed_rng("mask", *key).permutation(row.size)[: count // inner.steps]] = True
        hidden = _through_time(hidden, inner.steps)
    elif _is_tube(config, inner):
        hidden = union_masks(config, _frame(grid), count // inner.steps, _noise(keys, union_noise(config)))
        hidden = _through_time(hidden, inner.steps)
    else:
        hidden = union_masks(config, inner, count, _noise(keys, union_noise(config)))
    later = np.ones((len(keys), (grid.steps - inner.steps) * grid.rows * grid.columns), dtype=bool)
    hidden = np.concatenate([hidden, later], axis=1)
    return _ids(~hidden), _ids(hidden)


def _frame(grid: Grid) -> Grid:
    return grid._replace(steps=1)


def _inner(config: MaskConfig, grid: Grid) -> Grid:
    """The steps that the context may come from; blocks are drawn on them alone."""
    return grid._replace(steps=max(1, int(grid.steps * config.max_temporal_keep)))


def _is_tube(config: MaskConfig, grid: Grid) -> bool:
    return config.kind == "random" or int(grid.steps * config.temporal_min) >= grid.steps or grid.steps == 1


def _hidden(config: MaskConfig, grid: Grid, name: str) -> int:
    """How many of the grid's cells random tubes or blocks hide; a multiple of the steps for tubes."""
    if grid.rows * grid.columns == 1 and _is_tube(config, grid):
        raise ValueError(
            f"mask.{name}: {_shape(grid)} has one place, which cannot be both seen and predicted"
        )
    if config.kind == "blocks":
        _check_blocks(config, grid, name)
    if config.kind == "blocks" and config.ratio is None:
        share = union_share(ranges(config), grid, config.blocks)
    else:
        share = 0.5 if config.ratio is None else config.ratio
    steps = grid.steps if _is_tube(config, grid) else 1
    cells = grid.steps * grid.rows * grid.columns // steps
    hidden = round(round(share * cells, 6))  # twice: the last bits of a sum may differ between machines
    if config.kind == "blocks" and config.ratio is None:
        # On the smallest grids rounding may leave nothing, although the blocks usually leave something.
        hidden = min(max(hidden, 1), cells - 1)
    if not 0 < hidden < cells:
        what = "places" if steps == grid.steps else "tokens"
        raise ValueError(
            f"mask.{name}.ratio={share:g} hides {hidden} of the {cells} {what} of {_shape(grid)}; "
            "use another ratio, smaller patches or larger frames"
        )
    return hidden * steps


def _check_blocks(config: MaskConfig, grid: Grid, name: str) -> None:
    """Refuse blocks that always cover everything."""
    sizes, _ = size_distribution(ranges(config), grid)
    if grid.rows * grid.columns > 1 and (sizes == np.array(grid)).all():
        raise ValueError(
            f"mask.{name}.scale_min={config.scale_min}: every block covers all of {_shape(grid)}; use less"
        )


def _future_steps(config: MaskConfig, grid: Grid, name: str) -> int:
    """How many steps are to be predicted."""
    ratio = 0.5 if config.ratio is None else config.ratio
    steps = round(ratio * grid.steps)
    if not 0 < steps < grid.steps:
        raise ValueError(
            f"mask.{name}.ratio={ratio:g} predicts {steps} of {grid.steps} steps; "
            "use another ratio, more frames or a shorter tubelet"
        )
    return steps


def _shape(grid: Grid) -> str:
    steps = f"{grid.steps} steps of " if grid.steps > 1 else ""
    return f"a grid of {steps}{grid.rows} x {grid.columns}"


def _noise(keys: list[tuple[int, ...]], count: int) -> np.ndarray:
    """Uniform numbers ``(B, count)``, each row from its own key."""
    return np.stack([keyed_rng("mask", *key).random(count) for key in keys])


def _through_time(places: np.ndarray, steps: int) -> np.ndarray:
    """The same places ``(B, places)`` at each step: ``(B, steps * places)``."""
    return np.tile(places, (1, steps))


def _ids(flags: np.ndarray) -> Tensor:
    """The ids that are set, in order: ``(B, count)`` from ``(B, cells)`` bool with equally many in each row."""
    return torch.from_numpy(np.nonzero(flags)[1].reshape(len(flags), -1))
