"""Frames collected per second, beside stable-worldmodel's collection of its own two rooms.

Part of `worldmodel bench what=[collect]`. What is timed ends with frames in a dataset, from the start of the
processes to the last file on the disk. The peer collects in one process, so it is compared with ours in one process,
in turns; and by processor time as well, which other programs on the machine disturb less than the clock.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from experiments import collect
from worldmodel.data.episodes import EpisodeStore

STEPS = 40  # of an episode
#: The peer's worlds that are much like ours.
SAME_WORLDS = ("worldmodel/TwoRoom-v0",)
TURNS = 3
PEER_EPISODES = 8  # of a turn; it takes seconds
PEER_ENVIRONMENTS = 8  # that it steps one after another

Rates = tuple[float, float]  # frames per second, by the clock and by processor time


@dataclass(frozen=True)
class CollectBench:
    """What is measured.

    Attributes:
        env: Gymnasium id of the world.
        episodes: Episodes of 40 steps.
        workers: Processes.
        against: Other libraries: stable-worldmodel, for the two rooms.
        peer_python: The Python in whose environment it is; empty: this one.
    """

    env: str
    episodes: int
    workers: int
    against: tuple[str, ...] = ()
    peer_python: str = ""


def store_episodes(
    folder: Path, env: str, episodes: int, workers: int, policy: str = "held_direction"
) -> EpisodeStore:
    """Collect raw episodes of 40 steps."""
    return collect.run(collect.Config(env, str(folder), episodes, STEPS, policy=policy, workers=workers))


def measure(bench: CollectBench) -> dict[str, float]:
    """Time the collections.

    Raises:
        ValueError: The peer does not run, or has no such world.
    """
    if bench.against and bench.env not in SAME_WORLDS:
        raise ValueError(
            f"{bench.against[0]} is compared in env={' or '.join(SAME_WORLDS)} only, not in {bench.env}"
        )
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        rate, _ = _ours(Path(folder) / "data", bench.env, bench.episodes, bench.workers)
        figures[f"collect: stored frames/s, {bench.workers} processes"] = rate
        for peer in bench.against:
            python = bench.peer_python or sys.executable
            process = stack.enter_context(_peer(python, Path(folder)))
            turns: list[tuple[Rates, Rates]] = []
            for turn in range(TURNS + 1):
                place = Path(folder) / f"turn{turn}"
                rates = _ours(place, bench.env, bench.episodes, 0, "uniform_random"), _theirs(process, python)
                if turn:  # the first warms up
                    turns.append(rates)
            figures |= _compare(peer, turns)
    return figures


def _compare(peer: str, turns: list[tuple[Rates, Rates]]) -> dict[str, float]:
    def of(side: int, kind: int) -> float:
        return median(turn[side][kind] for turn in turns)

    return {
        "collect: stored frames/s, 1 process": of(0, 0),
        f"collect: stored frames/s, {peer}, 1 process": of(1, 0),
        f"collect: faster than {peer}, 1 process, by": median(a[0] / b[0] for a, b in turns),
        f"collect: takes less processor time than {peer} by": median(a[1] / b[1] for a, b in turns),
    }


def _ours(place: Path, env: str, episodes: int, workers: int, policy: str = "held_direction") -> Rates:
    began, busy = time.perf_counter(), time.process_time()
    store = store_episodes(place, env, episodes, workers, policy)
    frames = float((store.steps + 1).sum())
    return frames / (time.perf_counter() - began), frames / (time.process_time() - busy)


def _theirs(process: subprocess.Popen[str], python: str) -> Rates:
    answer = _ask(process, python, {"episodes": PEER_EPISODES})
    return answer["frames"] / answer["seconds"], answer["frames"] / answer["processor_seconds"]


def _ask(process: subprocess.Popen[str], python: str, request: dict[str, Any] | None) -> dict[str, Any]:
    assert process.stdin is not None and process.stdout is not None
    if request is not None:
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise ValueError(
            f"stable-worldmodel's collection in {python} ended, see its last lines above; install "
            "stable-worldmodel[format] there, or name another Python: peer_python=PATH"
        )
    answer: dict[str, Any] = json.loads(line)
    return answer


@contextmanager
def _peer(python: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    script = Path(__file__).with_name("bench_collect_peer.py")
    command = [python, str(script), str(folder), str(PEER_ENVIRONMENTS), str(STEPS)]
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    except OSError as error:
        raise ValueError(f"peer_python={python} cannot be run ({error.strerror})") from error
    with process:
        try:
            _ask(process, python, None)
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.terminate()
