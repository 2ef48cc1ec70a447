"""The window loader: the same batches whatever reads them, ahead of time, and errors where they belong."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from worldmodel.data.episodes import EpisodeStore, EpisodeWriter
from worldmodel.data.window_loader import WindowBatch, WindowLoader, read_batch
from worldmodel.data.windows import Windows
from worldmodel.seeding import KeyedOrder


def items_of(windows: Windows, seed: int = 0, batch: int = 7):  # type: ignore[no-untyped-def]
    order = KeyedOrder(len(windows), seed)
    return lambda step: [order[i] for i in range(step * batch, (step + 1) * batch)]


def same(a: WindowBatch, b: WindowBatch) -> bool:
    return all(
        x is None if y is None else torch.equal(x, y)
        for x, y in zip(vars(a).values(), vars(b).values(), strict=True)
    )


def test_batches_are_the_same_whatever_reads_them_and_can_be_drawn_again(store: EpisodeStore) -> None:
    windows = Windows(store, range(12), steps=2, history=2, pad=True)
    draw = items_of(windows)
    wanted = [read_batch(windows, draw(step)) for step in range(40)]  # over two epochs
    assert wanted[0].frames.dtype == torch.uint8 and wanted[0].frames.shape == (7, 5, 3, 32, 32)
    assert wanted[0].actions.shape == (7, 4, 1, 2) and wanted[0].proprio is None
    assert {int(n) for batch in wanted for n in batch.length} == {1, 2, 3}
    np.testing.assert_array_equal(wanted[3].frames.numpy(), windows.frames(draw(3)))
    for threads in (0, 1, 3):
        with WindowLoader(windows, draw, threads) as loader:
            found = [loader(step) for step in range(40)]
            assert all(map(same, found, wanted)), threads
            assert same(loader(5), wanted[5]) and same(loader(6), wanted[6])  # drawn again
            assert all(map(same, found, wanted)), "a batch's memory was written to again"


def test_steps_are_read_before_they_are_asked_for(store: EpisodeStore) -> None:
    windows = Windows(store, range(12), steps=2)
    asked: list[int] = []
    callers: set[int] = set()

    def draw(step: int) -> Sequence[int]:
        asked.append(step)
        callers.add(threading.get_ident())
        return [step]

    with WindowLoader(windows, draw, threads=1, ahead=3) as loader:
        loader(0)
        assert asked == [0, 1, 2, 3]
        loader(1)
        assert asked == [0, 1, 2, 3, 4]
        loader(9)
        assert asked[5:] == [9, 10, 11, 12]
    assert callers == {threading.get_ident()}  # an order has a state, which threads must not share


def test_an_unreadable_episode_is_an_error_at_its_own_step(store: EpisodeStore) -> None:
    windows = Windows(store, range(12), steps=12)
    (store.path / "episodes/000002.safetensors").unlink()
    with WindowLoader(windows, lambda step: [step], threads=2) as loader:
        loader(0)
        loader(1)
        with pytest.raises(FileNotFoundError, match="episode 2 of"):
            loader(2)
        assert loader(3).frames.shape == (1, 13, 3, 32, 32)
    with pytest.raises(ValueError, match="threads=-1"):
        WindowLoader(windows, lambda step: [step], threads=-1)


def test_proprioception_and_half_precision_tokens(tmp_path: Path) -> None:
    writer = EpisodeWriter(tmp_path, {})
    tokens = np.linspace(-3, 3, 5 * 4 * 6).reshape(5, 4, 6).astype(np.float16)
    proprio = np.arange(10, dtype=np.float32).reshape(5, 2)
    writer.write(0, {"tokens": tokens, "proprio": proprio, "actions": np.zeros((4, 1, 2), np.float32)})
    windows = Windows(EpisodeStore(tmp_path), range(1), steps=2, array="tokens")
    with WindowLoader(windows, lambda step: [step], proprio=True) as loader:
        batch = loader(1)
    assert batch.frames.dtype == torch.float32  # what the networks compute in
    np.testing.assert_array_equal(batch.frames[0].numpy(), tokens[1:4].astype(np.float32))
    assert batch.proprio is not None
    np.testing.assert_array_equal(batch.proprio[0].numpy(), proprio[1:4])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_loader_goes_on_after_a_fork(store: EpisodeStore) -> None:
    windows = Windows(store, range(12), steps=2)
    draw = items_of(windows)
    with WindowLoader(windows, draw) as loader:
        loader(0)
        child = os.fork()
        if not child:
            good = np.array_equal(loader(1).frames.numpy(), windows.frames(draw(1)))
            os._exit(0 if good else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        np.testing.assert_array_equal(loader(1).frames.numpy(), windows.frames(draw(1)))


def test_many_episodes_need_few_open_files(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    writer = EpisodeWriter(tmp_path, {})
    for index in range(40):
        frames = np.full((3, 3, 8, 8), index, np.uint8)
        writer.write(index, {"frames": frames, "actions": np.zeros((2, 1, 2), np.float32)})
    windows = Windows(EpisodeStore(tmp_path), range(40), steps=2)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 64
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 10, limits[1]))
    try:
        with WindowLoader(windows, lambda step: [step], threads=4) as loader:
            assert [int(loader(step).frames[0, 0, 0, 0, 0]) for step in range(40)] == list(range(40))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
