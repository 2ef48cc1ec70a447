"""Objectives of a tiny encoder, and batches for them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from worldmodel.masks import MaskConfig, draw_masks
from worldmodel.models.masked_predictor import MaskedPredictorConfig
from worldmodel.models.video_encoder import VideoEncoder, VideoEncoderConfig
from worldmodel.objectives.base import Batch, Objective, ObjectiveConfig
from worldmodel.objectives.build import build_objective

MASKS = {
    "tube": {"tube": MaskConfig(kind="random", ratio=0.5)},
    "vjepa": {
        "short": MaskConfig(kind="blocks", blocks=4, scale_min=0.15, scale_max=0.15),
        "long": MaskConfig(kind="blocks", blocks=1, scale_min=0.7, scale_max=0.7),
    },
    "ijepa": {"blocks": MaskConfig(kind="ijepa", blocks=3)},
}

Make = Callable[..., tuple[Objective, Batch]]


@pytest.fixture
def make(tiny_encoder: VideoEncoderConfig) -> Make:
    """``make(config, masks="tube", batch=4)``: an objective of 4 x 4 x 2 tokens, and a batch of noise."""

    def make(config: ObjectiveConfig, masks: str = "tube", batch: int = 4) -> tuple[Objective, Batch]:
        torch.manual_seed(0)
        encoder = VideoEncoder(tiny_encoder)
        objective = build_objective(config, encoder, MaskedPredictorConfig(width=24, depth=1, heads=2))
        clip = torch.randint(0, 256, (batch, 4, 3, 32, 32), dtype=torch.uint8)
        drawn = draw_masks(MASKS[masks], encoder.grid, 0, range(batch))
        return objective, Batch(0, range(batch), (clip,), drawn)

    return make
