"""Masks for masked latent prediction: which tokens of a clip are context, which are to be predicted.

Most masks are *tubes*: the same places are hidden in every tubelet step, so that the answer cannot be copied from a
neighbouring frame (Bardes et al. 2024, 2404.08471). The number of tokens is exact and depends on grid and
configuration only. Hence shapes are static, a tube stays a tube, no frame is favoured, and a sample's mask does not
depend on the batch that it is drawn in. (V-JEPA's own code cuts every mask to the batch's smallest in raster order,
which biases to early frames; ``MaskConfig.collate = "raster"`` does the same, for comparison.)
"""

from __future__ import annotations

from worldmodel.masks.config import KINDS, Grid, Mask, MaskConfig
from worldmodel.masks.draw import draw_masks, token_counts
from worldmodel.masks.statistics import Coverage, coverage

__all__ = ["KINDS", "Coverage", "Grid", "Mask", "MaskConfig", "coverage", "draw_masks", "token_counts"]
