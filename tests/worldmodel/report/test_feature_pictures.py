"""Colours of features: one basis, fixed signs, robust range, foreground; long videos; the strip."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from worldmodel.report.feature_film import Film, Painter, read_film, side_by_side, strip_png
from worldmodel.report.feature_pictures import encode_video, fit_basis, pca_features, place_mean, upsample


def planted(noise: float = 0.01) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens ``(P, rows, columns, D)`` with three strong directions, and the values along them."""
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(4, 6, 6, 3, generator=generator) ** 2 * torch.tensor([9.0, 4.0, 1.0])
    directions = torch.linalg.qr(torch.randn(16, 3, generator=generator))[0]
    return values @ directions.T + noise * torch.randn(4, 6, 6, 16, generator=generator) + 5, values


def test_colours_are_the_strongest_directions_in_order() -> None:
    tokens, values = planted()
    colors = pca_features(tokens.flatten(1, 2), (6, 6))
    assert colors.shape == (4, 6, 6, 3)
    assert colors.min() == 0
    assert colors.max() == 1
    for i in range(3):
        correlation = np.corrcoef(colors[..., i].ravel(), values[..., i].numpy().ravel())[0, 1]
        assert correlation > 0.97, i  # positive: the planted values reach further upwards


def test_signs_do_not_follow_the_linear_algebra_library(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, _ = planted()
    before = fit_basis(tokens).axes
    eigh = torch.linalg.eigh

    class Turned:
        def __init__(self, matrix: torch.Tensor) -> None:
            self.eigenvectors = -eigh(matrix).eigenvectors

    monkeypatch.setattr(torch.linalg, "eigh", Turned)
    torch.testing.assert_close(fit_basis(tokens).axes, before)


def test_a_few_extreme_tokens_do_not_dull_the_rest() -> None:
    tokens, _ = planted()
    calm = fit_basis(tokens, percentile=1).colors(tokens).std()
    tokens[0, 0, 0] += 1000 * fit_basis(tokens).axes[:, 0]
    assert fit_basis(tokens, percentile=1).colors(tokens)[1:].std() > 0.5 * calm


def test_foreground_is_what_does_not_touch_the_border() -> None:
    for sign in (1.0, -1.0):
        tokens = 0.1 * torch.randn(2, 8, 8, 16, generator=torch.Generator().manual_seed(1))
        tokens[:, 2:6, 2:6, 0] += 5 * sign
        colors = fit_basis(tokens, foreground=True).colors(tokens)
        outside = torch.ones(8, 8, dtype=torch.bool)
        outside[2:6, 2:6] = False
        assert (colors[:, outside] == colors[0, 0, 0, 0]).all()
        assert colors[:, ~outside].std() > 0.1


def test_wrong_tokens_are_errors() -> None:
    with pytest.raises(ValueError, match="do not fill a grid of 3 x 3"):
        pca_features(torch.zeros(2, 8, 16), (3, 3))
    with pytest.raises(ValueError, match="not finite"):
        pca_features(torch.full((2, 9, 16), float("nan")), (3, 3))


def test_a_clip_is_encoded_as_the_encoder_does(fake: Any) -> None:
    encoder, frames = fake.make_encoder(), fake.make_frames(4)
    with torch.no_grad():
        wanted = encoder.encode(torch.from_numpy(frames)[None])[0].reshape(2, 4, 4, 48)
    torch.testing.assert_close(encode_video(encoder, frames), wanted)


def test_long_videos_are_covered_by_overlapping_clips(fake: Any) -> None:
    encoder, frames = fake.make_encoder(frames=8), fake.make_frames(19)
    tokens = encode_video(encoder, frames)
    assert tokens.shape == (10, 4, 4, 48)  # 19 frames fill 10 tubelets with the last one repeated
    with torch.no_grad():
        first = encoder.encode(torch.from_numpy(frames[:8])[None])[0].unflatten(1, (4, 4))
    torch.testing.assert_close(tokens[:2], first[:2])  # covered by the first clip alone
    assert not torch.allclose(tokens[2], first[2])  # an average of two clips


def test_what_all_clips_share_is_subtracted(fake: Any) -> None:
    encoder, bank = fake.make_encoder(), fake.make_bank()
    mean = place_mean(encoder, bank.frames)
    plain = encode_video(encoder, bank.frames[0])
    torch.testing.assert_close(encode_video(encoder, bank.frames[0], place_mean=mean), plain - mean)
    assert place_mean(encoder, bank.frames, scale=2).shape == (2, 8, 8, 48)


def test_a_larger_input_gives_a_finer_grid_and_any_shape_is_taken(fake: Any) -> None:
    encoder = fake.make_encoder()
    assert encode_video(encoder, fake.make_frames(4), scale=2).shape == (2, 8, 8, 48)
    painter = Painter.of(encoder, fake.make_bank().frames)
    wide = Film("wide", fake.make_frames(6, 32, 48), 4.0)
    (colors,) = painter.paint([wide])  # the place mean is stretched to the wider grid
    assert colors.shape == (6, 3, 32, 48)
    assert colors.dtype == np.uint8


def test_blocks_and_smooth_pictures() -> None:
    colors = np.zeros((2, 2, 2, 3), dtype=np.float32)
    colors[0, 0, 0] = 1
    blocks = upsample(colors, 4, (8, 8), smooth=False)
    assert blocks.shape == (4, 3, 8, 8)
    assert (blocks[:2, :, :4, :4] == 255).all()
    assert blocks.sum() == 255 * 2 * 3 * 16
    assert len(np.unique(upsample(colors, 4, (8, 8)))) > 4


def test_strip_and_side_by_side(fake: Any) -> None:
    shown = Film("a", fake.make_frames(12), 4.0, 1.0)
    colors = np.zeros_like(shown.frames)
    picture = Image.open(io.BytesIO(strip_png(shown, {"Trained": colors}, count=5)))
    assert picture.width > 2 * 5 * 100
    array = np.asarray(picture.convert("RGB"))
    assert (array[-60, 300] == 0).all()  # the lower row is the black one
    joined = side_by_side([shown.frames, colors], height=64)
    assert joined.shape == (12, 3, 64, 64 + 8 + 64)
    assert (joined[..., 64:72] == 255).all()


def test_a_piece_of_a_real_file(tmp_path: Path, fake: Any) -> None:
    from worldmodel.report.video import encode_mp4

    (tmp_path / "v.mp4").write_bytes(encode_mp4(fake.make_frames(24, 32, 64), fps=8, side=64))
    square = read_film(tmp_path / "v.mp4", 32, fps=4, count=6)
    assert square.frames.shape == (6, 3, 32, 32)
    assert (square.fps, square.name) == (4.0, "v")
    assert square.start == pytest.approx((23 / 8 - 5 / 4) / 2)
    assert read_film(tmp_path / "v.mp4", 16, count=3, start=0, multiple=8).frames.shape == (3, 3, 16, 32)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(ValueError, match=r"text\.mp4"):
        read_film(tmp_path / "text.mp4", 32)
