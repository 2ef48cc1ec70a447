"""Rank and sources of variance, on tokens made to order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.worldmodel.squares import squares
from worldmodel.evaluation.representation import describe_tokens
from worldmodel.models.video_encoder import VideoEncoder, VideoEncoderConfig
from worldmodel.training.monitors import effective_rank


class Ready(nn.Module):
    """Its clips are tokens already."""

    def encode(self, clip: Tensor) -> Tensor:
        return clip


def describe(
    position: float, clip: float, content: float, batches: tuple[int, ...] = (40, 24)
) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    places = position * noise(1, 4, 9, 16)

    def made() -> Iterator[Tensor]:
        for size in batches:
            yield 3 + places + clip * noise(size, 1, 1, 16) + content * noise(size, 4, 9, 16)

    return describe_tokens(Ready(), made())  # type: ignore[arg-type]


def test_shares_say_what_the_variance_is_about() -> None:
    assert describe(1, 0, 0)["position_share"] == pytest.approx(1, abs=1e-6)
    assert describe(0, 1, 0)["clip_share"] == pytest.approx(1, abs=1e-6)
    assert describe(0, 0, 1)["content_share"] > 0.9
    mixed = describe(1, 1, 1)
    shares = [mixed[f"{name}_share"] for name in ("position", "clip", "content")]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.06)
    assert sum(shares) == pytest.approx(1)
    assert mixed["clips"] == 64
    assert mixed["token_std"] == pytest.approx(3**0.5, rel=0.05)


def test_a_sum_over_batches_is_the_whole() -> None:
    encoder = VideoEncoder(
        VideoEncoderConfig(image_size=32, frames=4, patch_size=8, tubelet=2, width=24, depth=1, heads=2)
    ).eval()
    video = squares(range(10))
    figures = describe_tokens(encoder, [video[:4], video[4:7], video[7:]])
    with torch.no_grad():
        tokens = encoder.encode(video).flatten(1, 2)
    rows = tokens.flatten(0, 1)
    assert figures["token_rank"] == pytest.approx(effective_rank(rows, max_rows=len(rows)), rel=1e-3)
    assert figures["token_std"] == pytest.approx(float(rows.var(dim=0, correction=0).mean().sqrt()), rel=1e-4)
    assert figures["clip_rank"] == pytest.approx(effective_rank(tokens.mean(dim=1)), rel=1e-3)


def test_too_few_clips_or_clips_of_two_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 clips; there is 1"):
        describe(1, 1, 1, batches=(1,))
    with pytest.raises(ValueError, match="clips of one size are needed; these have 8 and 4 tokens"):
        describe_tokens(Ready(), [torch.rand(2, 2, 4, 3), torch.rand(2, 1, 4, 3)])  # type: ignore[arg-type]
