"""Augmentation on the device. (Workers crop and resize; what costs nothing on a GPU is done there.)"""

from __future__ import annotations

import dataclasses

import torch

from worldmodel.data.crops import flip_clips, flip_flags
from worldmodel.objectives.base import Batch


def flip_batch(batch: Batch, seed: int, share: float = 0.5) -> Batch:
    """Mirror a share of the samples left to right, all views and frames of a sample alike.

    Which ones depends on ``(seed, global sample index)`` only, not on the batch or the process that they are in. Flips
    come before the objective, so that its targets are of the same picture.

    Args:
        batch: Views ``(B, T, C, H, W)`` on any device.
        seed: Of the run.
        share: Probability of a flip; 0 returns the batch itself.

    Raises:
        ValueError: The batch has actions, whose left and right a flip would have to change too.
    """
    if not share:
        return batch
    if batch.actions is not None:
        raise ValueError("clips with actions cannot be flipped: set the share of flips to 0")
    flags = torch.from_numpy(flip_flags(seed, batch.ids, share))
    return dataclasses.replace(batch, views=tuple(flip_clips(view, flags) for view in batch.views))
