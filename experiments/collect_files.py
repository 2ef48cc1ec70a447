"""What a collection is made of on disk: what its episodes depend on, what the dataset says of itself, its shards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import envs
from envs.collect import collect
from envs.own_policy import code_hash
from worldmodel.atomic import read_json
from worldmodel.data.episode_files import read_manifest, remove_dataset
from worldmodel.data.merge import take_episodes
from worldmodel.training.run import Run

if TYPE_CHECKING:
    from experiments.collect import Config

#: What an episode does not depend on: `episodes` may grow, and shards are parts of the same dataset.
_NOT_THE_EPISODE = ("out", "episodes", "workers", "shard")


def recipe_of(config: Config) -> dict[str, Any]:
    """What an episode depends on, besides its index; a dataset has one recipe."""
    settings = {key: value for key, value in asdict(config).items() if key not in _NOT_THE_EPISODE}
    code = code_hash(config.policy)
    return {**settings, "inputs": {"policy": code} if code else {}}


def meta_of(config: Config) -> dict[str, Any]:
    """The dataset's metadata. What is wrong with world, policy or options is said here, before there is a directory.

    Raises:
        ValueError: See `envs.collect.collect`.
    """
    next(
        collect(
            config.env, [], config.steps, config.policy, config.seed,
            block=config.block, policy_options=config.policy_options,
        ),
        None,
    )  # fmt: skip
    meta = {"policy": config.policy, "seed": config.seed, **envs.describe(config.env)}
    if config.policy_options:
        meta["policy_options"] = dict(config.policy_options)
    if config.block > 1:
        meta["actions_per_step"] = config.block
        meta["fps"] = meta["fps"] and meta["fps"] / config.block
    return meta


def check_same(whole: Path, recipe: dict[str, Any]) -> None:
    """See that a shard belongs to the dataset that is there, if there is one; it may be at work, so it is not opened.

    Raises:
        ValueError: It does not.
    """
    found = read_json(whole / "config.json") if (whole / "config.json").exists() else recipe
    for key in sorted(found.keys() | recipe.keys()):
        if found.get(key) != recipe.get(key):
            raise ValueError(
                f"{whole} holds a run with {key}={found.get(key)!r}, not {recipe.get(key)!r}; choose another out=..."
            )


def indices_in(path: Path) -> set[int]:
    """The episodes of a dataset, which may not be there."""
    return {entry["index"] for entry in read_manifest(path / "manifest.jsonl")}


def take_shards(whole: Path, recipe: dict[str, Any]) -> int:
    """Move what shards have made into the dataset, and remove them; returns how many episodes came.

    Raises:
        ValueError: A shard has another recipe.
        OSError: A shard is still at work.
    """
    folders = sorted((whole / "shards").glob("*-of-*"))
    with _opened(folders, recipe):
        count = take_episodes(whole, folders)
    for folder in folders:
        _remove(folder)
    if folders:
        _remove_empty(whole / "shards")
    return count


@contextlib.contextmanager
def _opened(folders: list[Path], recipe: dict[str, Any]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for folder in folders:
            stack.callback(Run(folder, recipe).close)
        yield


def _remove(shard: Path) -> None:
    """Remove a shard that was taken over, and nothing that somebody else put there."""
    if (shard / "meta.json").exists():
        remove_dataset(shard)
    for name in ("config.json", "seconds.json", "done.json", ".lock"):
        (shard / name).unlink(missing_ok=True)
    _remove_empty(shard / "episodes")
    _remove_empty(shard)


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
