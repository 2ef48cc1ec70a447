"""The pixel decoder: shapes, files, and that no gradient leaves it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from worldmodel.models.decoder import PixelDecoder, PixelDecoderConfig
from worldmodel.models.files import directory_hash
from worldmodel.models.world_model import WorldModel
from worldmodel.objectives.base import Batch
from worldmodel.objectives.pixel_decoding import PixelDecoding

SMALL = PixelDecoderConfig(width=16)


@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 20, 36), (3, 8, 8)])
def test_frames_have_the_datas_shape_and_begin_with_their_mean(
    tokens: int, shape: tuple[int, int, int]
) -> None:
    decoder = PixelDecoder(SMALL, tokens, 6, list(shape))
    sample = torch.randint(0, 256, (9, *shape), dtype=torch.uint8)
    decoder.set_statistics(torch.randn(9, tokens, 6), sample)
    frames = decoder.frames(torch.randn(3, tokens, 6))
    assert frames.shape == (3, *shape) and frames.dtype == torch.uint8
    assert (frames.float() - sample.float().mean(dim=0)).abs().max() <= 0.51


def test_it_learns_to_draw_and_sends_no_gradient_to_the_latents() -> None:
    torch.manual_seed(0)
    latents = torch.rand(64, 1, 2)
    frames = torch.zeros(64, 3, 16, 16, dtype=torch.uint8)
    for frame, (row, column) in zip(frames, (latents[:, 0] * 12).int().tolist(), strict=True):
        frame[:, row : row + 4, column : column + 4] = 255
    objective = PixelDecoding(PixelDecoder(PixelDecoderConfig(width=32), 1, 2, [3, 16, 16]), latents, frames)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-2)
    batch = Batch(0, range(64), views=(latents.requires_grad_(), frames))
    for _ in range(120):
        optimizer.zero_grad()
        objective(batch)["loss"].backward()
        optimizer.step()
    found = objective.monitor(batch)
    assert found["pixel_error"] < 0.5 * found["mean_frame_error"]
    assert latents.grad is None
    assert all(p.grad is not None for p in objective.parameters())


def test_what_never_changes_still_counts() -> None:
    frames = torch.zeros(8, 3, 16, 16, dtype=torch.uint8)
    frames[::2, :, 4:8, 4:8] = 255
    objective = PixelDecoding(PixelDecoder(SMALL, 1, 2, [3, 16, 16]), torch.rand(8, 1, 2), frames)
    assert objective.weight.min() > 0
    assert objective.weight[0, 5, 5] > 5 * objective.weight[0, 0, 0]


def test_a_decoder_is_loaded_for_its_own_model_only(tiny_world_model: WorldModel, tmp_path: Path) -> None:
    tiny_world_model.save(tmp_path / "model")
    name = directory_hash(tmp_path / "model")
    decoder = PixelDecoder(SMALL, 1, 8, [3, 32, 32])
    torch.nn.init.normal_(decoder.pixels.weight)
    decoder.save(tmp_path / "model/decoder", name)
    assert directory_hash(tmp_path / "model") == name  # a part beside the model changes nothing of it
    loaded = PixelDecoder.load(tmp_path / "model/decoder", tmp_path / "model")
    latents = torch.randn(4, 1, 8)
    assert torch.equal(loaded.frames(latents), decoder.frames(latents))
    with torch.no_grad():
        tiny_world_model.dynamics.action_mean.add_(1)
    tiny_world_model.save(tmp_path / "other")
    with pytest.raises(ValueError, match="latents of another model"):
        PixelDecoder.load(tmp_path / "model/decoder", tmp_path / "other")
    with pytest.raises(FileNotFoundError, match="no model"):
        PixelDecoder.load(tmp_path / "nothing")
