"""A frozen world model whose latents are cached: what the objectives on top of it need, and no more."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldmodel.models.heads import ProprioToken


class KnownLatents(nn.Module):
    """Stands for a world model in objectives that leave it as it is.

    The training state then holds what is trained, not the world model below, and no step runs its head.

    Args:
        proprio: The world model's proprioception token, where it has one; caches hold what comes from frames.
    """

    def __init__(self, proprio: ProprioToken | None = None) -> None:
        super().__init__()
        self.proprio = proprio

    def latents(self, view: Tensor, proprio: Tensor | None = None) -> Tensor:
        """Latents ``(B, T, N, Z)`` of cached ones, and of proprioception ``(B, T, Q)`` where the model has it."""
        if self.proprio is None or proprio is None:
            return view
        return torch.cat([view, self.proprio(proprio)], dim=2)
