"""The video ViT and its masked predictor."""

from __future__ import annotations

import pytest
import torch

from worldmodel.masks import MaskConfig, draw_masks
from worldmodel.models.masked_predictor import MaskedPredictor, MaskedPredictorConfig
from worldmodel.models.video_encoder import VideoEncoder, VideoEncoderConfig


def test_hidden_pixels_do_not_reach_the_context_tokens(tiny_encoder: VideoEncoderConfig) -> None:
    encoder = VideoEncoder(tiny_encoder)
    clip = torch.randint(0, 256, (2, 4, 3, 32, 32), dtype=torch.uint8)
    mask = draw_masks({"tube": MaskConfig(ratio=0.5)}, encoder.grid, 0, range(2))[0]
    context = encoder.encode(clip, keep=mask.context)
    other = clip.clone()
    for row in range(2):
        for token in mask.target[row].tolist():
            step, place = divmod(token, 16)
            y, x = divmod(place, 4)
            other[row, 2 * step : 2 * step + 2, :, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8] = 0
    assert not torch.equal(other, clip)
    assert torch.equal(encoder.encode(other, keep=mask.context), context)


def test_the_predictor_knows_where_it_predicts(tiny_encoder: VideoEncoderConfig) -> None:
    torch.manual_seed(0)
    encoder = VideoEncoder(tiny_encoder)
    predictor = MaskedPredictor(
        MaskedPredictorConfig(width=24, depth=2, heads=2), encoder.grid, encoder.width
    )
    mask = draw_masks({"tube": MaskConfig()}, encoder.grid, 0, range(2))[0]
    context = torch.randn(2, mask.context.shape[1], 24)
    predicted = predictor(context, mask.context, mask.target)
    assert predicted.shape == (2, mask.target.shape[1], 24)
    # Asking for the same places in another order gives the same answers in that order: positions, not slots, count.
    flipped = predictor(context, mask.context, mask.target.flip(1))
    torch.testing.assert_close(flipped.flip(1), predicted, atol=1e-5, rtol=1e-5)
    assert (predicted[:, 0] - predicted[:, 1]).abs().max() > 1e-4


@pytest.mark.parametrize("shape", [(1, 4, 3, 16, 16), (1, 6, 3, 32, 32), (1, 4, 1, 32, 32), (4, 3, 32, 32)])
def test_clips_of_another_shape_are_refused(tiny_encoder: VideoEncoderConfig, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="this encoder takes"):
        VideoEncoder(tiny_encoder).encode(torch.zeros(shape, dtype=torch.uint8))


@pytest.mark.parametrize("window", [0, 3, 6])
def test_impossible_windows_are_refused(tiny_encoder: VideoEncoderConfig, window: int) -> None:
    with pytest.raises(ValueError, match="window="):
        VideoEncoder(tiny_encoder).encode_steps(torch.zeros(1, 4, 3, 32, 32), window=window)


@pytest.mark.parametrize("bad", [{"patch_size": 24}, {"tubelet": 3}, {"heads": 5}])
def test_sizes_that_do_not_divide_are_refused(bad: dict) -> None:
    with pytest.raises(ValueError, match="must divide"):
        VideoEncoderConfig(**bad)
