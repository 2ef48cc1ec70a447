"""What the training loop and every objective agree on."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from worldmodel.masks import Mask


@dataclass(frozen=True)
class Batch:
    """What one step trains on.

    Attributes:
        step: The training step, from 0.
        ids: Global sample indices; all randomness of a sample is keyed by its index.
        views: Tensors with the batch in front: a clip ``(B, T, C, H, W)``, a window of frames ``(B, T+1, C, H, W)`` or
            of cached tokens ``(B, T+1, N, D)``.
        masks: One mask per (context, target) pair to predict.
        actions: ``(B, T, K, A)`` float32 in the environment's own units, or None.
    """

    step: int
    ids: range
    views: tuple[Tensor, ...]
    masks: tuple[Mask, ...] = ()
    actions: Tensor | None = None

    def to(self, device: str) -> Batch:
        """The same batch on a device."""
        return Batch(
            self.step,
            self.ids,
            tuple(view.to(device, non_blocking=True) for view in self.views),
            tuple(Mask(mask.context.to(device), mask.target.to(device)) for mask in self.masks),
            None if self.actions is None else self.actions.to(device, non_blocking=True),
        )


class Objective(nn.Module):
    """A module that turns a batch into a loss. It holds the networks that it trains; the loop knows only this class."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Returns ``{"loss": scalar to minimise, other names: scalars to log}``."""
        raise NotImplementedError

    def after_step(self, progress: float) -> None:
        """Called after each optimiser step, with the share of the training that is done in (0, 1]: EMA and the like."""

    def monitor(self, batch: Batch) -> dict[str, float]:
        """Figures that tell collapse from learning, computed now and then, without gradient."""
        return {}
