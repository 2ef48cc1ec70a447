"""The loader: the same samples for any number of workers; what goes wrong in a worker is said in the main process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from worldmodel.data.loader import ClipLoader, WorkerDied


class Noise:
    """Samples of all kinds; some have something skipped, and one of them fails."""

    def __init__(self, fail_at: int = -1, how: str = "value") -> None:
        self.fail_at, self.how = fail_at, how

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == self.fail_at:
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how == "value":
                raise TwoArguments("videos/a b.mp4", "is broken")
            raise KeyError("a bug")
        frames = np.random.default_rng(index).integers(0, 256, (2, 3, 4, 4), dtype=np.uint8)
        return {
            "frames": frames,
            "source": f"{index}.mp4",
            "start": index / 2,
            "label": index % 3,
            "skipped": [(f"{index}.avi", "empty")] if index % 5 == 0 else [],
            "threads": torch.get_num_threads(),
        }


class TwoArguments(ValueError):
    """Cannot be pickled as it is."""

    def __init__(self, path: str, text: str) -> None:
        super().__init__(f"{path} {text}")


def indices(step: int) -> range:
    return range(4 * step, 4 * step + 4)


def test_workers_do_not_change_the_samples_and_restart_anywhere() -> None:
    skipped: list[Any] = []
    with (
        ClipLoader(Noise(), indices, workers=2, on_skipped=skipped.extend) as ahead,
        ClipLoader(Noise(), indices) as plain,
    ):
        for step in (0, 1, 2, 3, 7, 8, 1):
            ours, wanted = ahead(step), plain(step)
            assert ours["source"] == wanted["source"] == [f"{i}.mp4" for i in indices(step)]
            assert ours["frames"].shape == (4, 2, 3, 4, 4)
            assert ours["frames"].dtype == torch.uint8
            for key in ("frames", "start", "label"):
                torch.testing.assert_close(ours[key], wanted[key], rtol=0, atol=0)
            assert ours["label"].dtype == torch.int64
            assert ours["threads"].tolist() == [1] * 4
    names = [f"{i}.avi" for step in (0, 1, 2, 3, 7, 8, 1) for i in indices(step) if i % 5 == 0]
    assert [name for name, _ in skipped] == names
    deadline = time.monotonic() + 10
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_of_samples_reach_the_caller_when_their_step_is_asked_for(workers: int) -> None:
    with ClipLoader(Noise(9), indices, workers) as loader:
        loader(0)
        loader(1)
        with pytest.raises(ValueError, match=r"^videos/a b.mp4 is broken$"):
            loader(2)
        assert loader(3)["source"][0] == "12.mp4"  # asking for another step begins anew


def test_a_bug_in_a_worker_keeps_its_traceback() -> None:
    with (
        ClipLoader(Noise(1, "bug"), indices, workers=1) as loader,
        pytest.raises(RuntimeError, match=r"(?s)samples 0 to 3 failed .*__getitem__.*a bug"),
    ):
        loader(0)


def test_a_killed_worker_is_named() -> None:
    with (
        ClipLoader(Noise(5, "kill"), indices, workers=1) as loader,
        pytest.raises(
            WorkerDied, match=r"worker process \d+ \(killed, out of memory\?\) of 1 died; samples "
        ),
    ):
        for step in range(3):
            loader(step)


def test_what_on_skipped_raises_stops_the_training() -> None:
    def too_many(skipped: Any) -> None:
        raise ValueError(f"{len(skipped)} damaged files")

    with (
        ClipLoader(Noise(), indices, on_skipped=too_many) as loader,
        pytest.raises(ValueError, match="1 damaged"),
    ):
        loader(0)
    with pytest.raises(ValueError, match="workers=-1"):
        ClipLoader(Noise(), indices, workers=-1)


def test_signals_stay_blocked_while_workers_start() -> None:
    """Where Python had to start its resource tracker first, that unblocked them: a SIGTERM then killed a worker."""
    script = (
        "import signal\nfrom multiprocessing.resource_tracker import ensure_running\n"
        "from worldmodel.data.loader import _worker_environment\n"
        "with _worker_environment():\n"
        "    ensure_running()\n"
        "    print(signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, []))\n"
        "print(signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, []))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


def test_signals_to_the_whole_group_leave_the_workers_at_work(tmp_path: Path) -> None:
    """Ctrl-C and schedulers signal every process; the main one finishes its step with what workers read."""
    script = tmp_path / "job.py"
    script.write_text(
        "import importlib.util, os, signal, sys\n"
        f"spec = importlib.util.spec_from_file_location('test_loader', {str(Path(__file__))!r})\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "sys.modules['test_loader'] = module\nspec.loader.exec_module(module)\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "    signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "    with module.ClipLoader(module.Noise(), module.indices, workers=2) as loader:\n"
        "        loader(0)\n"
        "        os.killpg(0, signal.SIGTERM)\n"
        "        os.killpg(0, signal.SIGINT)\n"
        "        print([loader(step)['source'][0] for step in range(1, 9)])\n"
    )
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, start_new_session=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str([f"{4 * step}.mp4" for step in range(1, 9)])
    assert done.stderr == ""
    assert time.monotonic() - start < 25  # workers end with the loader, not after a grace period
