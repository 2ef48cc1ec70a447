"""How surprised a pretrained model is by a video: the energy of (context, target) pairs, without actions or labels.

The energy of a clip is the error of predicting its future tokens from its past ones (violation of expectation; Garrido
et al. 2025, 2502.11831). A model that has learnt how things move gives a low energy to what happens and a higher one to
what does not: impossible events, time reversed, the future of another clip. Compare on clips that training never saw.

The predictor must know the task: masks of kind ``future`` are what it should be pretrained with. With others, the
future is further from the context than anything that it was trained on, and energies tell less.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from worldmodel.evaluation.paired import paired_test
from worldmodel.masks import Grid
from worldmodel.models.masked_predictor import MaskedPredictor
from worldmodel.models.video_encoder import VideoEncoder
from worldmodel.nn.patches import gather_tokens


@dataclass(frozen=True)
class Pair:
    """Token ids of one (context, target) pair, ``(K,)`` and ``(M,)`` int64, the same for every clip."""

    context: Tensor
    target: Tensor


def future_pairs(grid: Grid, context_steps: Sequence[int], horizon: int | None = None) -> list[Pair]:
    """Pairs that see the first steps and predict the following ones.

    Args:
        grid: Of the clip.
        context_steps: Tubelet steps that are seen, one number for each pair.
        horizon: Steps that are predicted; None: all that follow.

    Raises:
        ValueError: Nothing would be seen, or nothing predicted.
    """
    per_step = grid.rows * grid.columns
    pairs = []
    for steps in context_steps:
        end = grid.steps if horizon is None else min(grid.steps, steps + horizon)
        if not 0 < steps < end:
            raise ValueError(
                f"context_steps={steps} and horizon={horizon} leave nothing to see or to predict in a clip of "
                f"{grid.steps} steps (tubelets, encoder.frames / encoder.tubelet)"
            )
        ids = torch.arange(end * per_step)
        pairs.append(Pair(ids[: steps * per_step], ids[steps * per_step :]))
    return pairs


class ClipEnergy:
    """``energy(clips)``: one number per clip, high where the future is not what the model expects.

    Args:
        encoder: The context encoder (the student, which the predictor was trained with).
        predictor: As pretrained.
        target_encoder: The EMA encoder; None: the encoder itself, where pretraining had no other.
        pairs: From ``future_pairs``, or of one's own.
        target_norm: As in pretraining: "layer" (V-JEPA's), "none", or "centred", which needs ``centre_on`` first.
        loss: "l1" or "l2".
        reduce: Over pairs: "mean", or "max", for events at an unknown moment.
        mask_index: Which of the predictor's mask tokens: the place, in pretraining, of the mask that is most like this.
    """

    def __init__(
        self,
        encoder: VideoEncoder,
        predictor: MaskedPredictor,
        target_encoder: VideoEncoder | None,
        pairs: Sequence[Pair],
        target_norm: str = "layer",
        loss: str = "l1",
        reduce: str = "mean",
        mask_index: int = 0,
    ) -> None:
        for name, value, known in (
            ("target_norm", target_norm, ("layer", "centred", "none")),
            ("loss", loss, ("l1", "l2")),
            ("reduce", reduce, ("mean", "max")),
        ):
            if value not in known:
                raise ValueError(f"{name}={value!r} is unknown; choose one of {', '.join(known)}")
        if not pairs:
            raise ValueError("an energy needs at least one (context, target) pair")
        self.encoder, self.predictor = encoder.eval(), predictor.eval()
        self.target_encoder = encoder if target_encoder is None else target_encoder.eval()
        self.pairs, self.target_norm, self.loss, self.reduce = list(pairs), target_norm, loss, reduce
        self.mask_index = mask_index
        self._centre: Tensor | None = None
        self._scale = 1.0

    @torch.inference_mode()
    def centre_on(self, clips: Iterable[Tensor]) -> None:
        """Take the means and the scale of centred targets from many clips, in batches ``(B, T, C, H, W)``.

        Training takes them from each batch. An energy must not depend on what it is compared with in a batch.
        """
        total = square = torch.zeros(())
        count = 0
        for batch in clips:
            tokens = self.target_encoder.encode(batch).flatten(1, 2).double()
            total, square = (
                total.to(tokens) + tokens.sum(dim=0),
                square.to(tokens) + tokens.square().sum(dim=0),
            )
            count += len(tokens)
        if count < 2:
            raise ValueError(f"a centre is the mean of at least 2 clips; there is {count}")
        self._centre = (total / count).float()
        self._scale = float((square / count - (total / count).square()).mean().add(1e-5).sqrt())

    @torch.inference_mode()
    def __call__(self, clips: Tensor, futures: Tensor | None = None) -> Tensor:
        """Energies ``(B,)`` in float32.

        Args:
            clips: ``(B, T, C, H, W)``; the context comes from these.
            futures: Of the same shape; the targets come from these. None: from ``clips``.
        """
        futures = clips if futures is None else futures
        targets = self._targets(futures)
        energies = []
        for pair in self.pairs:
            context, target = (
                ids.to(clips.device).expand(len(clips), -1) for ids in (pair.context, pair.target)
            )
            known = self.encoder.encode(clips, keep=context)
            grid = self.encoder.grid_of(clips)
            gap = self.predictor(known, context, target, mask_index=self.mask_index, grid=grid).float()
            gap = gap - gather_tokens(targets, target)
            energies.append((gap.abs() if self.loss == "l1" else gap.square()).mean(dim=(1, 2)))
        stacked = torch.stack(energies)
        return stacked.mean(dim=0) if self.reduce == "mean" else stacked.amax(dim=0)

    def _targets(self, futures: Tensor) -> Tensor:
        tokens = self.target_encoder.encode(futures).flatten(1, 2).float()
        if self.target_norm == "layer":
            return F.layer_norm(tokens, tokens.shape[-1:])
        if self.target_norm == "none":
            return tokens
        if self._centre is None:
            raise ValueError("target_norm='centred': call centre_on(clips) with clips of the training first")
        return (tokens - self._centre) / self._scale


Energy = Callable[..., Tensor]


def possible_impossible(energy: Energy, pairs: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """Possible against impossible clips, ``paired_test`` of their energies.

    Args:
        energy: A ``ClipEnergy``.
        pairs: Batches of possible clips ``(B, T, C, H, W)`` and, in the same order, of impossible ones.
    """
    return _paired((energy(possible), energy(impossible)) for possible, impossible in pairs)


def matched_elsewhere(energy: Energy, pairs: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """Each clip's own future against one of the same video at another time: harder, since all looks alike but motion.

    Args:
        energy: A ``ClipEnergy``.
        pairs: Batches of clips ``(B, T, C, H, W)`` and, in the same order, of others of the same videos.
    """
    return _paired((energy(clips), energy(clips, others)) for clips, others in pairs)


def forward_reversed(energy: Energy, clips: Iterable[Tensor]) -> dict[str, Any]:
    """Clips ``(B, T, C, H, W)`` against the same ones played backwards. What looks alike both ways is a tie at best."""
    return _paired((energy(batch), energy(batch.flip(1))) for batch in clips)


def matched_shuffled(energy: Energy, clips: Iterable[Tensor]) -> dict[str, Any]:
    """Each clip's own future against that of the next clip in its batch.

    Put clips of different videos into a batch; of one video, the other's future may be as likely as its own. Shuffling
    keeps the energies' other causes apart: both sides have the same contexts and the same futures.

    Raises:
        ValueError: A batch has a single clip.
    """
    return _paired(_shuffled(energy, clips))


def _shuffled(energy: Energy, clips: Iterable[Tensor]) -> Iterable[tuple[Tensor, Tensor]]:
    for batch in clips:
        if len(batch) < 2:
            raise ValueError("matched against shuffled needs batches of at least 2 clips; this one has 1")
        yield energy(batch), energy(batch, batch.roll(1, dims=0))


def _paired(energies: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    likely, unlikely = [], []
    for a, b in energies:
        likely.append(a.cpu().numpy())
        unlikely.append(b.cpu().numpy())
    if not likely:
        raise ValueError("there are no clips to compare")
    return paired_test(np.concatenate(likely), np.concatenate(unlikely))
