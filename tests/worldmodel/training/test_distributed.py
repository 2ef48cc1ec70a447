"""Several processes: the same losses as one, states that any number of them continues, failures that reach all."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent))  # for the processes that are started, too

from worlds import Draw, finish, losses, run, start, state, train

from worldmodel.training import checkpoint
from worldmodel.training.distributed import World, current_world, processes, rank_indices
from worldmodel.training.run import Run


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of one process."""
    path = tmp_path_factory.mktemp("alone")
    train(path)
    return path


def assert_same(path: Path, wanted: Path, atol: float) -> None:
    assert losses(path) == pytest.approx(losses(wanted), rel=0, abs=atol)
    ours, theirs = state(path), state(wanted)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert (ours[name] - value).abs().max() <= atol, name


def trained(path: Path, **settings: Any) -> str:
    """Train; returns a digest of the weights that the caller's objective has in the end."""
    objective = train(path, **settings)
    return " ".join(f"{float(p.detach().abs().sum()):.5f}" for p in objective.parameters())


def test_accumulation_equals_the_big_batch(alone: Path, tmp_path: Path) -> None:
    train(tmp_path, accumulate=4)
    assert_same(tmp_path, alone, 1e-5)


@pytest.mark.parametrize("settings", [{"accumulate": 2}, {"strategy": "fsdp", "accumulate": 2}])
def test_two_processes_equal_one(alone: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    first, second = run(2, trained, tmp_path / "two", **settings)
    assert first == second == trained(alone)  # a finished run: nothing is trained, the weights are read
    assert_same(tmp_path / "two", alone, 1e-5)
    rows = [line for line in (tmp_path / "two/metrics.jsonl").open() if "spread" in line]
    assert len(rows) == 4  # monitors also run on shares


def train_compiled(path: Path, **settings: Any) -> int:
    """Train with compiled blocks, by a backend that takes no time; returns how many graphs were compiled."""
    real = torch.nn.Module.compile
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.Module, "compile", lambda self, **kw: real(self, backend="aot_eager", **kw))
        train(path, compile=True, **settings)
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_compiled_blocks_give_the_same_losses(alone: Path, tmp_path: Path, strategy: str) -> None:
    graphs = run(2, train_compiled, tmp_path, strategy=strategy)
    assert graphs[0] == graphs[1]
    assert 0 < graphs[0] <= 4  # shared by all blocks of a kind: with and without gradient, training or not
    assert_same(tmp_path, alone, 1e-5)


def test_any_number_of_processes_continues_what_another_began(alone: Path, tmp_path: Path) -> None:
    """One, DDP, FSDP, FSDP again, DDP, one: each is stopped by a signal to one of its processes."""
    stop = {"checkpoint_seconds": 1e9}
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, Draw("stop", 1), **stop)
    interrupted = ["Interrupted: "] * 2
    assert run(2, train, tmp_path, Draw("stop", 3, rank=1), **stop) == interrupted
    assert run(2, train, tmp_path, Draw("stop", 5), strategy="fsdp", **stop) == interrupted
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["step-000000006"]
    assert not (tmp_path / "state.safetensors").exists()
    assert run(2, train, tmp_path, Draw("stop", 7, rank=1), strategy="fsdp", **stop) == interrupted
    assert run(2, train, tmp_path, Draw("stop", 9), **stop) == interrupted
    assert not (tmp_path / "state").exists()
    train(tmp_path)
    assert_same(tmp_path, alone, 1e-5)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_kill_9_at_any_step_then_resume_gives_the_same_bits(tmp_path: Path, strategy: str) -> None:
    settings = {"strategy": strategy, "checkpoint_seconds": 0.0, "steps": 20}
    killed = start(2, train, tmp_path / "killed", **settings)
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "killed").rglob("*.safetensors"))) == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    for process, _ in killed:
        os.kill(process.pid, signal.SIGKILL)
    assert finish(killed) == ["killed", "killed"]
    assert run(2, train, tmp_path / "killed", **settings) == [None, None]
    assert run(2, train, tmp_path / "whole", **settings) == [None, None]
    assert len(losses(tmp_path / "killed")) == 20
    assert_same(tmp_path / "killed", tmp_path / "whole", 0.0)


def test_an_error_in_one_process_stops_all_and_is_said_once(tmp_path: Path) -> None:
    results = run(2, train, tmp_path, Draw("error", 2, rank=1))
    assert results == ["PeerFailed: another process failed", "ValueError: videos/a.mp4 is broken"]


def test_a_loss_that_is_not_finite_names_the_samples_of_the_process_where_it_began(tmp_path: Path) -> None:
    results = run(2, train, tmp_path, Draw("nan", 2, rank=1), checkpoint_seconds=0.0)
    assert sum(result.startswith("ValueError") for result in results) >= 1
    message = next(result for result in results if result.startswith("ValueError"))
    assert "not finite at step 2" in message
    assert "samples 20 to 23; the last good training state is" in message


def test_a_killed_process_takes_the_others_down_with_a_message(tmp_path: Path) -> None:
    results = run(2, train, tmp_path, Draw("kill", 2, rank=1))
    assert results[1] == "killed"
    assert results[0].startswith("OSError: lost the connection to another process: it was killed")


def train_on_a_full_disk(path: Path, strategy: str, full_rank: int) -> None:
    """Train; when the second state is saved, one process finds the disk full."""
    real, calls = checkpoint.write_atomic, itertools.count()

    def write_atomic(file: Path, write: Callable[[Path], None]) -> None:
        if current_world().rank == full_rank and next(calls) == 1:
            raise OSError(errno.ENOSPC, "No space left on device", str(file))
        real(file, write)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "write_atomic", write_atomic)
        train(path, strategy=strategy, checkpoint_seconds=0.0)


@pytest.mark.parametrize(("strategy", "full_rank"), [("ddp", 0), ("fsdp", 1)])
def test_a_full_disk_in_one_process_stops_all_and_keeps_the_last_state(
    alone: Path, tmp_path: Path, strategy: str, full_rank: int
) -> None:
    results = run(2, train_on_a_full_disk, tmp_path, strategy, full_rank)
    assert results[full_rank].startswith("OSError: [Errno 28] No space left on device")
    assert results[1 - full_rank].startswith("PeerFailed")
    assert sorted(path.name for path in tmp_path.rglob("state*")) in (["state.safetensors"], ["state"])
    assert len(list(tmp_path.rglob("step-*"))) == (strategy == "fsdp")
    train(tmp_path)  # goes on from step 1
    assert_same(tmp_path, alone, 1e-5)


def test_shares_are_read_by_any_number_of_processes(tmp_path: Path) -> None:
    """Rows that 4 processes wrote, as 1, 2, 3, 5 and 8 of them need them; some have none."""
    whole = torch.arange(18.0).reshape(6, 3)
    parts = [checkpoint._chunk(6, rank, 4) for rank in range(4)]
    assert parts == [(0, 2), (2, 4), (4, 6), (6, 6)]  # as torch.chunk
    for rank, (first, last) in enumerate(parts):
        save_file({"w": whole[first:last]} if first < last else {}, tmp_path / f"{rank}")
    files = [safe_open(tmp_path / f"{rank}", framework="pt") for rank in range(4)]
    for size in (1, 2, 3, 5, 8):
        for rank in range(size):
            first, last = checkpoint._chunk(6, rank, size)
            rows = checkpoint._read_rows(files, "w", [list(part) for part in parts], (first, last))
            assert torch.equal(whole[:0] if rows is None else rows, whole[first:last])
    with pytest.raises(ValueError, match="rows 0 to 6 of w are missing"):
        checkpoint._read_rows(files, "w", [[0, 2], [2, 4], [6, 6], [6, 6]], (0, 6))


def test_damaged_shares_are_refused(tmp_path: Path) -> None:
    run(2, train, tmp_path, strategy="fsdp", steps=2)
    directory = tmp_path / "state/step-000000002"
    shard = directory / "shard-001-of-002.safetensors"
    content = shard.read_bytes()
    shard.write_bytes(content[:200])
    with pytest.raises(ValueError, match=r"training state .*step-000000002 is damaged"):
        train(tmp_path)
    shard.unlink()
    with pytest.raises(ValueError, match=r"is damaged .*; delete it to begin again"):
        train(tmp_path)
    (directory / "index.json").unlink()  # as if killed before it was written: there is no such state
    assert checkpoint.newest_state(tmp_path / "state.safetensors") is None


def open_and_choose(path: Path) -> list[Any]:
    rank = current_world().rank
    job = Run(path, {"seed": 0})
    found = [job.choose("who", lambda: rank), job.done is None]
    job.write(lambda: (path / f"written_by_{rank}").touch())
    job.finish({"steps": 3})
    found += [job.done["steps"] if job.done else None]
    job.close()
    return found


def open_another_config(path: Path) -> None:
    Run(path, {"seed": 1})


def test_a_run_is_one_for_all_processes(tmp_path: Path) -> None:
    assert run(2, open_and_choose, tmp_path) == [[0, True, 3], [0, True, 3]]
    assert [path.name for path in tmp_path.glob("written_by_*")] == ["written_by_0"]
    results = run(2, open_another_config, tmp_path)
    assert "seed=0, not 1" in results[0]
    assert results[1].startswith("PeerFailed")


def test_without_a_launcher_nothing_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    with processes() as world:
        assert world == World() == current_world()
        assert world.first
        assert world.together(max, 1, 2) == 2
        assert world.any(True, False) == (True, False)
        assert world.gather([1.5]) == [[1.5]]
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ValueError, match="WORLD_SIZE=2 is set, but not RANK"), processes():
        pass


def test_schedules_of_ranks() -> None:
    assert rank_indices(3, 8) == range(24, 32)
    parts = [rank_indices(3, 8, World(rank, 4)) for rank in range(4)]
    assert [*itertools.chain(*parts)] == [*range(24, 32)]
    with pytest.raises(
        ValueError, match=r"loop.batch_size=8 cannot be shared by 3 processes; choose a multiple of 3"
    ):
        rank_indices(0, 8, World(0, 3))
