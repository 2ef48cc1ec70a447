"""Datasets are the same bytes however they come about: workers, shards, interruptions, growth."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from experiments import collect
from experiments.cli import main
from worldmodel.data import merge
from worldmodel.data.episode_check import check_episodes, check_rest
from worldmodel.data.episodes import EpisodeStore
from worldmodel.training.run import Run

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["collect", "steps=6", "workers=0"]
OF_THE_RUN = {".lock", "seconds.json", "done.json"}  # process ids and times


def files(folder: Path) -> dict[str, bytes]:
    """All that a dataset directory holds but what tells of the run."""
    found = [path for path in sorted(folder.rglob("*")) if path.name not in OF_THE_RUN]
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in found}


def made(folder: Path, *settings: str) -> dict[str, bytes]:
    """What the command makes; without its command line, which takes longer than the episodes."""
    words = [setting.split("=", 1) for setting in (*SMALL[1:], *settings)]
    values: dict[str, Any] = {key: int(value) if value.isdigit() else value for key, value in words}
    options = {"noise": float(values.pop("noise"))} if "noise" in values else {}
    collect.run(collect.Config(**values, policy_options=options, out=str(folder)))
    return files(folder)


def refused(capsys: pytest.CaptureFixture[str], *settings: str) -> str:
    capsys.readouterr()
    assert main([*SMALL, *settings]) == 2
    return capsys.readouterr().err


def indices(folder: Path) -> list[int]:
    return [json.loads(line)["index"] for line in (folder / "manifest.jsonl").read_text().splitlines()]


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, bytes]:
    """Ten episodes, made at once by one process."""
    return made(tmp_path / "whole", "episodes=10")


@pytest.mark.parametrize("workers", [1, 4])
def test_any_number_of_workers_makes_the_same_files(
    tmp_path: Path, workers: int, whole: dict[str, bytes]
) -> None:
    assert made(tmp_path / "a", "episodes=10", f"workers={workers}") == whole
    assert len(whole) == 14  # ten episodes, their folder, and three files that describe them


@pytest.mark.parametrize("codec", ["raw", "jpeg:90", "mp4:20:2"])
def test_shards_put_together_are_the_whole(tmp_path: Path, codec: str) -> None:
    if codec.startswith("mp4"):
        pytest.importorskip("av")
    settings = [
        "episodes=7",
        "block=2",
        "policy=goal_directed",
        "noise=0.1",
        f"codec={codec}",
    ]
    whole = made(tmp_path / "whole", *settings)
    for shard in ("2/3", "0/3", "1/3"):
        made(tmp_path / "a", *settings, f"shard={shard}")
    assert indices(tmp_path / "a/shards/1-of-3") == [1, 4] and not (tmp_path / "a/manifest.jsonl").exists()
    assert made(tmp_path / "a", *settings) == whole
    store = EpisodeStore(tmp_path / "a")
    assert not [*check_rest(store), *(finding for found in check_episodes(store) for finding in found)]
    assert json.loads((tmp_path / "a/done.json").read_text())["episodes"] == 7


def test_what_no_shard_made_is_made(tmp_path: Path, whole: dict[str, bytes]) -> None:
    """One of three is missing and another was cut short, so the order of making is not that of the indices."""
    made(tmp_path / "a", "episodes=10", "shard=1/3")
    made(tmp_path / "a", "episodes=5", "shard=2/3")
    assert made(tmp_path / "a", "episodes=10") == whole


def test_another_number_of_shards_later(tmp_path: Path, whole: dict[str, bytes]) -> None:
    made(tmp_path / "a", "episodes=10", "shard=0/2")
    made(tmp_path / "a", "episodes=10", "shard=0/4")  # a part of the same
    made(tmp_path / "a", "episodes=10", "shard=1/2")
    assert made(tmp_path / "a", "episodes=10") == whole


def test_a_dataset_grows(tmp_path: Path, whole: dict[str, bytes], capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path / "a", "episodes=4")
    first = (tmp_path / "a/episodes/000003.safetensors").stat().st_mtime_ns
    assert made(tmp_path / "a", "episodes=10") == whole
    assert (tmp_path / "a/episodes/000003.safetensors").stat().st_mtime_ns == first
    assert json.loads((tmp_path / "a/done.json").read_text())["episodes"] == 10
    said = refused(capsys, "episodes=4", f"out={tmp_path}/a")
    assert "has more than episodes=4 already, the last is number 9" in said
    assert "seed=0, not 1" in refused(capsys, "episodes=20", "seed=1", f"out={tmp_path}/a")
    assert files(tmp_path / "a") == whole


def test_a_dataset_grows_by_shards_which_make_what_is_missing(
    tmp_path: Path, whole: dict[str, bytes]
) -> None:
    made(tmp_path / "a", "episodes=6")
    made(tmp_path / "a", "episodes=10", "shard=0/2")
    assert indices(tmp_path / "a/shards/0-of-2") == [6, 8]
    store = collect.run(collect.Config(episodes=10, steps=6, shard="5/8", out=f"{tmp_path}/a"))
    assert collect.outcome(store) == f"6 episodes, 42 frames in {tmp_path}/a"  # nothing was left to do
    assert made(tmp_path / "a", "episodes=10") == whole


def test_a_dataset_that_grew_by_shards_alone_says_its_new_size(
    tmp_path: Path, whole: dict[str, bytes]
) -> None:
    """The shards had made all that was missing, and done.json kept the number and the hash of before."""
    made(tmp_path / "a", "episodes=4")
    for shard in ("0/2", "1/2"):
        made(tmp_path / "a", "episodes=10", f"shard={shard}")
    assert made(tmp_path / "a", "episodes=10") == whole
    done = json.loads((tmp_path / "a/done.json").read_text())
    assert done["episodes"] == 10 and done["hash"] == EpisodeStore(tmp_path / "a").hash


def test_without_out_the_same_directory_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for more in (["episodes=2"], ["episodes=6", "shard=1/2"], ["episodes=6", "workers=1"]):
        assert main([*SMALL, *more]) == 0
    (found,) = (tmp_path / "runs/collect").iterdir()
    assert indices(found) == list(range(6))
    assert main([*SMALL, "episodes=2", "block=2"]) == 0
    assert len(list((tmp_path / "runs/collect").iterdir())) == 2


def test_killed_and_run_again_it_is_the_whole(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "experiments.collect", "episodes=400", "steps=20", f"out={tmp_path}/a"]
    process = subprocess.Popen([*command, "workers=1"], cwd=ROOT)
    manifest = tmp_path / "a/manifest.jsonl"
    deadline = time.monotonic() + 120
    while not manifest.exists() or manifest.read_bytes().count(b"\n") < 3:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.002)
    process.kill()
    process.wait()
    count = len(indices(tmp_path / "a"))
    assert 3 <= count < 400
    with open(manifest, "ab") as file:  # and once more, while it wrote a line
        file.write(b'{"index": 3')
    (tmp_path / "a/episodes/.000399.safetensors.1.tmp").write_bytes(b"half an episode")
    more = [f"episodes={count + 2}", "steps=20"]
    assert made(tmp_path / "a", *more) == made(tmp_path / "whole", *more)


@pytest.mark.parametrize("moves", [1, 3])
def test_killed_while_shards_are_taken_over(
    tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, moves: int
) -> None:
    for shard in range(2):
        made(tmp_path / "a", "episodes=10", f"shard={shard}/2")
    move, done = merge._move, []

    def killed(source: Path, target: Path) -> None:
        if len(done) == moves:
            raise KeyboardInterrupt
        done.append(source)
        move(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(merge, "_move", killed)
        with pytest.raises(KeyboardInterrupt):
            made(tmp_path / "a", "episodes=10")
    assert len(list((tmp_path / "a/episodes").iterdir())) == moves
    assert made(tmp_path / "a", "episodes=10") == whole


def test_a_shard_that_is_at_work_is_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path / "a", "episodes=4", "shard=0/2")
    shard = tmp_path / "a/shards/0-of-2"
    job = Run(shard, json.loads((shard / "config.json").read_text()))
    assert "another process is working in" in refused(capsys, "episodes=4", f"out={tmp_path}/a")
    assert indices(shard) == [0, 2]
    job.close()


def test_shards_of_something_else_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path / "a", "episodes=4", "seed=1", "shard=0/2")
    said = refused(capsys, "episodes=4", f"out={tmp_path}/a")
    assert "shards/0-of-2 holds a run with seed=1, not 0" in said
    made(tmp_path / "b", "episodes=4")
    said = refused(capsys, "episodes=8", "seed=1", "shard=0/2", f"out={tmp_path}/b")
    assert "b holds a run with seed=0, not 1; choose another out" in said
    assert not (tmp_path / "b/shards").exists()


def test_what_others_put_beside_a_shard_stays(tmp_path: Path, whole: dict[str, bytes]) -> None:
    made(tmp_path / "a", "episodes=10", "shard=0/2")
    note = tmp_path / "a/shards/0-of-2/note.txt"
    note.write_text("mine")
    made(tmp_path / "a", "episodes=10")
    assert note.read_text() == "mine" and list(note.parent.iterdir()) == [note]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["shard=3/3"], "shard=3/3 is none; write i/n"),
        (["shard=auto"], "finds no launcher"),
        (["episodes=4", "shard=5/6"], "shard=5/6 has none of episodes=4; use fewer shards"),
        (["codec=png"], "codec 'png' is unknown; choose raw, jpeg"),
        (["policy=clever"], "the choices are held_direction.* or module:ClassName"),
        (["policy=nowhere:Clever"], "PYTHONPATH=. before it"),
        (["+policy_options.swich=0.1"], "no option swich; its options are switch"),
        (["block=0"], "must be at least 1"),
        (["env=worldmodel/NoRoom-v0"], "worldmodel/TwoRoom-v0"),
    ],
)
def test_a_mistake_leaves_no_directory(
    tmp_path: Path,
    settings: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("WORLD_SIZE", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    assert re.search(said, refused(capsys, *settings, f"out={tmp_path}/a"))
    assert not (tmp_path / "a").exists()


OWN = """
import numpy as np

class Still:
    def __init__(self, low):
        self.low = low

    def reset(self, rng):
        pass

    def act(self, observation):
        return np.zeros_like(self.low)
"""


def test_a_dataset_has_one_version_of_the_users_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "stillness.py").write_text(OWN)
    settings = ["policy=stillness:Still", "episodes=3"]
    made(tmp_path / "a", "shard=0/2", *settings)
    made(tmp_path / "a", *settings)
    store = EpisodeStore(tmp_path / "a")
    assert store.meta["policy"] == "stillness:Still" and not store.gather("actions").any()
    (tmp_path / "stillness.py").write_text(OWN.replace("zeros", "ones"))
    said = refused(capsys, "policy=stillness:Still", "episodes=6", f"out={tmp_path}/a")
    assert "holds a run with inputs.policy=" in said


def test_each_process_of_torchrun_is_a_shard(tmp_path: Path) -> None:
    environ = {**os.environ, "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}
    command = [sys.executable, "-m", "experiments.collect", *SMALL[1:], "episodes=5", f"out={tmp_path}/a"]
    done = subprocess.run([*command, "shard=auto"], cwd=ROOT, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert indices(tmp_path / "a/shards/1-of-2") == [1, 3]


def test_a_slurm_array_is_one_shard_for_each_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "3")
    made(tmp_path / "a", "episodes=6", "shard=auto")
    assert indices(tmp_path / "a/shards/2-of-3") == [2, 5]
