"""What the training loop and every objective agree on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from worldmodel.masks import Mask
from worldmodel.models.masked_predictor import MaskedPredictorConfig
from worldmodel.models.video_encoder import VideoEncoder


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
        proprio: Proprioception ``(B, T+1, Q)`` float32 in the data's own units, or None.
    """

    step: int
    ids: range
    views: tuple[Tensor, ...]
    masks: tuple[Mask, ...] = ()
    actions: Tensor | None = None
    proprio: Tensor | None = None

    def to(self, device: str) -> Batch:
        """The same batch on a device."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return dataclasses.replace(
            self,
            views=tuple(move(view) for view in self.views),
            masks=tuple(
                mask._replace(context=move(mask.context), target=move(mask.target)) for mask in self.masks
            ),
            actions=None if self.actions is None else move(self.actions),
            proprio=None if self.proprio is None else move(self.proprio),
        )

    def split(self, count: int) -> list[Batch]:
        """``count`` batches of equal size, in order: the micro-batches of gradient accumulation.

        Their tensors are views of this batch's. The mean of their losses is this batch's loss wherever a loss is a mean
        over samples (statistics over the batch, such as centred targets, are then those of a micro-batch).

        Raises:
            ValueError: The samples cannot be divided so.
        """
        size = len(self.ids)
        if count < 1 or size % count:
            raise ValueError(
                f"{size} samples per process cannot be divided into {count} equal micro-batches; change the batch size"
            )
        parts = [slice(start, start + size // count) for start in range(0, size, size // count)]
        return [
            dataclasses.replace(
                self,
                ids=self.ids[part],
                views=tuple(view[part] for view in self.views),
                masks=tuple(
                    mask._replace(context=mask.context[part], target=mask.target[part]) for mask in self.masks
                ),
                actions=None if self.actions is None else self.actions[part],
                proprio=None if self.proprio is None else self.proprio[part],
            )
            for part in parts
        ]


@dataclass
class ObjectiveConfig:
    """The common base of objectives' settings: the type of a job's field that holds any of them."""

    #: Whether the objective looks at the batch's masks.
    masked: ClassVar[bool] = False

    def models(self) -> dict[str, str]:
        """Model directories that the objective looks at, by the name of their setting; a run's inputs, as data are."""
        return {}

    def build(self, encoder: VideoEncoder, predictor: MaskedPredictorConfig, seed: int) -> Objective:
        """The objective of pretraining that these are the settings of, with new networks beside the encoder.

        Args:
            encoder: The network to pretrain.
            predictor: Size of the predictor or decoder of masked prediction; others do not look at it.
            seed: Of the run; keys what is drawn in training.

        Raises:
            ValueError: The settings are of no objective that pretrains an encoder, or contradict each other.
        """
        raise ValueError(f"objective: {type(self).__name__} is of no objective that pretrains an encoder")


class Objective(nn.Module):
    """A module that turns a batch into a loss. It holds the networks that it trains; the loop knows only this class."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Returns ``{"loss": scalar to minimise, other names: scalars to log}``.

        Every trainable parameter gets a gradient at every step; data-parallel training waits for each of them.
        """
        raise NotImplementedError

    def after_step(self, progress: float) -> None:
        """Called after each optimiser step: EMA and the like.

        Args:
            progress: The share of the schedules that is done: of the training, or less where they are stretched.
        """

    def monitor(self, batch: Batch) -> dict[str, float]:
        """Figures that tell collapse from learning, computed now and then, without gradient and without a trace.

        They describe this process's samples and make no collective calls, so that any one process may ask for them.
        """
        return {}

    def parts(self) -> dict[str, nn.Module]:
        """The networks worth saving, by name; these names are also the names of their gradients' norms."""
        return dict(self.named_children())
