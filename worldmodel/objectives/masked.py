"""What the objectives of masked prediction share: predicting hidden tokens, targets, distances."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from worldmodel.masks import Grid, Mask
from worldmodel.models.masked_predictor import MaskedPredictor
from worldmodel.models.video_encoder import VideoEncoder


def predict_masked(
    encoder: VideoEncoder, predictor: MaskedPredictor, clip: Tensor, mask: Mask, index: int = 0
) -> Tensor:
    """Predictions ``(B, M, O)`` in float32 at ``mask.target``, from the tokens at ``mask.context`` of ``clip``.

    Args:
        encoder: Sees the context only.
        predictor: Gives ``O`` numbers per token.
        clip: ``(B, T, C, H, W)``.
        mask: Ids of context and target.
        index: The mask's place among those of the objective; it picks the mask token.
    """
    return predict_hidden(
        predictor, encoder.encode(clip, keep=mask.context), mask, encoder.grid_of(clip), index
    )


def predict_hidden(
    predictor: MaskedPredictor, context: Tensor, mask: Mask, grid: Grid, index: int = 0
) -> Tensor:
    """Predictions ``(B, M, O)`` in float32 at ``mask.target``, from tokens ``context (B, K, D)`` at ``mask.context``.

    Groups of targets (I-JEPA's blocks) go through the predictor as samples of their own: none sees another's places.
    """
    ids, target = mask.context, mask.target
    if mask.groups > 1:
        context, ids = (x.repeat_interleave(mask.groups, dim=0) for x in (context, ids))
        target = target.reshape(len(ids), -1)
    predicted = predictor(context, ids, target, mask_index=index, grid=grid).float()
    return predicted.reshape(*mask.target.shape, -1)


def distance(predicted: Tensor, wanted: Tensor, kind: str, beta: float = 1.0) -> Tensor:
    """The mean distance of two tensors of equal shape.

    Args:
        predicted, wanted: Float32.
        kind: ``"l1"``, absolute; ``"l2"``, squared; ``"smooth_l1"``: half the square over ``beta`` where the error is
            below ``beta``, and the error less half of ``beta`` above.
        beta: See ``kind``.
    """
    if kind == "smooth_l1":
        return F.smooth_l1_loss(predicted, wanted, beta=beta)
    return F.l1_loss(predicted, wanted) if kind == "l1" else F.mse_loss(predicted, wanted)


def centre_targets(tokens: Tensor, everywhere: bool = True, each: bool = False) -> Tensor:
    """Targets ``(B, L, D)`` less their mean over the batch at each position, over one common scale.

    What all clips have in common at a position (the position itself, above all) carries no information about the clip,
    and need not be predicted. The scale is the root mean square of all that is left, a single number: so the loss does
    not depend on the features' size, cannot fall by shrinking them, and places where little differs between clips weigh
    little. (A layer norm per token would blow those up to the same size as the others.)

    Args:
        tokens: Float32, from the target encoder.
        everywhere: Statistics over all processes' samples, if torch.distributed is initialised (a collective call).
        each: Each position has its own scale instead. With one, in noise, V-JEPA's features grew at three of 16 places
            and told next to nothing of what was elsewhere (docs/label_efficiency.md).

    Raises:
        ValueError: There is only one sample, which equals its mean.
    """
    together = everywhere and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    world = dist.get_world_size() if together else 1
    if tokens.shape[0] * world < 2:
        name = "standardised" if each else "centred"
        raise ValueError(f"objective.target_norm={name} needs at least 2 samples per batch")
    mean = tokens.mean(dim=0)
    if together:
        dist.all_reduce(mean)
    residual = tokens - mean / world
    power = residual.square().mean(dim=(0, 2), keepdim=True) if each else residual.square().mean()
    if together:
        dist.all_reduce(power)
    return residual / (power / world + 1e-5).sqrt()


def variance_hinge(predicted: Tensor) -> Tensor:
    """``mean(relu(1 - std))`` of predictions ``(B, M, D)``, the std being over each clip's tokens (V-JEPA)."""
    return torch.relu(1 - (predicted.var(dim=1) + 1e-4).sqrt()).mean()
