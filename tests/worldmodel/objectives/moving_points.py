"""A world that is two numbers: actions move a point on a ring pair, and tokens are a fixed random picture of it.

Beside the point, a second one drifts slowly by itself: it is easier to predict, and says nothing about actions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from worldmodel.models.dynamics import MLPDynamicsConfig
from worldmodel.models.heads import TokenHeadConfig
from worldmodel.models.video_encoder import VideoEncoderConfig
from worldmodel.models.world_model import ActionSpec, WorldModel, WorldModelConfig
from worldmodel.objectives.base import Batch

TOKENS, WIDTH = 16, 24


def draw(step: int, size: int = 32, steps: int = 4) -> Batch:
    """Windows of tokens ``(B, T+1, 16, 24)`` and actions ``(B, T, 1, 2)``, keyed by the step."""
    generator = torch.Generator().manual_seed(step)
    actions = torch.rand(size, steps, 1, 2, generator=generator) * 2 - 1
    start = torch.rand(size, 1, 2, generator=generator) * 6.28
    angles = torch.cat([start, start + 0.5 * actions[:, :, 0].cumsum(dim=1)], dim=1)
    slow = torch.rand(size, 1, 2, generator=generator) * 6.28 + 0.05 * torch.arange(steps + 1.0)[:, None]
    both = torch.cat([angles, slow], dim=-1)
    seen = torch.cat([both.sin(), both.cos()], dim=-1) @ _picture()
    return Batch(
        step, range(step * size, (step + 1) * size), (seen.unflatten(-1, (TOKENS, WIDTH)),), actions=actions
    )


def _picture() -> Tensor:
    return torch.randn(8, TOKENS * WIDTH, generator=torch.Generator().manual_seed(9)) / 8**0.5


def world_model(**changes: Any) -> WorldModel:
    """A tiny world model on those tokens; its encoder is not used."""
    torch.manual_seed(0)
    encoder = VideoEncoderConfig(
        image_size=32, frames=4, patch_size=8, tubelet=2, width=WIDTH, depth=1, heads=2
    )
    head, dynamics = TokenHeadConfig(per_token=4, hidden=32, width=8), MLPDynamicsConfig(hidden=32)
    spec = ActionSpec(low=[-1.0, -1.0], high=[1.0, 1.0], mean=[0.0, 0.0], std=[0.58, 0.58])
    parts: dict[str, Any] = {
        "encoder": encoder,
        "head": head,
        "dynamics": dynamics,
        "actions": spec,
        **changes,
    }
    model = WorldModel(WorldModelConfig(**parts, env_id="fake"))
    model.encoder.requires_grad_(False)
    model.dynamics.set_statistics(draw(0).actions)
    return model


def settled_model() -> WorldModel:
    """One whose head knows the statistics of its latents: untrained, but with latents of unit spread."""
    model = world_model().train()
    for step in range(40):
        model.latents(draw(step).views[0])
    return model.eval()
