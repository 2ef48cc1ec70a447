"""Trainings of milliseconds: samples are vectors, a linear layer is the encoder, and views are vectors with noise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.worldmodel.objectives.systems import settings
from worldmodel.models.masked_predictor import MaskedPredictorConfig
from worldmodel.models.video_encoder import VideoEncoderConfig
from worldmodel.objectives.base import Batch
from worldmodel.objectives.build import build_objective
from worldmodel.objectives.views import View
from worldmodel.seeding import keyed_torch_generator

WIDTH = 16


class Linear(nn.Module):
    """What objectives need of an encoder, for vectors ``(B, D)``."""

    def __init__(self) -> None:
        super().__init__()
        self.config = VideoEncoderConfig(
            image_size=8, frames=2, patch_size=8, tubelet=2, width=WIDTH, depth=1, heads=1
        )
        self.width, self.layer = WIDTH, nn.Linear(WIDTH, WIDTH)

    def encode(self, vectors: Tensor) -> Tensor:
        return self.layer(vectors)[:, None, None]


def vectors(seed: int, count: int) -> Tensor:
    """``(count, D)``: eight clusters."""
    generator = keyed_torch_generator("vectors", seed)
    centres = torch.randn(8, WIDTH, generator=keyed_torch_generator("clusters"))
    kinds = torch.randint(0, 8, (count,), generator=generator)
    return centres[kinds] + 0.3 * torch.randn(count, WIDTH, generator=generator)


def trained(name: str, *changes: str, steps: int = 200, seed: int = 0) -> Any:
    """The objective after some steps of 64 vectors, in evaluation mode."""
    torch.manual_seed(seed)
    config: Any = settings(name, *changes).objective
    objective: Any = build_objective(config, Linear(), MaskedPredictorConfig(), seed)  # type: ignore[arg-type]
    if hasattr(objective, "other_encoder"):
        objective.other_encoder = Linear()

    def draw(batch: Batch) -> list[View]:
        x, generator = batch.views[0], keyed_torch_generator("noise", seed, batch.step)
        return [View(x + 0.3 * torch.randn(x.shape, generator=generator), True) for _ in range(2)]

    objective.draw = draw
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], lr=3e-3)
    for step in range(steps):
        x = vectors(1 + step + steps * seed, 64)
        optimizer.zero_grad()
        objective.train()(Batch(step, range(64), (x,)))["loss"].backward()
        optimizer.step()
        objective.after_step((step + 1) / steps)
    return objective.eval()


def information(outputs: Tensor) -> float:
    """Nats that distributions ``(B, K)`` tell of the sample: the entropy of their mean less their mean entropy.

    0 where all samples have the same distribution, one-sided or uniform.
    """

    def entropy(p: Tensor) -> Tensor:
        return -(p * p.clamp_min(1e-12).log()).sum(dim=-1)

    return float(entropy(outputs.mean(dim=0)) - entropy(outputs).mean())
