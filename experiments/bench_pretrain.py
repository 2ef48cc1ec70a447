"""Clips per second of whole V-JEPA training steps: part of `worldmodel bench what=[pretrain]`."""

import torch

from experiments.bench_plan import median_seconds
from worldmodel.masks import MaskConfig, draw_masks
from worldmodel.models.masked_predictor import MaskedPredictor, MaskedPredictorConfig
from worldmodel.models.video_encoder import VideoEncoder, VideoEncoderConfig
from worldmodel.objectives.base import Batch
from worldmodel.objectives.masked_latent import MaskedLatentConfig, MaskedLatentPrediction
from worldmodel.training.loop import LoopConfig, make_optimizer, train_step


def measure(
    size: VideoEncoderConfig, predictor: MaskedPredictorConfig, batch_size: int, device: str, repeats: int
) -> dict[str, float]:
    """Rows of whole training steps, for each precision."""
    torch.manual_seed(0)
    shape = (batch_size, size.frames, 3, size.image_size, size.image_size)
    clip = torch.randint(0, 256, shape, dtype=torch.uint8)
    masks = draw_masks({"random_tube": MaskConfig()}, size.grid, 0, range(batch_size))
    batch = Batch(0, range(batch_size), (clip,), masks).to(device)
    figures = {}
    for precision in ("fp32", "bf16"):
        encoder = VideoEncoder(size)
        predicts = MaskedPredictor(predictor, encoder.grid, encoder.width)
        objective = MaskedLatentPrediction(encoder, predicts, MaskedLatentConfig()).to(device)
        loop = LoopConfig(precision=precision)
        optimizer = make_optimizer(objective, loop)

        def step(objective=objective, optimizer=optimizer, loop=loop) -> None:  # type: ignore[no-untyped-def]
            train_step(objective, optimizer, batch, loop)

        figures[f"pretrain: clips/s, {precision}"] = batch_size / median_seconds(step, repeats)
    return figures
