"""Collect episodes of pixels and actions from a simulator, with an exploring policy.

Example:
    worldmodel collect episodes=1000 out=data/two_room
"""

from dataclasses import dataclass

from tqdm import tqdm

import envs
from envs.collect import collect
from experiments.common import open_run
from worldmodel.data.episodes import EpisodeStore, EpisodeWriter


@dataclass
class Config:
    """Settings of a collection."""

    #: Gymnasium id of the environment.
    env: str = "worldmodel/TwoRoom-v0"
    #: Dataset directory; empty: runs/collect/<hash of the configuration>.
    out: str = ""
    #: How many.
    episodes: int = 1000
    #: Environment steps per episode.
    steps: int = 40
    #: Exploring policy: held_direction or uniform_random.
    policy: str = "held_direction"
    #: Of starts and actions; episode i depends on (seed, i) only.
    seed: int = 0
    #: Processes; 0 collects in this process. The data are the same for any number.
    workers: int = 2

    def __post_init__(self) -> None:
        if min(self.episodes, self.steps) < 1 or min(self.seed, self.workers) < 0:
            raise ValueError("episodes and steps must be at least 1, seed and workers not negative")


def run(config: Config) -> EpisodeStore:
    """Collect what is missing and return the dataset."""
    job = open_run("collect", config)
    meta = {"policy": config.policy, "seed": config.seed, **envs.describe(config.env)}
    writer = EpisodeWriter(job.path, meta)
    missing = [index for index in range(config.episodes) if index not in writer.indices]
    episodes = collect(config.env, missing, config.steps, config.policy, config.seed, config.workers)
    for index, episode in tqdm(
        episodes, total=len(missing), desc="collect", unit="episode", disable=None, leave=False
    ):
        writer.write(index, episode)
        if index % 50 == 0:
            job.record_seconds()
    store = EpisodeStore(job.path)
    if job.done is None:
        job.finish({"episodes": len(store), "frames": int((store.steps + 1).sum()), "hash": store.hash})
    job.close()
    return store


def outcome(store: EpisodeStore) -> str:
    """What the command says at its end."""
    return f"{len(store)} episodes, {int((store.steps + 1).sum())} frames in {store.path}"


if __name__ == "__main__":
    from experiments.cli import main_for

    raise SystemExit(main_for("collect"))
