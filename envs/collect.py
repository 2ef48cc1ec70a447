"""Collect episodes with worker processes; the data never depend on how many.

Episode i is a function of (seed, i) alone, so any number of workers makes the same bytes, and an
interrupted collection goes on with the indices that are missing.

The episodes of a worker are not stepped together: `mujoco.batch.Batch` gives the same states bit for bit, but
would save 4 us of the 75 us of processor time that a frame of TwoRoom takes here, and 4 of the 119 us of
Reacher (6% and 3%); the rest is drawing, MuJoCo's own work, the policy and copies.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from queue import SimpleQueue

import numpy as np

from envs.own_policy import PolicyError
from envs.policies import ExploringPolicy, make_policy
from envs.seeding import keyed_rng
from envs.world import TaskWorld, channels_first, make_world

Episode = dict[str, np.ndarray]

# Frames per message between processes: enough to make its overhead small, few enough for memory (6 MB at 64 px).
_FRAMES_PER_BATCH = 512
_BATCHES_AHEAD = 2  # per worker


class WorkerDied(OSError):
    """A collecting process ended without a word: it was killed, or could not start."""


@dataclass(frozen=True)
class _Recipe:
    """All that an episode depends on, besides its index."""

    env_id: str
    steps: int
    policy: str
    policy_options: Mapping[str, float]
    seed: int
    block: int


def collect(
    env_id: str,
    episodes: int | Sequence[int],
    steps: int,
    policy: str = "held_direction",
    seed: int = 0,
    workers: int = 0,
    start: int = 0,
    *,
    block: int = 1,
    policy_options: Mapping[str, float] | None = None,
) -> Iterator[tuple[int, Episode]]:
    """Yield (index, episode) in the order of the indices.

    An episode is a dict of arrays: `frames` (T+1, C, H, W) uint8, `actions` (T, K, A) float32 in the
    environment's units, where `actions[t]` leads from frame t to frame t+1, and `states` (T+1, S) float64,
    for probes and pictures only.

    Args:
        env_id: see `envs.world.make_world`.
        episodes: how many, counted from `start`, or the very indices that are wanted, such as those still
            missing.
        steps: model steps T per episode; each is `block` environment steps.
        policy: exploring policy, see `envs.policies`; "module:ClassName" imports, and so runs, code of the caller's.
        seed: of the random stream "collect"; episode i depends on (seed, i) only.
        workers: processes; 0 collects in this one. A script that uses workers needs `if __name__ ==
            "__main__":`.
        start: first index, if `episodes` is a number.
        block: environment steps K per model step.
        policy_options: settings of the policy.

    Raises:
        ValueError: unknown environment, policy or option, or a number out of range; raised at the call.
        PolicyError: the caller's own policy returned something that is no action; raised while iterating.
        WorkerDied: a worker process was killed; raised while iterating.
        RuntimeError: an episode failed in a worker process, with its traceback; raised while iterating.
    """
    indices = (
        list(range(start, start + episodes)) if isinstance(episodes, int) else [int(i) for i in episodes]
    )
    if steps < 1 or workers < 0 or seed < 0 or min(indices, default=0) < 0:
        raise ValueError(
            f"collection needs steps >= 1, workers >= 0, seed >= 0 and episode indices >= 0, got steps={steps}, "
            f"workers={workers}, seed={seed}, first index {min(indices, default=0)}"
        )
    recipe = _Recipe(env_id, steps, policy, dict(policy_options or {}), seed, block)
    collector = _Collector(recipe)  # bad names are reported here, before any process is started
    if workers == 0:
        return ((index, collector.episode(index)) for index in indices)
    collector.close()
    return _collect_in_processes(recipe, indices, workers)


class _Collector:
    """One world and one policy, which make one episode after the other."""

    def __init__(self, recipe: _Recipe) -> None:
        self.recipe = recipe
        self.world: TaskWorld = make_world(recipe.env_id)
        self.policy: ExploringPolicy = make_policy(
            recipe.policy,
            self.world.action_space,
            recipe.block,
            recipe.policy_options,
            world=self.world,
            own_code=True,
        )

    def episode(self, index: int) -> Episode:
        recipe, world = self.recipe, self.world
        rng = keyed_rng("collect", recipe.seed, index)
        frame, _ = world.reset(seed=int(rng.integers(2**63)))
        self.policy.reset(rng)
        frames, states = [frame], [world.get_state()]
        actions: list[np.ndarray] = []  # of every environment step
        for step in range(1, recipe.steps + 1):
            while len(actions) < step * recipe.block:
                for action in self.policy.act(frame):
                    frame, *_ = world.step(action)
                    actions.append(action)
            frames.append(frame)
            states.append(world.get_state())
        return {
            "frames": channels_first(np.stack(frames)),
            "actions": np.stack(actions).reshape(recipe.steps, recipe.block, -1),
            "states": np.stack(states),
        }

    def close(self) -> None:
        self.world.close()


def _collect_in_processes(recipe: _Recipe, indices: list[int], workers: int) -> Iterator[tuple[int, Episode]]:
    size = max(1, min(_FRAMES_PER_BATCH // (recipe.steps + 1), -(-len(indices) // workers)))
    batches = deque(indices[i : i + size] for i in range(0, len(indices), size))
    running: deque[tuple[list[int], Future[list[Episode]]]] = deque()
    idle: SimpleQueue[_Worker] = SimpleQueue()
    processes: list[_Worker] = []

    def make(batch: list[int]) -> list[Episode]:
        worker = idle.get()
        try:
            return worker.make(batch)
        finally:
            idle.put(worker)

    threads = ThreadPoolExecutor(workers)  # each waits for one process at a time
    try:
        with _quiet_children():
            for _ in range(min(workers, len(batches))):
                processes.append(_Worker(recipe))
                idle.put(processes[-1])
        while batches or running:
            while batches and len(running) < workers * _BATCHES_AHEAD:
                running.append((batches[0], threads.submit(make, batches[0])))
                batches.popleft()
            batch, future = running.popleft()
            yield from zip(batch, future.result(), strict=True)
    finally:  # also after Ctrl-C, an error, or a reader that stopped early
        for process in processes:
            process.kill()  # ends what the threads wait for
        threads.shutdown(wait=True, cancel_futures=True)
        for process in processes:
            process.close()


class _Worker:
    """A process that makes batches of episodes.

    Each has a pipe of its own, whose other end nobody else holds. So when it is killed, even half way through
    an answer, reading ends at once; in `ProcessPoolExecutor` the workers share one pipe, and a worker that
    is killed while it writes leaves the reader waiting for ever.
    """

    def __init__(self, recipe: _Recipe) -> None:
        # Spawn, not fork: a forked child inherits threads and OpenGL contexts that no longer work.
        context = multiprocessing.get_context("spawn")
        self._pipe, child_pipe = context.Pipe()
        self._env_id = recipe.env_id
        self._process = context.Process(target=_serve, args=(child_pipe, recipe), daemon=True)
        self._process.start()
        child_pipe.close()

    def make(self, batch: list[int]) -> list[Episode]:
        try:
            self._pipe.send(batch)
            answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise WorkerDied(
                f"a process that collected episodes {batch[0]} to {batch[-1]} in {self._env_id} died: killed, out "
                'of memory, or started by a script without `if __name__ == "__main__":`; what was yielded before '
                "is good, so collect the missing episodes again, with fewer workers if memory is short"
            ) from error
        if isinstance(answer, PolicyError):
            raise answer
        if isinstance(answer, str):
            raise RuntimeError(f"an episode among {batch[0]} to {batch[-1]} failed in its process:\n{answer}")
        return answer

    def kill(self) -> None:
        self._process.kill()
        self._process.join()

    def close(self) -> None:
        self._pipe.close()


def _serve(pipe: Connection, recipe: _Recipe) -> None:
    """Answer each batch of indices with its episodes, or with a traceback; end when the parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    collector = None
    while True:
        try:
            batch = pipe.recv()
        except EOFError:
            return
        try:
            collector = collector or _Collector(recipe)
            answer: list[Episode] | str | PolicyError = [collector.episode(index) for index in batch]
        except PolicyError as error:
            answer = error
        except Exception:
            answer = traceback.format_exc()
        try:
            pipe.send(answer)
        except BrokenPipeError:
            return


@contextmanager
def _quiet_children() -> Iterator[None]:
    """Processes that are started inside use one thread each and never see Ctrl-C, which is this process's."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    # First: where starting a process has to start this one, Python (until 3.11 at least) unblocks SIGINT again.
    if os.name == "posix":
        resource_tracker.ensure_running()
    can_mask = hasattr(signal, "pthread_sigmask")  # not on Windows
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if can_mask else None
    try:
        yield
    finally:
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
