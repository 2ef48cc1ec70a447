"""Cached latents: with a frozen encoder, every frame is encoded once."""

from __future__ import annotations

from pathlib import Path

import torch
from tqdm import tqdm

from worldmodel.data.episodes import EpisodeStore, EpisodeWriter
from worldmodel.models.video_encoder import VideoEncoder


@torch.inference_mode()
def cache_latents(
    encoder: VideoEncoder, store: EpisodeStore, path: str | Path, encoder_hash: str
) -> EpisodeStore:
    """Encode all frames of ``store`` step by step and keep the tokens, or finish what an interrupted call began.

    The cache is itself an episode store, with ``tokens (T+1, N, D)`` float32 and ``actions (T, K, A)`` per episode.
    Each episode is encoded by itself, so the result does not depend on where an interruption fell.

    Args:
        encoder: The frozen encoder.
        store: Episodes with ``frames``.
        path: Directory of the cache.
        encoder_hash: Names the encoder's weights; a cache made with others is refused.

    Raises:
        ValueError: ``path`` holds the latents of another encoder or other data.
        OSError: The disk is full.
    """
    meta = {**store.meta, "data": store.hash, "encoder": encoder_hash, "window": 1}
    writer = EpisodeWriter(path, meta)
    device = next(encoder.parameters()).device
    todo = [i for i, entry in enumerate(store.entries) if entry["index"] not in writer.indices]
    for position in tqdm(todo, desc="encode", unit="episode", disable=None, leave=False):
        episode = store[position]
        frames = torch.from_numpy(episode["frames"][:])[None].to(device)
        tokens = encoder.encode_steps(frames)[0].float().cpu().numpy()
        writer.write(store.entries[position]["index"], {"tokens": tokens, "actions": episode["actions"][:]})
    return EpisodeStore(path)
