"""Cached latents: with a frozen encoder, every frame is encoded once, and training reads the tokens."""

from __future__ import annotations

import errno
import logging
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from worldmodel.atomic import read_json
from worldmodel.data.episode_files import read_manifest
from worldmodel.data.episodes import EpisodeStore, EpisodeWriter

logger = logging.getLogger("worldmodel")

#: float16 rounds to 11 bits: a relative error of 2^-11 (0.05%) at most, for values from 6e-5 to 65504. bfloat16 takes
#: as much space and rounds to 8 bits, so there is no reason to store it.
DTYPES = ("float32", "float16")
#: Folder of what several processes encode, until all is there.
SHARES = "shares"
_FRAMES_ON_CPU = 64  # at once: enough to fill a CPU's caches; on a GPU, as many as come to
_BYTES_ON_GPU = 2**26  # of uint8 pixels


class StepEncoder(Protocol):
    """What encodes frames, each without regard to later ones; see ``VideoEncoder.encode_steps``."""

    def encode_steps(self, frames: Tensor, window: int = 1) -> Tensor: ...

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]: ...


class _Group(NamedTuple):
    """Episodes that are encoded side by side: all those from ``start`` to ``stop``, or the frames of a long one."""

    start: int
    stop: int


def cache_latents(
    encoder: StepEncoder,
    store: EpisodeStore,
    path: str | Path,
    encoder_hash: str,
    *,
    window: int = 1,
    stride: int = 1,
    dtype: str = "float32",
    batch_frames: int = 0,
) -> EpisodeStore:
    """Encode all frames of ``store`` step by step and keep the tokens, or finish what an interrupted call began.

    The cache is itself an episode store, with ``tokens (T+1, N, D)``, ``actions (T, K, A)`` and, where the data have
    it, ``proprio (T+1, Q)``; ``Windows(cache, episodes, steps, "tokens")`` reads it. In float32, on a CPU, tokens are
    bit by bit what ``encode_steps`` gives for the episode's frames, 64 at once; with other batches the order of
    summation differs, and so do they by rounding.

    Which frames are encoded together depends on the data and ``batch_frames`` only, so that the result does not depend
    on where an interruption fell.

    Args:
        encoder: The frozen encoder.
        store: Episodes with ``frames``.
        path: Directory of the cache.
        encoder_hash: Names the encoder's weights; a cache made with others is refused.
        window: Frames that each step sees, itself included; see ``encode_steps``.
        stride: Steps of the data between these frames: those of one model step, as ``Windows`` takes them.
        dtype: How tokens are stored: ``"float32"``, or ``"float16"`` in half the space, with a relative error of 2^-11
            at most. They are read as float32.
        batch_frames: Frames that are encoded at once; 0: 64 on a CPU, 64 MiB of pixels on a GPU. A cache that was begun
            is finished as it began.

    Raises:
        ValueError: ``path`` holds the latents of another encoder, other data, another window or type; or tokens do not
            fit into float16.
        OSError: The disk is full, or has too little room for what is missing; this is seen before anything is encoded.
    """
    share = (0, 1)
    encode_share(encoder, store, path, encoder_hash, share, window, stride, dtype, batch_frames)
    return join_shares(path, store)


@torch.inference_mode()
def encode_share(
    encoder: StepEncoder,
    store: EpisodeStore,
    path: str | Path,
    encoder_hash: str,
    share: tuple[int, int],
    window: int = 1,
    stride: int = 1,
    dtype: str = "float32",
    batch_frames: int = 0,
) -> None:
    """One process's part of ``cache_latents``, where several encode together.

    Once all of them have returned, one calls ``join_shares``: the files are then those of a single process, also if the
    number of processes changed on the way.

    Args:
        share: ``(i, n)``: this is the ``i``-th of ``n`` processes, from 0.

    Raises:
        ValueError, OSError: As ``cache_latents``.
    """
    path = Path(path).expanduser()
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r} of cached latents is unknown; choose {' or '.join(DTYPES)}")
    wanted = {"data": store.hash, "encoder": encoder_hash, "window": window, "dtype": dtype}
    if window > 1 and stride > 1:
        wanted["stride"] = stride
    found = _check_fresh(path, wanted)
    shares = _shares(path)
    for place in shares:
        found = found or _check_fresh(place, wanted)
    device = next(encoder.parameters()).device
    limit = int(found.get("batch_frames", 0)) or batch_frames or _default_batch(store, device, window)
    about = {key: value for key, value in store.meta.items() if key != "codecs"}
    # Shares stay apart until all is there: the cache has its episodes in the data's order.
    apart = share[1] > 1 or bool(shares)
    place = path / SHARES / f"{share[0]}-of-{share[1]}" if apart else path
    writer = EpisodeWriter(place, {**about, **wanted, "batch_frames": limit})
    done = writer.indices.union(*(_indices(other) for other in [path, *shares]))

    lengths = store.steps + 1
    missing = np.array([entry["index"] not in done for entry in store.entries])
    groups = _groups(lengths, limit)[share[0] :: share[1]]
    groups = [group for group in groups if missing[group.start : group.stop].any()]
    frames = sum(int(lengths[g.start : g.stop][missing[g.start : g.stop]].sum()) for g in groups)
    if frames:
        first = torch.from_numpy(store[groups[0].start]["frames"][:1])[None].to(device)
        shape = tuple(encoder.encode_steps(first, window=window).shape[2:])
        _check_room(place, frames, shape, np.dtype(dtype))

    def write(group: _Group, tokens: list[np.ndarray]) -> None:
        for position, array in zip(range(group.start, group.stop), tokens, strict=True):
            if missing[position]:
                _write(writer, store, position, array, np.dtype(dtype))

    # While a group is encoded, the next one is read and the last one written.
    quiet = True if share[0] else None
    progress = tqdm(total=frames, desc="encode", unit="frame", disable=quiet, leave=False)
    with progress, ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writing:
        written: Future[None] | None = None
        read = [reader.submit(_read, store, group) for group in groups[:1]]
        for number, group in enumerate(groups):
            episodes = read.pop().result()
            if number + 1 < len(groups):
                read.append(reader.submit(_read, store, groups[number + 1]))
            tokens = _encode(encoder, episodes, window, stride, limit, device)
            if written is not None:
                written.result()
            written = writing.submit(write, group, tokens)
            progress.update(sum(int(lengths[i]) for i in range(group.start, group.stop) if missing[i]))
        if written is not None:
            written.result()


def join_shares(path: str | Path, store: EpisodeStore) -> EpisodeStore:
    """Make one cache of the shares that several processes encoded, in the order of ``store``.

    Interrupted, it goes on where it stopped; it needs room for one more episode.

    Raises:
        ValueError: Something is missing: a process has not finished its share.
    """
    path = Path(path).expanduser()
    shares = [EpisodeStore(place) for place in _shares(path) if _indices(place)]
    if shares:
        found = {entry["index"]: (part, i) for part in shares for i, entry in enumerate(part.entries)}
        writer = EpisodeWriter(path, shares[0].meta)
        for entry in store.entries:
            index = entry["index"]
            if index in writer.indices:
                continue
            if index not in found:
                raise ValueError(f"{path} has no latents of episode {index} yet; run the same command again")
            part, position = found[index]
            writer.write(index, {name: stored[:] for name, stored in part[position].items()})
            (part.path / part.entries[position]["file"]).unlink()
    shutil.rmtree(path / SHARES, ignore_errors=True)
    return EpisodeStore(path)


def _shares(path: Path) -> list[Path]:
    """Directories of the processes that encode, or once encoded, parts of a cache."""
    return sorted(file.parent for file in (path / SHARES).glob("*/meta.json"))


def _indices(path: Path) -> set[int]:
    """Of the episodes in a cache or a share of it."""
    return {entry["index"] for entry in read_manifest(path / "manifest.jsonl")}


def cache_bytes(frames: int, shape: tuple[int, ...], dtype: np.dtype) -> int:
    """About how large the cached tokens ``(N, D)`` of so many frames are."""
    return int(1.01 * frames * int(np.prod(shape)) * dtype.itemsize)


def _check_fresh(path: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """The metadata of a cache that was begun; none if there is none.

    Raises:
        ValueError: It is a cache of something else.
    """
    if not (path / "meta.json").is_file():
        return {}
    found: dict[str, Any] = read_json(path / "meta.json")
    for key, value in wanted.items():
        if found.get(key) != value:
            raise ValueError(
                f"{path} holds latents that were made with {key}={found.get(key)!r}, now {key}={value!r} is asked for; "
                "delete that directory to encode again, or choose another"
            )
    return found


def _default_batch(store: EpisodeStore, device: torch.device, window: int) -> int:
    if device.type == "cpu":
        return _FRAMES_ON_CPU
    pixels = int(np.prod(store[0]["frames"].shape[1:]))
    return int(np.clip(_BYTES_ON_GPU // (pixels * max(window, 2)), 1, 4096))


def _groups(lengths: np.ndarray, limit: int) -> list[_Group]:
    """Consecutive episodes that, filled up to the longest of them, have at most ``limit`` frames; or a single one."""
    groups: list[_Group] = []
    start, longest = 0, 0
    for position, length in enumerate(lengths.tolist()):
        if position > start and max(longest, length) * (position + 1 - start) > limit:
            groups.append(_Group(start, position))
            start, longest = position, 0
        longest = max(longest, length)
    return [*groups, _Group(start, len(lengths))]


def _check_room(path: Path, frames: int, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """See that the tokens fit on the disk.

    Raises:
        OSError: They do not.
    """
    needed, free = cache_bytes(frames, shape, dtype), shutil.disk_usage(path).free
    logger.info("encoding %d frames into %s: %.2f GB of %s", frames, path, needed / 1e9, dtype)
    if needed > free:
        hint = "make room" if dtype == np.float16 else "make room, or store float16, which takes half"
        raise OSError(
            errno.ENOSPC,
            f"the latents of {frames} frames take {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; {hint}",
            str(path),
        )


def _read(store: EpisodeStore, group: _Group) -> list[np.ndarray]:
    episodes = [store[position]["frames"][:] for position in range(group.start, group.stop)]
    for position, frames in zip(range(group.start, group.stop), episodes, strict=True):
        if frames.shape[1:] != episodes[0].shape[1:]:
            raise ValueError(
                f"frames of episode {store.entries[position]['index']} of {store.path} are {frames.shape[1:]}, those "
                f"before it {episodes[0].shape[1:]}; convert the dataset to one size"
            )
    return episodes


def _encode(
    encoder: StepEncoder,
    episodes: list[np.ndarray],
    window: int,
    stride: int,
    limit: int,
    device: torch.device,
) -> list[np.ndarray]:
    """The tokens of each episode, ``(T+1, N, D)`` float32."""

    def tokens(frames: np.ndarray) -> Tensor:
        pixels = torch.from_numpy(frames).to(device)
        if window == 1 or stride == 1:
            return encoder.encode_steps(pixels, window=window).float().cpu()
        # Each step sees frames a stride apart: the frames with the same remainder are a clip of their own.
        parts = [
            encoder.encode_steps(pixels[:, i::stride], window=window)
            for i in range(min(stride, pixels.shape[1]))
        ]
        found = parts[0].new_empty((*pixels.shape[:2], *parts[0].shape[2:]))
        for i, part in enumerate(parts):
            found[:, i::stride] = part
        return found.float().cpu()

    longest = max(map(len, episodes))
    if len(episodes) == 1:
        frames = episodes[0]
        parts = []
        for begin in range(0, longest, limit):
            # The frames before a part are what its first steps see; their own tokens are known already.
            seen = max(0, begin - (window - 1) * stride)
            parts.append(tokens(frames[None, seen : begin + limit])[0, begin - seen :])
        return [torch.cat(parts).numpy() if len(parts) > 1 else parts[0].numpy()]
    # Shorter episodes are filled up at their end, which no earlier step sees.
    filled = [
        np.concatenate([frames, np.repeat(frames[-1:], longest - len(frames), axis=0)]) for frames in episodes
    ]
    found = tokens(np.stack(filled)).numpy()
    return [row[: len(frames)] for row, frames in zip(found, episodes, strict=True)]


def _write(
    writer: EpisodeWriter, store: EpisodeStore, position: int, tokens: np.ndarray, dtype: np.dtype
) -> None:
    index, episode = store.entries[position]["index"], store[position]
    largest = float(np.abs(tokens).max())
    if dtype == np.float16 and not largest <= float(np.finfo(np.float16).max):
        raise ValueError(
            f"tokens of episode {index} of {store.path} reach {largest:.3g}, more than float16 can hold; store float32"
        )
    arrays = {"tokens": tokens.astype(dtype, copy=False)}
    arrays |= {name: episode[name][:] for name in ("actions", "proprio") if name in episode}
    writer.write(index, arrays)
