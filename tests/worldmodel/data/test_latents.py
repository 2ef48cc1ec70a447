"""Cached latents: the same as encoding each time, and resumable."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from worldmodel.data.episodes import EpisodeStore, EpisodeWriter
from worldmodel.data.latents import cache_latents, encode_share, join_shares
from worldmodel.data.windows import Windows
from worldmodel.models.video_encoder import VideoEncoder, VideoEncoderConfig

Make = Callable[..., dict[str, np.ndarray]]


@pytest.fixture
def ragged(tmp_path: Path, make_episode: Make) -> EpisodeStore:
    """Nine episodes of different lengths, with proprioception."""
    writer = EpisodeWriter(tmp_path / "ragged", {"env_id": "fake"})
    for index, steps in enumerate([3, 9, 4, 4, 11, 2, 23, 5, 3]):
        episode = make_episode(index, steps=steps)
        writer.write(index, {**episode, "proprio": episode["states"].astype(np.float32)})
    return EpisodeStore(tmp_path / "ragged")


def test_the_cache_holds_what_encoding_gives_and_can_be_finished_later(
    store: EpisodeStore, tiny_encoder: VideoEncoderConfig, tmp_path: Path
) -> None:
    encoder = VideoEncoder(tiny_encoder).eval()
    cache = cache_latents(encoder, store, tmp_path / "latents", "hash")
    frames = torch.from_numpy(store[3]["frames"][:])[None]
    with torch.no_grad():
        np.testing.assert_array_equal(cache[3]["tokens"][:], encoder.encode_steps(frames)[0].numpy())
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


@pytest.mark.parametrize("window", [1, 2, 4])
@pytest.mark.parametrize("batch_frames", [5, 16, 1000])  # parts of episodes, some side by side, all at once
def test_however_frames_are_put_together_the_tokens_are_those_of_the_episode(
    ragged: EpisodeStore, tiny_encoder: VideoEncoderConfig, tmp_path: Path, window: int, batch_frames: int
) -> None:
    encoder = VideoEncoder(tiny_encoder).eval()
    cache = cache_latents(
        encoder, ragged, tmp_path / "latents", "a", window=window, batch_frames=batch_frames
    )
    assert [entry["index"] for entry in cache.entries] == list(range(9))
    for position in range(9):
        frames = torch.from_numpy(ragged[position]["frames"][:])[None]
        with torch.no_grad():
            wanted = encoder.encode_steps(frames, window)[0].numpy()
        np.testing.assert_allclose(cache[position]["tokens"][:], wanted, atol=2e-6)
        np.testing.assert_array_equal(cache[position]["proprio"][:], ragged[position]["proprio"][:])


def test_the_result_does_not_depend_on_where_an_interruption_fell(
    ragged: EpisodeStore, tiny_encoder: VideoEncoderConfig, tmp_path: Path
) -> None:
    """Groups of episodes are encoded as wholes, so a group of which some were stored is rounded as before."""
    encoder = VideoEncoder(tiny_encoder).eval()
    whole = cache_latents(encoder, ragged, tmp_path / "whole", "a", window=2, batch_frames=16)
    lines = (whole.path / "manifest.jsonl").read_bytes().splitlines(keepends=True)
    for kept in range(9):
        part = tmp_path / f"part{kept}"
        shutil.copytree(whole.path, part)
        (part / "manifest.jsonl").write_bytes(b"".join(lines[:kept]))
        # What the batch was is known from the cache, so another default now changes nothing.
        assert cache_latents(encoder, ragged, part, "a", window=2).hash == whole.hash
        assert (part / "manifest.jsonl").read_bytes() == b"".join(lines)


def test_a_write_that_fails_ends_the_encoding_and_can_be_continued(
    ragged: EpisodeStore, tiny_encoder: VideoEncoderConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = VideoEncoder(tiny_encoder).eval()
    whole = cache_latents(encoder, ragged, tmp_path / "whole", "a", batch_frames=16)
    real = EpisodeWriter.write

    def full(writer: EpisodeWriter, index: int, arrays: dict[str, np.ndarray]) -> None:
        if index == 4:
            raise OSError(28, "No space left on device", str(writer.path))
        real(writer, index, arrays)

    monkeypatch.setattr(EpisodeWriter, "write", full)
    with pytest.raises(OSError, match="No space left"):
        cache_latents(encoder, ragged, tmp_path / "part", "a", batch_frames=16)
    monkeypatch.undo()
    assert len(EpisodeStore(tmp_path / "part")) == 4
    assert cache_latents(encoder, ragged, tmp_path / "part", "a", batch_frames=16).hash == whole.hash


def test_half_precision_halves_the_space_and_errs_by_what_it_says(
    ragged: EpisodeStore, tiny_encoder: VideoEncoderConfig, tmp_path: Path
) -> None:
    encoder = VideoEncoder(tiny_encoder).eval()
    whole = cache_latents(encoder, ragged, tmp_path / "whole", "a")
    half = cache_latents(encoder, ragged, tmp_path / "half", "a", dtype="float16")
    a, b = whole.gather("tokens"), half.gather("tokens")
    assert a.dtype == np.float32 and b.dtype == np.float16
    assert (np.abs(a - b.astype(np.float32)) <= np.abs(a) * 2.0**-11 + 6e-8).all()
    windows = Windows(half, range(9), 2, "tokens")
    assert windows.frames([0, 1]).dtype == np.float32  # what the head computes in

    with torch.no_grad():
        encoder.norm.weight.fill_(1e5)
    with pytest.raises(ValueError, match=r"tokens of episode 0 of .*ragged reach .* store float32"):
        cache_latents(encoder, ragged, tmp_path / "large", "b", dtype="float16")


def test_stale_caches_and_full_disks_are_refused_before_anything_is_encoded(
    ragged: EpisodeStore, store: EpisodeStore, tiny_encoder: VideoEncoderConfig, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    encoder = VideoEncoder(tiny_encoder).eval()
    path = tmp_path / "latents"
    cache_latents(encoder, ragged, path, "a")
    with pytest.raises(ValueError, match="window=1, now window=2 is asked for; delete that directory"):
        cache_latents(encoder, ragged, path, "a", window=2)
    with pytest.raises(ValueError, match="dtype='float32', now dtype='float16'"):
        cache_latents(encoder, ragged, path, "a", dtype="float16")
    with pytest.raises(ValueError, match=f"data='{ragged.hash}', now data='{store.hash}'"):
        cache_latents(encoder, store, path, "a")
    with pytest.raises(ValueError, match="dtype='bfloat16' of cached latents is unknown"):
        cache_latents(encoder, ragged, path, "a", dtype="bfloat16")

    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    assert len(cache_latents(encoder, ragged, path, "a")) == 9  # a finished cache needs no room
    with pytest.raises(
        OSError, match="latents of 73 frames take .* GB are free; make room, or store float16"
    ):
        cache_latents(encoder, ragged, tmp_path / "new", "a")
    assert not list((tmp_path / "new").glob("episodes/*"))


def content(cache: EpisodeStore) -> dict[str, bytes]:
    """Every file of a cache."""
    return {str(f.relative_to(cache.path)): f.read_bytes() for f in cache.path.rglob("*") if f.is_file()}


@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_make_the_files_of_one(
    ragged: EpisodeStore, tiny_encoder: VideoEncoderConfig, tmp_path: Path, processes: int
) -> None:
    encoder = VideoEncoder(tiny_encoder).eval()
    whole = cache_latents(encoder, ragged, tmp_path / "whole", "a", window=2, batch_frames=16)
    for part in reversed(range(processes)):
        share = (part, processes)
        encode_share(encoder, ragged, tmp_path / "parts", "a", share, window=2, batch_frames=16)
        if part:
            with pytest.raises(ValueError, match="no latents of episode .* yet; run the same command again"):
                join_shares(tmp_path / "parts", ragged)
    found = join_shares(tmp_path / "parts", ragged)
    assert content(found) == content(whole)
    assert content(join_shares(tmp_path / "parts", ragged)) == content(whole), "again, nothing happens"


def test_shares_that_were_interrupted_are_finished_by_another_number_of_processes(
    ragged: EpisodeStore, tiny_encoder: VideoEncoderConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = VideoEncoder(tiny_encoder).eval()
    whole = cache_latents(encoder, ragged, tmp_path / "whole", "a", batch_frames=16)
    part = tmp_path / "part"
    # One process began, then one of two did its share, and the other never came.
    shutil.copytree(whole.path, part)
    lines = (whole.path / "manifest.jsonl").read_bytes().splitlines(keepends=True)
    (part / "manifest.jsonl").write_bytes(b"".join(lines[:2]))
    encode_share(encoder, ragged, part, "a", (1, 2), batch_frames=16)
    real, calls = EpisodeWriter.write, list[int]()

    def killed(writer: EpisodeWriter, index: int, arrays: dict[str, np.ndarray]) -> None:
        calls.append(index)
        if writer.path == part and len(calls) > limit:
            raise KeyboardInterrupt
        real(writer, index, arrays)

    monkeypatch.setattr(EpisodeWriter, "write", killed)
    limit = 3
    with pytest.raises(KeyboardInterrupt):
        cache_latents(encoder, ragged, part, "a")  # interrupted while it joins
    already = {int(file.name.partition("-")[0]) for file in (part / "shares").iterdir()}
    assert already == {0, 1} and len(calls) > 3
    monkeypatch.undo()
    assert content(cache_latents(encoder, ragged, part, "a")) == content(whole)
    assert not (part / "shares").exists()


def test_a_history_is_a_stride_apart(
    ragged: EpisodeStore, tiny_encoder: VideoEncoderConfig, tmp_path: Path
) -> None:
    """As windows of the same stride see it: the cache gave each step the frame before it in the data."""
    encoder = VideoEncoder(tiny_encoder).eval()
    for limit in (5, 1000):
        cache = cache_latents(
            encoder, ragged, tmp_path / f"latents{limit}", "a", window=2, stride=3, batch_frames=limit
        )
        for position in (4, 5, 6):
            for first in range(3):
                frames = torch.from_numpy(ragged[position]["frames"][first::3])[None]
                if frames.shape[1]:
                    with torch.no_grad():
                        wanted = encoder.encode_steps(frames, 2)[0].numpy()
                    np.testing.assert_allclose(cache[position]["tokens"][first::3], wanted, atol=2e-6)
