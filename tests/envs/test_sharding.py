from __future__ import annotations

import pytest

from envs.sharding import parse_shard, shard_indices, shard_name

TORCHRUN = {"RANK": "2", "WORLD_SIZE": "4"}
SLURM = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "5"}


def test_a_shard_is_read():
    assert parse_shard("0/3") == (0, 3) and parse_shard(" 2/3 ") == (2, 3) and parse_shard("0/1") == (0, 1)
    assert parse_shard("") is None
    assert shard_name((1, 3)) == "1-of-3"


@pytest.mark.parametrize("text", ["3/3", "-1/3", "1", "1/0", "a/b", "1/2/3", "1.0/2", "AUTO", "0-of-3"])
def test_what_is_no_shard_is_refused_with_an_example(text: str):
    with pytest.raises(ValueError, match=r"shard=.* is none; write i/n with 0 <= i < n, such as shard=0/3"):
        parse_shard(text)


@pytest.mark.parametrize("count", [0, 1, 2, 7, 12])
@pytest.mark.parametrize("shards", [1, 3, 5])
def test_shards_share_out_every_index_once(count: int, shards: int):
    parts = [shard_indices(count, (i, shards)) for i in range(shards)]
    assert sorted(index for part in parts for index in part) == list(range(count))
    assert all(index % shards == i for i, part in enumerate(parts) for index in part)
    assert list(shard_indices(count, None)) == list(range(count))


def test_auto_asks_the_launcher():
    assert parse_shard("auto", TORCHRUN) == (2, 4)
    assert parse_shard("auto", SLURM) == (2, 3)
    assert parse_shard("auto", {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "2"}) == (1, 2)
    # A process of torchrun inside one task of an array: torchrun's numbers are the finer ones.
    assert parse_shard("auto", {**SLURM, **TORCHRUN}) == (2, 4)
    # One process of torchrun says nothing; the array does.
    assert parse_shard("auto", {**SLURM, "RANK": "0", "WORLD_SIZE": "1"}) == (2, 3)


def test_auto_reads_the_environment_of_this_process(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "1")
    assert parse_shard("auto") == (1, 3)


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({}, "finds no launcher.*write shard=i/n"),
        ({"RANK": "0", "WORLD_SIZE": "1"}, "finds no launcher"),
        ({"WORLD_SIZE": "4"}, "RANK=unset, WORLD_SIZE=4"),
        ({"RANK": "4", "WORLD_SIZE": "4"}, "RANK=4, WORLD_SIZE=4"),
        ({"RANK": "0", "WORLD_SIZE": "many"}, "WORLD_SIZE=many in the environment is no number"),
        ({"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_COUNT": "3"}, "number them 0 to n-1"),
        ({"SLURM_ARRAY_TASK_ID": "0"}, "SLURM_ARRAY_TASK_COUNT=unset"),
    ],
)
def test_auto_without_a_usable_launcher_is_refused(environ: dict[str, str], said: str):
    with pytest.raises(ValueError, match=said):
        parse_shard("auto", environ)


def test_an_array_that_counts_in_steps_has_shards_without_gaps():
    """Task 2 of --array=0-6:2 became shard 2 of 4, and shard 1 was never made."""
    array = {"SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_STEP": "2"}
    found = [parse_shard("auto", {**array, "SLURM_ARRAY_TASK_ID": str(i)}) for i in (0, 2, 4, 6)]
    assert found == [(0, 4), (1, 4), (2, 4), (3, 4)]
