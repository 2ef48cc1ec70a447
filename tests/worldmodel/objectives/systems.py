"""Systems as their YAML has them, but tiny, trained for seconds on squares that move; and how far they collapsed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.pretrain import SCHEMAS, Config
from experiments.settings import compose_settings
from tests.worldmodel.squares import squares
from worldmodel.masks import MaskConfig, draw_masks
from worldmodel.models.masked_predictor import MaskedPredictorConfig
from worldmodel.models.video_encoder import VideoEncoder, VideoEncoderConfig
from worldmodel.objectives.base import Batch, Objective
from worldmodel.objectives.build import build_objective
from worldmodel.training.loop import LoopConfig, make_optimizer, train_step
from worldmodel.training.monitors import effective_rank
from worldmodel.training.rates import set_rates

#: 4 x 4 x 2 tokens, 60 thousand parameters.
SIZE = VideoEncoderConfig(image_size=32, frames=4, patch_size=8, tubelet=2, width=48, depth=2, heads=3)
#: Clips that no training sees.
HELD_OUT = range(10**6, 10**6 + 64)


def settings(name: str, *changes: str) -> Config:
    """What ``worldmodel pretrain objective=NAME CHANGES`` is told; a change is ``target=online`` or ``mask=short``."""
    lines = [line if line.startswith("mask") else f"objective.{line}" for line in changes]
    overrides = ["data=none", f"objective={name}", *lines]
    config: Config = compose_settings("pretrain", Config, overrides, schemas=SCHEMAS).to_object()
    return config if config.objective.masked else replace(config, mask={})


def small(config: Config, seed: int = 0) -> Objective:
    """The objective of an encoder of ``SIZE``."""
    torch.manual_seed(seed)
    size = MaskedPredictorConfig(width=24, depth=1, heads=2)
    return build_objective(config.objective, VideoEncoder(SIZE), size, seed)


@lru_cache(maxsize=128)
def _squares(ids: range) -> Tensor:
    """The same in every training of a test."""
    return squares(ids)


Clips = Callable[[range], Tensor]


def batch_of(
    ids: range, masks: Mapping[str, MaskConfig] | None = None, step: int = 0, clips: Clips = _squares
) -> Batch:
    """Squares, or other clips ``(B, 4, 3, 32, 32)``, and masks where an objective needs them."""
    return Batch(step, ids, (clips(ids),), draw_masks(dict(masks), SIZE.grid, 0, ids) if masks else ())


def train(
    objective: Objective,
    steps: int,
    config: Config,
    lr: float = 1e-3,
    size: int = 32,
    clips: Clips = _squares,
) -> list[float]:
    """Train with the real loop's step; returns the losses."""
    loop = LoopConfig(steps=steps, batch_size=size, lr=lr, warmup=0.1, precision="fp32")
    optimizer, losses = make_optimizer(objective, loop), []
    for step in range(steps):
        objective.train()
        set_rates(optimizer, loop, step)
        batch = batch_of(range(size * step, size * (step + 1)), config.mask, step, clips)
        losses.append(train_step(objective, optimizer, batch, loop)["loss"])
    objective.eval()
    return losses


@torch.no_grad()
def features(objective: Objective) -> Tensor:
    """The mean token ``(64, D)`` of each held-out clip."""
    encoder = objective.parts()["encoder"]
    assert isinstance(encoder, VideoEncoder)
    return encoder.eval().encode(_squares(HELD_OUT)).mean(dim=(1, 2))


def rank(objective: Objective) -> float:
    """Effective rank of the held-out clips' features."""
    return effective_rank(features(objective))


def unit_spread(embeddings: Tensor) -> float:
    """Std of embeddings ``(B, D)`` on the unit sphere, as a share of an even spread's: 0 collapsed, 1 spread evenly."""
    return float(F.normalize(embeddings, dim=-1).std(dim=0).mean() * embeddings.shape[-1] ** 0.5)
