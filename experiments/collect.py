"""Collect episodes of pixels and actions from a simulator, with an exploring policy.

Example:
    worldmodel collect episodes=1000 out=data/two_room
    worldmodel collect policy=goal_directed +policy_options.noise=0.1 codec=jpeg:95 out=data/with_goals
    worldmodel collect episodes=100000 shard=0/8 out=data/large
"""

from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from envs.collect import collect
from envs.sharding import parse_shard, shard_indices, shard_name
from experiments.collect_files import check_same, indices_in, meta_of, recipe_of, take_shards
from worldmodel.data.episode_codecs import Codec
from worldmodel.data.episodes import EpisodeStore, EpisodeWriter
from worldmodel.data.merge import sort_manifest
from worldmodel.training.run import Run, config_hash

#: torchrun may start it with shard=auto.
SHARDED = True


@dataclass
class Config:
    """Settings of a collection."""

    #: Gymnasium id of the environment.
    env: str = "worldmodel/TwoRoom-v0"
    #: Dataset directory; empty: runs/collect/<hash of the configuration>.
    out: str = ""
    #: How many. With more than before, the dataset grows.
    episodes: int = 1000
    #: Steps per episode.
    steps: int = 40
    #: Environment steps, and so actions, in a step (K).
    block: int = 1
    #: Exploring policy: held_direction, uniform_random, smooth_random, goal_directed, or module:ClassName of your own.
    policy: str = "held_direction"
    #: Its settings, added one by one: +policy_options.noise=0.1.
    policy_options: dict[str, float] = field(default_factory=dict)
    #: How frames are stored: raw, jpeg:QUALITY or mp4:CRF:GOP.
    codec: str = "raw"
    #: Of starts and actions; episode i depends on (seed, i) only.
    seed: int = 0
    #: Processes; 0 collects in this process. The data are the same for any number.
    workers: int = 2
    #: i/n: every n-th episode from the i-th on, for the same command without shard to take over; auto: i and n of
    #: torchrun or a Slurm array.
    shard: str = ""

    def __post_init__(self) -> None:
        if min(self.episodes, self.steps, self.block) < 1 or min(self.seed, self.workers) < 0:
            raise ValueError(
                "episodes and steps must be at least 1, and block; seed and workers not negative"
            )
        self.codec = str(Codec.parse(self.codec))  # jpeg and jpeg:95 are one configuration


def run(config: Config) -> EpisodeStore:
    """Collect what is missing and return the dataset, or with `shard` the part of it that this command made."""
    shard = parse_shard(config.shard)
    if shard and shard[0] >= config.episodes:
        raise ValueError(f"shard={config.shard} has none of episodes={config.episodes}; use fewer shards")
    recipe, meta = recipe_of(config), meta_of(config)
    whole = Path(config.out).expanduser() if config.out else Path("runs/collect") / config_hash(recipe)
    if shard:
        check_same(whole, recipe)
    job = Run(whole / "shards" / shard_name(shard) if shard else whole, recipe)
    try:
        writer = EpisodeWriter(job.path, meta, codecs={"frames": config.codec})
        if shard is None and take_shards(whole, recipe):
            (job.path / "done.json").unlink(missing_ok=True)
            writer = EpisodeWriter(job.path, meta, codecs={"frames": config.codec})  # reads what came
        there = writer.indices | (indices_in(whole) if shard else set())
        if max(there, default=0) >= config.episodes:
            raise ValueError(
                f"{job.path} has more than episodes={config.episodes} already, the last is number {max(there)}; "
                "ask for as many or more, or choose another out=..."
            )
        missing = [index for index in shard_indices(config.episodes, shard) if index not in there]
        if missing:
            (job.path / "done.json").unlink(missing_ok=True)  # a dataset that grows is not finished
            collect_into(writer, missing, config, job)
        sort_manifest(job.path)
        store = EpisodeStore(job.path if writer.indices else whole)
        if job.done is None:
            job.finish({"episodes": len(store), "frames": int((store.steps + 1).sum()), "hash": store.hash})
        return store
    finally:
        job.close()


def collect_into(writer: EpisodeWriter, missing: list[int], config: Config, job: Run) -> None:
    """Make these episodes and store them, in their order."""
    episodes = collect(
        config.env,
        missing,
        config.steps,
        config.policy,
        config.seed,
        config.workers,
        block=config.block,
        policy_options=config.policy_options,
    )
    frames = config.steps + 1
    with tqdm(
        total=len(missing) * frames, desc="collect", unit="frame", unit_scale=True, disable=None, leave=False
    ) as bar:
        for count, (index, episode) in enumerate(episodes, 1):
            writer.write(index, episode)
            bar.update(frames)
            if count % 50 == 0:
                job.record_seconds()


def outcome(store: EpisodeStore) -> str:
    """What the command says at its end."""
    said = f"{len(store)} episodes, {int((store.steps + 1).sum())} frames in {store.path}"
    if store.path.parent.name == "shards":
        said += "; when all shards are there, the same command without shard=... puts them together"
    return said


if __name__ == "__main__":
    from experiments.cli import main_for

    raise SystemExit(main_for("collect"))
