"""A value head: how far, or how good, a latent is for a goal."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

TARGETS = ("distance", "reward")


@dataclass
class ValueConfig:
    """Size of a value head, and what it predicts."""

    #: "distance" (steps to go, never negative) or "reward" (any number).
    target: str = "distance"
    #: Features of the hidden layers.
    hidden: int = 256
    #: Hidden layers on each token, and as many on their mean.
    layers: int = 1

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise ValueError(f"value.target={self.target!r} is unknown; choose one of {', '.join(TARGETS)}")
        if min(self.hidden, self.layers) < 1:
            raise ValueError("value: hidden and layers must be at least 1")


class ValueHead(nn.Module):
    """``V(z, goal)``: goal-conditioned steps-to-go or reward (Schaul et al. 2015).

    Each token sees its goal's token and the difference of both; the mean over tokens goes on. Distances are a softplus,
    so they are positive; neither symmetry nor ``V(z, z) = 0`` is built in, since steps in a world keep neither exactly.

    Args:
        config: See :class:`ValueConfig`.
        width: ``Z``; any number of tokens will do.
    """

    target_mean: Tensor
    target_std: Tensor

    def __init__(self, config: ValueConfig, width: int) -> None:
        super().__init__()
        self.config, self.width = config, width
        self.each = _mlp(3 * width, config.hidden, config.layers)
        self.joint = nn.Sequential(
            _mlp(config.hidden, config.hidden, config.layers), nn.Linear(config.hidden, 1)
        )
        self.register_buffer("target_mean", torch.zeros(()))
        self.register_buffer("target_std", torch.ones(()))

    @torch.no_grad()
    def set_statistics(self, targets: Tensor) -> None:
        """Take the scale of the targets from a sample of training data, of any shape.

        Distances are divided by their root mean square, which keeps 0 at 0; rewards by their std, after their mean.
        """
        targets = targets.float().to(self.target_mean.device)
        if self.config.target == "distance":
            self.target_std.copy_(targets.square().mean().sqrt().clamp_min(1e-6))
        else:
            self.target_mean.copy_(targets.mean())
            self.target_std.copy_(targets.std().clamp_min(1e-6))

    def normalised(self, latents: Tensor, goals: Tensor) -> Tensor:
        """The value in units of the targets' statistics, in float32: what a loss compares with :meth:`normalise`."""
        if latents.shape[-1] != self.width or goals.shape[-2:] != latents.shape[-2:]:
            raise ValueError(
                f"latents have shape {tuple(latents.shape)} and goals {tuple(goals.shape)}; expected (..., N, Z) "
                f"with the same N, and Z = {self.width}"
            )
        latents, goals = torch.broadcast_tensors(latents, goals)
        tokens = self.each(torch.cat([latents, goals, latents - goals], dim=-1))
        value = self.joint(tokens.mean(dim=-2))[..., 0].float()
        return nn.functional.softplus(value) if self.config.target == "distance" else value

    def normalise(self, targets: Tensor) -> Tensor:
        """Targets in steps or rewards to what :meth:`normalised` predicts."""
        return (targets - self.target_mean) / self.target_std

    def forward(self, latents: Tensor, goals: Tensor) -> Tensor:
        """Latents ``(..., N, Z)`` and goals that broadcast to them to ``(...)``, in steps or in units of the reward."""
        return self.normalised(latents, goals) * self.target_std + self.target_mean


def _mlp(size: int, hidden: int, layers: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    for index in range(layers):
        parts += [nn.Linear(size if index == 0 else hidden, hidden), nn.GELU()]
    return nn.Sequential(*parts)
