"""Features of a frozen encoder: computed once, kept on disk, read again by every probe.

A feature cache is a folder of small safetensors files (shards), each written atomically: an interrupted extraction goes
on with the next shard. The folder's name is a hash of all that the features depend on.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from worldmodel.atomic import write_atomic, write_json
from worldmodel.evaluation.labelled import Sample
from worldmodel.evaluation.views import ClipSamples
from worldmodel.models.video_encoder import VideoEncoder

SHARD = 32  # samples per file
IN_MEMORY = 2**30  # bytes of tokens that are kept in memory; more are read from the disk as they are needed


class Features:
    """What an encoder made of samples.

    Attributes:
        pooled: Mean over all tokens of all segments ``(n, crops, F)`` float32; layers side by side.
        errors: Samples that could not be read, and why; their features are zeros.
    """

    def __init__(self, folder: Path, count: int) -> None:
        self._files = [folder / f"{shard:06}.safetensors" for shard in range(math.ceil(count / SHARD))]
        self._open: dict[int, Any] = {}
        self._memory: dict[int, Tensor] = {}
        self._keep = True
        self.errors: dict[int, str] = {}
        pooled, size = [], 0
        for shard, file in enumerate(self._files):
            with safe_open(file, "pt") as content:
                pooled.append(content.get_tensor("pooled"))
                notes = content.metadata() or {}
                self.errors |= {
                    shard * SHARD + int(row): text for row, text in notes.items() if row.isdigit()
                }
            size += file.stat().st_size
        self._keep = size <= IN_MEMORY
        self.pooled = torch.cat(pooled)

    def __len__(self) -> int:
        return len(self.pooled)

    def read(self, kind: str, rows: Sequence[int], crop: int = 0) -> Tensor:
        """What a probe reads of some samples, float32: ``pooled (b, F)`` or ``tokens (b, L, D)``."""
        if kind == "pooled":
            return self.pooled[list(rows), crop]
        return torch.stack([self._token_rows(row // SHARD)[row % SHARD, crop] for row in rows]).float()

    @property
    def crops(self) -> int:
        return self.pooled.shape[1]

    def _token_rows(self, shard: int) -> Any:
        if shard in self._memory:
            return self._memory[shard]
        if shard not in self._open:
            self._open[shard] = safe_open(self._files[shard], "pt")
        if self._keep:
            self._memory[shard] = self._open[shard].get_tensor("tokens")
            return self._memory[shard]
        return self._open[shard].get_slice("tokens")


def feature_folder(root: Path, description: dict[str, Any], samples: Sequence[Sample]) -> Path:
    """The folder of the features of these samples, named after all that they depend on.

    Args:
        root: Where all feature caches live.
        description: Encoder, views and so on (JSON values).
        samples: The samples; a file that has changed counts as another one.
    """
    digest = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for sample in samples:
        status = os.stat(sample.path)
        digest.update(f"\n{sample.key}|{status.st_size}|{status.st_mtime_ns}".encode())
    return root / digest.hexdigest()[:16]


def extract(
    encoder: VideoEncoder,
    clips: ClipSamples,
    folder: Path,
    description: dict[str, Any],
    *,
    layers: Sequence[int] = (),
    tokens: bool = False,
    precision: str = "fp32",
    batch_size: int = 16,
    workers: int = 0,
    label: str = "features",
) -> Features:
    """Encode all samples, or finish what an interrupted call began.

    Args:
        encoder: The frozen encoder, on its device.
        clips: The samples' clips.
        folder: Of the cache, from ``feature_folder``.
        description: Goes into the folder, for people.
        layers: Layers to read, counted from 0; empty: the encoder's output.
        tokens: Keep all tokens (float16) and not only their mean.
        precision: ``fp32`` or ``bf16`` (autocast).
        batch_size: Clips that are encoded at a time.
        workers: Processes that decode; 0: in this one.
        label: Stands before the progress bar.

    Raises:
        ValueError: The features are not finite, or a cached file is damaged.
        OSError: The disk is full, or has no room for the tokens.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "description.json", {**description, "samples": len(clips), "tokens": tokens})
    shards = range(math.ceil(len(clips) / SHARD))
    missing = [shard for shard in shards if not _is_whole(folder / f"{shard:06}.safetensors")]
    todo = [row for shard in missing for row in _rows(shard, len(clips))]
    with tqdm(total=len(todo), desc=label, unit="clip", disable=None, leave=False) as bar:
        entries = _entries(clips, todo, workers)
        for shard in missing:
            _write_shard(encoder, entries, clips, shard, folder, layers, tokens, precision, batch_size, bar)
    return Features(folder, len(clips))


def _rows(shard: int, count: int) -> range:
    return range(shard * SHARD, min(count, (shard + 1) * SHARD))


def _is_whole(file: Path) -> bool:
    try:
        with safe_open(file, "pt") as content:
            return "pooled" in content.keys()  # noqa: SIM118 (it is no dict)
    except (OSError, SafetensorError):
        return False


def _entries(clips: ClipSamples, rows: list[int], workers: int) -> Any:
    """The entries of ``rows`` in their order, decoded by worker processes if wanted."""
    if not workers or len(rows) < 2:
        return (clips[row] for row in rows)
    loader: Any = torch.utils.data.DataLoader(
        torch.utils.data.Subset(clips, rows),  # type: ignore[arg-type]
        batch_size=None,
        num_workers=min(workers, len(rows)),
        multiprocessing_context="spawn",
        collate_fn=_as_it_is,
    )
    return iter(loader)


def _as_it_is(entry: Any) -> Any:
    return entry


@torch.inference_mode()
def _write_shard(
    encoder: VideoEncoder,
    entries: Any,
    clips: ClipSamples,
    shard: int,
    folder: Path,
    layers: Sequence[int],
    tokens: bool,
    precision: str,
    batch_size: int,
    bar: tqdm,
) -> None:
    pooled, kept, errors = [], [], {}
    rows = _rows(shard, len(clips))
    for position, row in enumerate(rows):
        entry = next(entries)
        encoded = encode_clips(
            encoder, torch.from_numpy(np.asarray(entry["clips"])), layers, precision, batch_size
        )
        if entry["error"]:
            errors[str(position)] = entry["error"]
            encoded.zero_()
        if not encoded.isfinite().all():
            raise ValueError(
                f"the features of {clips.samples[row].path} are not finite; is the model sound? Else use precision=fp32"
            )
        pooled.append(pool(encoded))
        if tokens:
            kept.append(encoded.flatten(1, 2).half().cpu())
            if row == 0:
                _check_room(folder, kept[0].nbytes * len(clips))
        bar.update()
    content = {"pooled": torch.stack(pooled).float().cpu()} | (
        {"tokens": torch.stack(kept)} if tokens else {}
    )
    write_atomic(folder / f"{shard:06}.safetensors", lambda file: save_file(content, file, metadata=errors))


def encode_clips(
    encoder: VideoEncoder, clips: Tensor, layers: Sequence[int], precision: str, batch_size: int
) -> Tensor:
    """Tokens ``(crops, L, segments * P * N, D)`` float32 of clips ``(crops, segments, T, C, H, W)``; ``L`` layers."""
    device = next(encoder.parameters()).device
    crops, segments = clips.shape[:2]
    parts = []
    for batch in clips.flatten(0, 1).split(batch_size):
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            parts.append(encode(encoder, batch.to(device), layers).float())
    encoded = torch.cat(parts)  # (crops * segments, L, P * N, D)
    return encoded.unflatten(0, (crops, segments)).movedim(1, 2).flatten(2, 3)


def encode(encoder: VideoEncoder, clips: Tensor, layers: Sequence[int]) -> Tensor:
    """Tokens ``(B, L, P * N, D)`` of some layers, or (``L = 1``) of the encoder's output."""
    levels: Sequence[Tensor] = encoder.encode_layers(clips, layers) if layers else (encoder.encode(clips),)
    return torch.stack([level.flatten(1, 2) for level in levels], dim=1)


def pool(encoded: Tensor) -> Tensor:
    """Tokens ``(B, L, n, D)`` to their mean, layers side by side: ``(B, L * D)``."""
    return encoded.mean(dim=2).flatten(1)


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > 0.95 * free:
        raise OSError(
            f"{folder}: all tokens would take {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free; take fewer "
            "segments or crops (views.*), or another disk (features=...)"
        )
