"""Cached latents: the same as encoding each time, and resumable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from worldmodel.data.episodes import EpisodeStore
from worldmodel.data.latents import cache_latents
from worldmodel.models.video_encoder import VideoEncoder, VideoEncoderConfig


def test_the_cache_holds_what_encoding_gives_and_can_be_finished_later(
    store: EpisodeStore, tiny_encoder: VideoEncoderConfig, tmp_path: Path
) -> None:
    encoder = VideoEncoder(tiny_encoder).eval()
    cache = cache_latents(encoder, store, tmp_path / "latents", "hash")
    frames = torch.from_numpy(store[3]["frames"][:])[None]
    with torch.no_grad():
        np.testing.assert_allclose(cache[3]["tokens"][:], encoder.encode_steps(frames)[0].numpy(), atol=1e-6)
    np.testing.assert_array_equal(cache[3]["actions"][:], store[3]["actions"][:])

    # An interrupted cache: the last five episodes are missing.
    manifest = tmp_path / "latents/manifest.jsonl"
    whole = manifest.read_bytes()
    manifest.write_bytes(b"".join(whole.splitlines(keepends=True)[:7]))
    assert cache_latents(encoder, store, tmp_path / "latents", "hash").hash == cache.hash
    assert manifest.read_bytes() == whole


def test_the_cache_of_another_encoder_is_refused(
    store: EpisodeStore, tiny_encoder: VideoEncoderConfig, tmp_path: Path
) -> None:
    encoder = VideoEncoder(tiny_encoder).eval()
    cache_latents(encoder, store, tmp_path / "latents", "one")
    with pytest.raises(ValueError, match="encoder='one', now encoder='two'"):
        cache_latents(encoder, store, tmp_path / "latents", "two")
