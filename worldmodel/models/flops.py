"""How much arithmetic a forward pass is: for the expected duration of a run, and for model-FLOPs utilisation."""

from __future__ import annotations

from torch import nn

from worldmodel.models.masked_predictor import MaskedPredictorConfig
from worldmodel.models.video_encoder import VideoEncoderConfig


def parameter_count(module: nn.Module, trainable: bool = False) -> int:
    """Parameters of a module; only those that are trained with ``trainable``."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)


def transformer_flops(width: int, depth: int, mlp_ratio: float, mlp: str, tokens: int) -> int:
    """Floating-point operations of ``depth`` blocks on one sequence of ``tokens`` tokens, forward.

    A multiplication and the addition after it are two operations. With ``L`` tokens of width ``D`` and an MLP of hidden
    width ``F``, a block does ``8 L D^2`` (queries, keys, values, output) ``+ 4 L^2 D`` (scores, weighted sum)
    ``+ 4 L D F`` (``6 L D F`` with SwiGLU's narrower ``F``). Norms, activations and positions are not counted.
    """
    hidden, matrices = round(width * mlp_ratio), 2
    if mlp == "swiglu":
        hidden, matrices = (2 * hidden // 3 + 7) // 8 * 8, 3
    per_block = 8 * tokens * width**2 + 4 * tokens**2 * width + 2 * matrices * tokens * width * hidden
    return depth * per_block


def encoder_flops(config: VideoEncoderConfig, tokens: int | None = None) -> int:
    """Forward operations of the encoder for one clip: ``tokens`` kept ones, or all of them.

    The blocks of :func:`transformer_flops` and the patch embedding, ``2 L D`` times the numbers in a patch.
    """
    if tokens is None:
        tokens = config.grid.steps * config.grid.rows * config.grid.columns
    pixels = 3 * config.tubelet * config.patch_size**2
    blocks = transformer_flops(config.width, config.depth, config.mlp_ratio, config.mlp, tokens)
    return blocks + 2 * tokens * config.width * pixels


def predictor_flops(
    config: MaskedPredictorConfig,
    encoder_width: int,
    context: int,
    target: int,
    output_width: int | None = None,
) -> int:
    """Forward operations of the predictor for one sample of ``context`` and ``target`` tokens.

    The blocks of :func:`transformer_flops` on all of them, one linear layer into the predictor's width for the
    context and one out of it for the targets.
    """
    blocks = transformer_flops(config.width, config.depth, config.mlp_ratio, config.mlp, context + target)
    output_width = encoder_width if output_width is None else output_width
    return blocks + 2 * config.width * (context * encoder_width + target * output_width)


def training_flops(
    encoder: VideoEncoderConfig,
    predictor: MaskedPredictorConfig,
    masks: list[tuple[int, int]],
    target_encoder: bool = True,
) -> int:
    """Operations of one V-JEPA training step for one clip: what model-FLOPs utilisation is counted with.

    The target encoder runs forward once on the whole clip. For each mask of ``(context, target)`` token counts the
    encoder runs on the context and the predictor on both; a backward pass is twice a forward pass. What activation
    checkpointing computes again does not count, as is usual for this figure (PaLM, 2204.02311, appendix B).
    """
    total = encoder_flops(encoder) if target_encoder else 0
    for context, target in masks:
        total += 3 * encoder_flops(encoder, context)
        total += 3 * predictor_flops(predictor, encoder.width, context, target)
    return total
