"""Windows loaded per second, beside stable-worldmodel's loader, and what caching a frozen encoder's tokens saves.

Part of `worldmodel bench what=[load]` and `what=[cache]`. A window is a run of frames and the actions between them.
What is timed ends with a collated batch: uint8 frames and float32 actions as tensors, in a random order. All sides
read the same episodes and take turns in one run; the median of the turns counts, and of a ratio the median of the
turns' ratios.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from experiments.common import window_batches
from worldmodel.data.episodes import EpisodeStore, EpisodeWriter
from worldmodel.data.latents import cache_latents
from worldmodel.data.window_loader import WindowLoader
from worldmodel.data.windows import Windows
from worldmodel.models.world_model import WorldModel
from worldmodel.objectives.latent_dynamics import LatentDynamics, LatentDynamicsConfig
from worldmodel.training.loop import LoopConfig, make_optimizer, train_step

logger = logging.getLogger("worldmodel")

PEERS = ("stable-worldmodel",)
CODECS = ("raw", "jpeg", "mp4")  # ours
PEER_FORMATS = ("hdf5", "lance", "folder", "video")
TURN = 0.2  # seconds of a side's turn, at least
#: Windows per second by the clock, and per second of the process's time, once.
Side = Callable[[], tuple[float, float]]


@dataclass(frozen=True)
class LoadBench:
    """What is measured.

    Attributes:
        frames: Frames of a window.
        batch_size: Windows of a batch.
        workers: Threads of ours and processes of the peer, in the second of the two comparisons; the first has one
            process on each side that does all by itself.
        repeats: Turns.
        formats: Of ``CODECS`` and ``PEER_FORMATS``; raw is always there.
        against: Other libraries.
        peer_python: The Python in whose environment they are; empty: this one.
    """

    frames: int
    batch_size: int
    workers: int
    repeats: int
    formats: tuple[str, ...] = (*CODECS, *PEER_FORMATS)
    against: tuple[str, ...] = ()
    peer_python: str = ""


def measure(store: EpisodeStore, bench: LoadBench, folder: Path) -> dict[str, float]:
    """Time the loaders.

    Args:
        store: Raw episodes.
        bench: What is measured.
        folder: For copies of the episodes in other formats.

    Raises:
        ValueError: The peer does not run, or gives other frames.
    """
    counts = {0: "1 process", bench.workers: f"{bench.workers} workers"}
    sides: dict[tuple[str, int], Side] = {}
    with ExitStack() as stack:
        for codec, copied in _copies(store, bench.formats, folder).items():
            windows = Windows(copied, range(len(copied)), bench.frames - 1)
            for count in counts:
                sides[codec, count] = stack.enter_context(_our_side(windows, bench.batch_size, count))
        for peer in bench.against:
            python = bench.peer_python or sys.executable
            process = stack.enter_context(_peer(python, store, folder / peer, bench))
            for name in process.formats:
                for count in counts:
                    sides[f"{peer} {name}", count] = process.side(name, count)
        rates: dict[tuple[str, int], list[tuple[float, float]]] = {key: [] for key in sides}
        for turn in range(bench.repeats + 1):
            for key, side in sides.items():
                rate = side()
                if turn:  # the first warms up
                    rates[key].append(rate)
    figures = {
        f"load: windows/s, {name}, {counts[count]}": median(rate for rate, _ in found)
        for (name, count), found in rates.items()
    }
    for (name, count), found in rates.items():
        if not name.startswith(bench.against):
            continue
        by_clock, by_processor = (
            median(ours[kind] / theirs[kind] for ours, theirs in zip(rates["raw", count], found, strict=True))
            for kind in (0, 1)
        )
        figures[f"load: raw is faster than {name}, {counts[count]}, by"] = by_clock
        if not count:  # beside other programs the clock says little; processor time still compares the two
            figures[f"load: raw takes less processor time than {name} by"] = by_processor
    return figures


@contextmanager
def _our_side(windows: Windows, batch_size: int, threads: int) -> Iterator[Side]:
    rng = np.random.default_rng(0)
    step = 0

    def items(_: int) -> list[int]:
        found: list[int] = rng.integers(0, len(windows), batch_size).tolist()
        return found

    with WindowLoader(windows, items, threads) as loader:

        def side() -> tuple[float, float]:
            nonlocal step
            for _ in range(1 + 2 * threads):
                loader(step)
                step += 1
            count, began, busy = 0, time.perf_counter(), time.process_time()
            while count < 2 or time.perf_counter() - began < TURN:
                batch = loader(step)
                assert batch.frames.dtype == torch.uint8 and len(batch.frames) == batch_size
                step, count = step + 1, count + 1
            read = count * batch_size
            rates = read / (time.perf_counter() - began), read / max(time.process_time() - busy, 1e-9)
            loader.close()  # nothing is read ahead in the turns of others
            return rates

        yield side


def _copies(store: EpisodeStore, formats: tuple[str, ...], folder: Path) -> dict[str, EpisodeStore]:
    """The episodes with each codec."""
    stores = {"raw": store}
    meta = {key: value for key, value in store.meta.items() if key not in ("format_version", "codecs")}
    for codec in [codec for codec in CODECS[1:] if codec in formats]:
        writer = EpisodeWriter(folder / codec, meta, codecs={"frames": codec})
        for position, entry in enumerate(store.entries):
            arrays = {name: store[position][name][:] for name in ("frames", "actions")}
            writer.write(entry["index"], arrays)
        stores[codec] = EpisodeStore(folder / codec)
    return stores


class _Peer:
    """A process of another library, asked by lines of JSON."""

    def __init__(self, process: subprocess.Popen[str], python: str) -> None:
        self.process, self.python = process, python
        self.formats: list[str] = []

    def ask(self, request: dict[str, Any] | None) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        if request is not None:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise ValueError(
                f"stable-worldmodel's loader in {self.python} ended, see its last lines above; install "
                "stable-worldmodel[format] there, or name another Python: peer_python=PATH"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    def side(self, name: str, workers: int) -> Side:
        def side() -> tuple[float, float]:
            answer = self.ask({"format": name, "workers": workers, "seconds": TURN})
            return float(answer["rate"]), float(answer["per_processor_second"])

        return side


@contextmanager
def _peer(python: str, store: EpisodeStore, folder: Path, bench: LoadBench) -> Iterator[_Peer]:
    """The peer's process, with the episodes in its own formats.

    Raises:
        ValueError: It does not start, or its windows are not ours.
    """
    folder.mkdir(parents=True)
    for position in range(len(store)):
        episode = store[position]
        frames = episode["frames"][:].transpose(0, 2, 3, 1)
        actions = episode["actions"][:].reshape(len(frames) - 1, -1)
        # It keeps as many actions as frames; the last leads nowhere.
        padded = np.concatenate([actions, np.zeros_like(actions[:1])])
        np.savez(folder / f"episode_{position:06d}.npz", pixels=frames, action=padded)
    script = Path(__file__).with_name("bench_load_peer.py")
    command = [python, str(script), str(folder), str(bench.frames), str(bench.batch_size)]
    command += [name for name in PEER_FORMATS if name in bench.formats]
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    except OSError as error:
        raise ValueError(f"peer_python={python} cannot be run ({error.strerror})") from error
    with process:
        peer = _Peer(process, python)
        try:
            about = peer.ask(None)
            peer.formats = list(about["formats"])
            for name in peer.formats:
                _check_same(store, name, peer.ask({"format": name, "item": 7}))
            logger.info("%s %s: %s", bench.against[0], about["version"], ", ".join(peer.formats))
            for name, reason in about["failed"].items():
                logger.warning("stable-worldmodel's %s is left out: %s", name, reason)
            yield peer
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.terminate()


def _check_same(store: EpisodeStore, name: str, window: dict[str, Any]) -> None:
    """See that the peer loads the frames that we load: the same bytes, or nearly where it compresses with loss.

    Raises:
        ValueError: It does not.
    """
    start, count = window["start"], window["shape"][0]
    ours = store[window["episode"]]["frames"][start : start + count]
    same = window["shape"] == list(ours.shape) and window["dtype"] == "uint8"
    if name == "hdf5":
        same = same and window["sha256"] == hashlib.sha256(ours.tobytes()).hexdigest()
    if not same or abs(window["mean"] - float(ours.mean())) > 3:
        raise ValueError(
            f"stable-worldmodel's {name} gives other frames than were written; nothing was timed"
        )


def measure_cache(
    model: WorldModel,
    store: EpisodeStore,
    window: int,
    batch_size: int,
    steps: int,
    device: str,
    folder: Path,
) -> dict[str, float]:
    """Training steps of head and dynamics that encode their frames each time, and that read cached tokens, in turns.

    Both begin with the same weights and take the same windows, so their losses must agree.
    """
    model.encoder.requires_grad_(False).eval()
    model.to(device)
    began = time.perf_counter()
    cache = cache_latents(model.encoder, store, folder / "latents", "bench")
    encoding = time.perf_counter() - began
    everything = range(len(store))
    kinds = {
        "encoding each time": Windows(store, everything, window),
        "from the cache": Windows(cache, everything, window, "tokens"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    losses: dict[str, list[float]] = {name: [] for name in kinds}
    loop = LoopConfig(precision="fp32", batch_size=batch_size)
    runs = {}
    for name, windows in kinds.items():
        objective = LatentDynamics(copy.deepcopy(model), LatentDynamicsConfig(), seed=0).to(device).train()
        objective.model.encoder.eval()
        runs[name] = (objective, make_optimizer(objective, loop), window_batches(windows, batch_size, seed=0))
    for step in range(steps + 1):
        for name, (objective, optimizer, batches) in runs.items():
            began = time.perf_counter()
            found = train_step(objective, optimizer, batches(step).to(device), loop)
            losses[name].append(float(found["loss"]))  # waits for the device
            if step:  # the first warms up
                seconds[name].append(time.perf_counter() - began)
    each, cached = (median(row) for row in seconds.values())
    one, other = (np.array(row) for row in losses.values())
    per_epoch = len(kinds["from the cache"]) / batch_size
    return {
        "cache: seconds to encode the data once": encoding,
        "cache: seconds per epoch, encoding each time": each * per_epoch,
        "cache: seconds per epoch, from the cache": cached * per_epoch,
        "cache: epochs from the cache are faster by": each / cached,
        "cache: largest relative difference of the losses": float(np.abs(one / other - 1).max()),
    }
