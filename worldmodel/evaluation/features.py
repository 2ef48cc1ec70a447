"""Features of a frozen encoder: computed once, kept on disk, read again by every probe.

A feature cache is a folder of small safetensors files (shards), each written atomically: an interrupted extraction goes
on with the next shard. The folder's name is a hash of all that the features depend on. Shards with a sample that could
not be read are made again: what stood in the way (a lost network drive, rights, a missing codec) may be gone.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from worldmodel.atomic import write_atomic, write_json
from worldmodel.data.loader import ClipLoader
from worldmodel.evaluation.labelled import Sample
from worldmodel.evaluation.views import ClipSamples
from worldmodel.models.video_encoder import VideoEncoder

SHARD = 16  # samples per file, at most
SHARD_BYTES = 2**27  # of their clips, at most
IN_MEMORY = 2**30  # bytes of tokens that are kept in memory; more are read from the disk as they are needed


class Features:
    """What an encoder made of samples.

    Attributes:
        pooled: Mean over all tokens of all segments ``(n, crops, F)`` float32; layers side by side.
        errors: Samples that could not be read, and why; their features are zeros.
    """

    def __init__(self, folder: Path, count: int, shard: int) -> None:
        self._shard = shard
        self._files = [_file(folder, number) for number in range(math.ceil(count / shard))]
        self._open: dict[int, Any] = {}
        self._memory: dict[int, Tensor] = {}
        self._keep = True
        self.errors: dict[int, str] = {}
        pooled, size = [], 0
        for number, file in enumerate(self._files):
            with safe_open(file, "pt") as content:
                pooled.append(content.get_tensor("pooled"))
                notes = content.metadata() or {}
                for row, text in notes.items():
                    if row.isdecimal():
                        self.errors[number * shard + int(row)] = text
            size += file.stat().st_size
        self._keep = size <= IN_MEMORY
        self.pooled = torch.cat(pooled)

    def __len__(self) -> int:
        return len(self.pooled)

    def read(self, kind: str, rows: Sequence[int], crop: int = 0) -> Tensor:
        """What a probe reads of some samples, float32: ``pooled (b, F)`` or ``tokens (b, L, D)``."""
        if kind == "pooled":
            return self.pooled[list(rows), crop]
        return torch.stack(
            [self._token_rows(row // self._shard)[row % self._shard, crop] for row in rows]
        ).float()

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
        status = os.stat(sample.path.partition("::")[0])
        digest.update(f"\n{sample.key}|{status.st_size}|{status.st_mtime_ns}".encode())
    return root / digest.hexdigest()[:16]


@dataclass(frozen=True)
class Extraction:
    """One encoder, on its device, and where its features go.

    Attributes:
        encoder: Frozen.
        folder: Of the cache, from ``feature_folder``.
        description: Goes into the folder, for people.
    """

    encoder: VideoEncoder
    folder: Path
    description: dict[str, Any]


def extract(
    extractions: Sequence[Extraction],
    clips: ClipSamples,
    *,
    layers: Sequence[int] = (),
    tokens: bool = False,
    precision: str = "fp32",
    batch_size: int = 16,
    workers: int = 0,
    label: str = "features",
) -> list[Features]:
    """Encode all samples, or finish what an interrupted call began. Several encoders share one reading of the files.

    Args:
        extractions: Encoders and their caches.
        clips: The samples' clips.
        layers: Layers to read, counted from 0; empty: the encoder's output.
        tokens: Keep all tokens (float16) and not only their mean.
        precision: ``fp32`` or ``bf16`` (autocast).
        batch_size: Clips that are encoded at a time.
        workers: Processes that decode; 0: in this one.
        label: Stands before the progress bar.

    Raises:
        ValueError: The features are not finite.
        OSError: The disk is full, or has no room for the tokens; or a worker died.
    """
    size = shard_size(clips)
    shards = range(math.ceil(len(clips) / size))
    todo: dict[int, list[Extraction]] = {}
    for extraction in extractions:
        extraction.folder.mkdir(parents=True, exist_ok=True)
        write_json(extraction.folder / "description.json", {**extraction.description, "samples": len(clips)})
        for shard in shards:
            if not _is_whole(_file(extraction.folder, shard)):
                todo.setdefault(shard, []).append(extraction)
    missing = sorted(todo)
    rows = [range(shard * size, min(len(clips), (shard + 1) * size)) for shard in missing]
    total = sum(map(len, rows))
    loader = ClipLoader(clips, lambda step: rows[step] if step < len(rows) else range(0), workers)
    with loader, tqdm(total=total, desc=label, unit="sample", disable=None, leave=False) as bar:
        for step, shard in enumerate(missing):
            read = loader(step)
            for extraction in todo[shard]:
                content = encode_clips(
                    extraction.encoder, read["clips"], layers, precision, batch_size, tokens
                )
                _check(content, [clips.samples[row].path for row in rows[step]])
                if tokens and step == 0:
                    _check_room(extraction.folder, content["tokens"].nbytes // len(rows[0]) * total)
                _write(_file(extraction.folder, shard), content, read["error"])
            bar.update(len(rows[step]))
    return [Features(extraction.folder, len(clips), size) for extraction in extractions]


def shard_size(clips: ClipSamples) -> int:
    """Samples per file: fewer where a sample has many views."""
    return max(1, min(SHARD, SHARD_BYTES // math.prod(clips.shape)))


def _file(folder: Path, shard: int) -> Path:
    return folder / f"{shard:06}.safetensors"


def _is_whole(file: Path) -> bool:
    try:
        with safe_open(file, "pt") as content:
            errors = any(key.isdecimal() for key in content.metadata() or {})
            return "pooled" in content.keys() and not errors  # noqa: SIM118 (it is no dict)
    except (OSError, SafetensorError):
        return False


def _write(file: Path, content: dict[str, Tensor], errors: Sequence[str]) -> None:
    """One shard; what could not be read has zeros for features, and the reason beside them."""
    for row, error in enumerate(errors):
        if error:
            for tensor in content.values():
                tensor[row] = 0
    notes = {str(row): error for row, error in enumerate(errors) if error}
    write_atomic(file, lambda path: save_file(content, path, metadata=notes))


def _check(content: dict[str, Tensor], paths: Sequence[str]) -> None:
    finite = content["pooled"].flatten(1).isfinite().all(dim=1)
    if "tokens" in content:
        finite &= content["tokens"].flatten(1).isfinite().all(dim=1)
    if not finite.all():
        path = paths[int((~finite).nonzero()[0])]
        raise ValueError(
            f"the features of {path} are not finite; is the model sound? If it is, use precision=fp32"
        )


@torch.no_grad()
def encode_clips(
    encoder: VideoEncoder, clips: Tensor, layers: Sequence[int], precision: str, batch_size: int, tokens: bool
) -> dict[str, Tensor]:
    """What probes read of ``clips (n, crops, segments, T, C, H, W)``, on the CPU.

    Returns:
        ``pooled (n, crops, layers * D)`` float32 and, if wanted, ``tokens (n, crops, layers * segments * P * N, D)``
        float16.
    """
    device = next(encoder.parameters()).device
    views = clips.shape[:3]
    pooled, kept = [], []
    for batch in clips.flatten(0, 2).split(batch_size):
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            encoded = encode(encoder, batch.to(device), layers).float()  # (b, L, P * N, D)
        pooled.append(encoded.mean(dim=2).cpu())
        if tokens:
            kept.append(encoded.half().cpu())
    # All segments have equally many tokens, so the mean of their means is that of all tokens.
    content = {"pooled": torch.cat(pooled).unflatten(0, views).mean(dim=2).flatten(2)}
    if tokens:
        by_layer = torch.cat(kept).unflatten(0, views).movedim(3, 2)  # (n, crops, L, segments, P * N, D)
        content["tokens"] = by_layer.flatten(2, 4).contiguous()
    return content


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
