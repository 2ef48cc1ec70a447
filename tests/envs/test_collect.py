from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from envs.collect import WorkerDied, _Recipe, _Worker, collect
from envs.two_room import TwoRoom
from envs.world import channels_first, describe

TWO_ROOM = "worldmodel/TwoRoom-v0"
ROOT = Path(__file__).parents[2]


def digest(episode: dict[str, np.ndarray]) -> str:
    text = hashlib.sha256()
    for name in sorted(episode):
        text.update(f"{name} {episode[name].dtype} {episode[name].shape}".encode())
        text.update(episode[name].tobytes())
    return text.hexdigest()


def digests(episodes, **settings) -> dict[int, str]:
    return {index: digest(episode) for index, episode in collect(TWO_ROOM, episodes, 12, **settings)}


def test_an_episode_has_the_promised_arrays():
    ((index, episode),) = collect(TWO_ROOM, 1, 12)
    assert index == 0 and set(episode) == {"frames", "actions", "states"}
    assert episode["frames"].shape == (13, 3, 64, 64) and episode["frames"].dtype == np.uint8
    assert episode["actions"].shape == (12, 1, 2) and episode["actions"].dtype == np.float32
    assert episode["states"].shape[0] == 13 and episode["states"].dtype == np.float64
    assert all(array.flags.c_contiguous for array in episode.values())


@pytest.mark.parametrize("block", [1, 3])
def test_actions_lead_from_frame_to_frame(world, block):
    """Replaying the stored actions from the first stored state gives the stored frames and states."""
    ((_, episode),) = collect(TWO_ROOM, 1, 10, block=block)
    assert episode["actions"].shape == (10, block, 2)
    world.set_state(episode["states"][0])
    assert np.array_equal(channels_first(world.render_state(world.get_state())), episode["frames"][0])
    for actions, frame, state in zip(
        episode["actions"], episode["frames"][1:], episode["states"][1:], strict=True
    ):
        for action in actions:
            picture, *_ = world.step(action)
        assert np.array_equal(channels_first(picture), frame)
        assert np.array_equal(world.get_state(), state)


def test_any_number_of_workers_makes_the_same_bytes():
    # 90 episodes of 12 steps are three batches, so two workers share them.
    alone = digests(90)
    assert list(alone) == list(range(90)) and len(set(alone.values())) == 90
    assert digests(90, workers=1) == alone
    assert list(digests(90, workers=2).items()) == list(alone.items())  # the same order, too


def test_missing_episodes_come_out_as_they_would_have():
    whole = digests(8)
    missing = [1, 4, 7]
    assert digests(missing) == {index: whole[index] for index in missing}
    assert digests(missing, workers=2) == {index: whole[index] for index in missing}
    assert digests(3, start=5) == {index: whole[index] for index in (5, 6, 7)}
    assert digests([]) == {} and digests(0, workers=2) == {}


def test_seeds_and_policies_make_other_data():
    first = digests(2)
    assert not set(first.values()) & set(digests(2, seed=1).values())
    assert not set(first.values()) & set(digests(2, policy="uniform_random").values())
    assert not set(first.values()) & set(digests(2, policy_options={"switch": 0.5}).values())


def test_collected_starts_are_not_the_tasks_starts(suite):
    tasks = np.stack([state[1:3] for task in suite for state in (task.start, task.goal)])
    starts = np.stack([episode["states"][0, 1:3] for _, episode in collect(TWO_ROOM, 50, 1, seed=0)])
    assert np.abs(starts[:, None] - tasks[None]).max(axis=-1).min() > 1e-9


def test_a_killed_worker_is_named_and_nothing_hangs():
    episodes = collect(TWO_ROOM, 2000, 12, workers=2)
    next(episodes)
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    with pytest.raises(WorkerDied, match=r"TwoRoom-v0 died.*collect the missing episodes"):
        for _ in episodes:
            pass
    assert not multiprocessing.active_children()


def test_a_worker_killed_half_way_through_an_answer_is_noticed():
    """With ProcessPoolExecutor this waited for ever, now and then: the rest of the answer never came."""
    worker = _Worker(_Recipe(TWO_ROOM, 12, "held_direction", {}, seed=0, block=1))
    pipe, process = worker._pipe, worker._process

    class KillsBeforeReading:
        def send(self, batch: list[int]) -> None:
            pipe.send(batch)

        def recv(self):
            assert pipe.poll(30)  # the answer, of more bytes than the pipe holds, has begun
            process.kill()
            process.join()
            return pipe.recv()

    worker._pipe = KillsBeforeReading()
    with pytest.raises(WorkerDied, match="episodes 0 to 39"):
        worker.make(list(range(40)))
    pipe.close()


def test_an_error_in_a_worker_keeps_its_traceback(tmp_path, monkeypatch):
    (tmp_path / "broken_world.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)  # spawned processes inherit sys.path
    with pytest.raises(RuntimeError, match=r"(?s)broken_world\.py.*ZeroDivisionError"):
        list(collect("broken_world:Broken-v0", 4, 2, workers=2))
    assert not multiprocessing.active_children()


def test_stopping_early_leaves_no_processes():
    episodes = collect(TWO_ROOM, 2000, 12, workers=2)
    next(episodes)
    assert multiprocessing.active_children()
    episodes.close()
    assert not multiprocessing.active_children()


BROKEN = """
import gymnasium as gym
from envs.two_room import TwoRoom

class Broken(TwoRoom):
    def step(self, action):
        return 1 / 0

gym.register("Broken-v0", Broken)
"""

SCRIPT = """
import multiprocessing, signal, sys
from envs.collect import collect
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background of a shell would ignore it
    for index, _ in collect("worldmodel/TwoRoom-v0", 1_000_000, 12, workers=2):
        if index == 0:
            print(*[child.pid for child in multiprocessing.active_children()], flush=True)
"""


def start_script(tmp_path: Path) -> tuple[subprocess.Popen, list[int]]:
    (tmp_path / "script.py").write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    return process, [int(pid) for pid in process.stdout.readline().split()]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/status")  # a zombie is dead, its parent has just not noticed
    return not (status.exists() and "State:\tZ" in status.read_text())


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_ends_cleanly(tmp_path):
    process, workers = start_script(tmp_path)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does
    _, errors = process.communicate(timeout=120)
    assert len(workers) == 2 and not any(alive(pid) for pid in workers)
    assert errors.count("Traceback") == 1 and errors.rstrip().endswith("KeyboardInterrupt"), errors


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_workers_do_not_outlive_a_killed_parent(tmp_path):
    process, workers = start_script(tmp_path)
    process.kill()
    process.communicate(timeout=120)
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(workers) == 2 and not any(alive(pid) for pid in workers)


def test_the_settings_of_threads_are_put_back(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    list(collect(TWO_ROOM, 1, 2, workers=1))
    assert os.environ["OMP_NUM_THREADS"] == "7" and "MKL_NUM_THREADS" not in os.environ


def test_bad_requests_are_reported_at_the_call():
    with pytest.raises(ValueError, match="held_direction, uniform_random"):
        collect(TWO_ROOM, 1, 2, policy="heldd", workers=2)
    with pytest.raises(ValueError, match="worldmodel/TwoRoom-v0"):
        collect("worldmodel/Nowhere-v0", 1, 2, workers=2)
    with pytest.raises(ValueError, match="steps=0"):
        collect(TWO_ROOM, 1, 0)
    with pytest.raises(ValueError, match="workers=-1"):
        collect(TWO_ROOM, 1, 1, workers=-1)
    with pytest.raises(ValueError, match="first index -2"):
        collect(TWO_ROOM, [3, -2], 1)


def test_describe_says_what_a_dataset_needs():
    assert describe(TWO_ROOM) == {
        "env_id": TWO_ROOM,
        "action_low": [-1.0, -1.0],
        "action_high": [1.0, 1.0],
        "frame_shape": [3, 64, 64],
        "fps": pytest.approx(1 / 0.15),
    }
    assert TwoRoom.substeps * 0.01 == pytest.approx(0.15)


def test_a_policy_that_looks_after_every_step_acts_alike_in_blocks():
    ((_, one),) = collect(TWO_ROOM, 1, 12, "goal_directed")
    ((_, three),) = collect(TWO_ROOM, 1, 4, "goal_directed", block=3)
    assert np.array_equal(one["actions"][:, 0], three["actions"].reshape(12, 2))
    assert np.array_equal(one["frames"][::3], three["frames"])
    assert np.array_equal(one["states"][::3], three["states"])


def test_an_expert_gets_through_the_door_more_often_than_chance():
    def crossings(policy: str, **options: float) -> int:
        episodes = collect(TWO_ROOM, 20, 40, policy, policy_options=options)
        return sum(int((np.diff(np.sign(e["states"][:, 1])) != 0).sum()) for _, e in episodes)

    expert = crossings("goal_directed", noise=0.0, wander=0.0)
    assert expert > 1.5 * crossings("held_direction") and expert > crossings("goal_directed")
