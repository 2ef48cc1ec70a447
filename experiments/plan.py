"""Act in an environment on held-out tasks, and measure how many goals are reached.

Example:
    worldmodel plan model=runs/train/<hash>/model
    worldmodel plan suite=two_room model=runs/train/<hash>/model
    worldmodel plan agent=random
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING
from tqdm import tqdm

from envs.evaluate import NoOp, Policy, RandomPolicy, Replay, Scripted, TaskResult, evaluate
from envs.sharding import parse_shard, shard_indices, shard_name
from envs.suites import load_suite
from envs.task import AFTER_SUCCESS, TaskSuite, make_suite
from experiments.agents import (
    INIT_STDS,
    LatentPolicy,
    SimulatorPolicy,
    latent_agent,
    simulator_agent,
    simulator_latent_policy,
)
from experiments.common import open_run, prepare
from experiments.levels import hierarchical_agent, slow_of
from experiments.plan_agents import AGENTS, SEARCHES, check_agent
from experiments.plan_files import FinishedTasks, summarise, versions
from experiments.plan_search import SearchPictures, viewer
from planners.costs import GoalCostConfig
from planners.hierarchical import HierarchyConfig
from planners.mpc import MPCConfig
from planners.registry import PLANNERS
from worldmodel.atomic import write_json
from worldmodel.models.dynamics import RolloutConfig
from worldmodel.models.files import directory_hash
from worldmodel.models.parts import load_value
from worldmodel.models.world_model import WorldModel
from worldmodel.training.run import Run

_ENV, _TASKS = "worldmodel/TwoRoom-v0", 100
#: Processes that a launcher started work side by side with `shard=auto`.
SHARDED = True

SCHEMAS = {f"planner/{kind}": found[0] for kind, found in PLANNERS.items()}


@dataclass
class Config:
    """Settings of an evaluation."""

    #: world_model, hierarchical (whose slow level proposes sub-goals), or a control: simulator_latent (the true
    #: simulator, judged by the model's latents), simulator (the true simulator and distance), scripted (the world's
    #: hand-written policy), replay (the recorded solutions), random or noop.
    agent: str = "world_model"
    #: world_model, hierarchical, simulator_latent: model directory that worldmodel train made.
    model: str = ""
    #: Task suite: the name of one that comes with the toolkit, or its file; empty: made for `env` from `tasks_seed`.
    suite: str = ""
    #: Gymnasium id of the environment; empty: the suite's, or worldmodel/TwoRoom-v0.
    env: str = ""
    #: Held-out tasks: how many, the first ones of a suite; 0: all of it, or 100 where they are made.
    tasks: int = 0
    #: Without a suite: the seed that tasks are made from (collection draws from other streams).
    tasks_seed: int = 0
    #: Whether the model may have been trained in another environment, of the same actions and pictures.
    other_world: bool = False
    #: What follows a success: freeze, or continue to the horizon, which shows whether the agent stays at the goal.
    after_success: str = "freeze"
    #: Run directory; empty: runs/plan/<hash of the configuration>.
    out: str = ""
    #: Environments at once; outcomes do not depend on it.
    num_envs: int = 10
    #: Play only the tasks at positions i, i + n, ...: "i/n", or "auto" under torchrun or in a Slurm array. The same
    #: command without it puts the shards together.
    shard: str = ""
    planner: Any = MISSING
    cost: GoalCostConfig = field(default_factory=GoalCostConfig)
    mpc: MPCConfig = field(default_factory=MPCConfig)
    #: hierarchical: the slow level's search and cost, and how often it plans; other settings are the fast level's.
    slow: HierarchyConfig = field(default_factory=HierarchyConfig)
    #: simulator: what its cost measures. way: what is left to go; straight: the Euclidean distance, blind to walls.
    simulator_distance: str = "way"
    #: Distance to the goal (hierarchical: the slow level's) is what the value head says that train_value trained.
    value: bool = False
    #: Spread of a world model's first candidate plans: that of the data's actions, or of the action bounds.
    init_std: str = "data"
    #: How a world model imagines plans: fp32 or bf16, compiled, within how much memory.
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    #: Tasks whose searches are pictured, the first ones, in search/ and in the report; changes no outcome.
    pictures: int = 0
    #: Episodes whose frames show what the model imagines: the nearest ones. Empty: by the pixel decoder that
    #: worldmodel evaluate trains, else by pictures of the world's random tasks.
    pictures_data: str = ""
    #: Of the planner and of random actions.
    seed: int = 0
    #: auto, cpu or cuda.
    device: str = "auto"
    #: torch threads; 0: as many as torch finds cores.
    threads: int = 0

    def __post_init__(self) -> None:
        if self.agent not in AGENTS:
            raise ValueError(f"agent={self.agent!r} is unknown; choose one of {', '.join(AGENTS)}")
        check_agent(self)
        if self.init_std not in INIT_STDS:
            raise ValueError(f"init_std={self.init_std!r} is unknown; choose {' or '.join(INIT_STDS)}")
        if self.after_success not in AFTER_SUCCESS:
            raise ValueError(
                f"after_success={self.after_success!r} is unknown; choose {' or '.join(AFTER_SUCCESS)}"
            )
        if self.tasks < 0 or self.num_envs < 1:
            raise ValueError("tasks must not be negative, and num_envs at least 1")
        if self.shard != "auto":  # the launcher is asked when it runs; settings can be looked at without one
            parse_shard(self.shard)


def run(config: Config) -> dict[str, Any]:
    """Play the tasks that are missing and return the results."""
    suite, shard = load_tasks(config), parse_shard(config.shard)
    model = directory_hash(Path(config.model)) if config.model else ""
    policy_on = load_policy(config, suite)  # says what is wrong before there is a directory
    part = f"shards/{shard_name(shard)}" if shard else ""
    inputs = {"model": model, "suite": suite.hash}
    if config.agent == "hierarchical":
        inputs["slow"] = directory_hash(Path(config.model) / "slow")
    if config.value:
        inputs["value"] = directory_hash(Path(config.model) / "value")
    job = open_run("plan", config, inputs, part)
    device = prepare(job, config.device, config.threads)
    policy, pictures = policy_on(device), None
    if config.pictures:
        pictures = search_pictures(config, suite, device)
        policy = pictures.watch(policy)
    finished = FinishedTasks(job.path)
    if shard is None:
        finished.take_over(job.path / "shards", job.config)
    mine = [suite.tasks[index].id for index in shard_indices(len(suite), shard)]
    left_out = {task.id for task in suite} - set(mine)
    bar = tqdm(
        total=len(mine), initial=len(finished.rows), desc=f"plan ({config.agent})", unit="task", disable=None,
        leave=False,
    )  # fmt: skip

    def keep(result: TaskResult) -> None:
        if pictures is not None:
            pictures.draw(result, job.path / "search")
        finished.add(result)
        job.record_seconds()
        bar.update()

    suite.save(job.path / "suite.json")
    evaluate(
        suite,
        policy,
        config.num_envs,
        on_result=keep,
        record=mine,
        seed=config.seed,
        done=left_out | finished.rows.keys(),
        after_success=config.after_success,
    )
    bar.close()
    found = {"shard": shard_name(shard)} if shard else results_of(job, config, suite, finished.sorted())
    if shard is None:
        write_json(job.path / "results.json", found)
    if job.done is None:
        job.finish({key: found[key] for key in ("successes", "episodes") if key in found} or found)
    job.close()
    return {**found, "episodes": len(mine), "path": str(job.path if shard else job.path / "results.json")}


def outcome(results: dict[str, Any]) -> str:
    """What the command says at its end."""
    if "shard" in results:
        return (
            f"{results['episodes']} tasks played, shard {results['shard']} ({results['path']}); when all shards are "
            "done, the same command without shard puts them together"
        )
    low, high = results["interval"]
    reached = f"{results['successes']} of {results['episodes']} goals reached"
    return f"{reached} (95% interval {low:.0%} to {high:.0%}); {results['path']}"


def load_tasks(config: Config) -> TaskSuite:
    """The tasks that the configuration names.

    Raises:
        ValueError: There is no such suite, it has fewer tasks, or it belongs to another environment.
    """
    if not config.suite:
        return make_suite(config.env or _ENV, config.tasks or _TASKS, config.tasks_seed)
    suite = load_suite(config.suite)
    if config.env not in ("", suite.env_id):
        raise ValueError(
            f"the tasks of suite={config.suite} belong to {suite.env_id}, not to env={config.env}; leave env out"
        )
    return suite.first(config.tasks) if config.tasks else suite


def load_policy(config: Config, suite: TaskSuite) -> Callable[[str], Policy]:
    """Load what the agent needs, once, and see that it fits; the answer makes the policy on a device.

    Raises:
        ValueError: The model was trained in another environment, or something else does not fit.
    """
    search, env = (config.planner, config.cost, config.mpc), suite.env_id
    if config.agent == "simulator":
        simulator = SimulatorPolicy(simulator_agent(env, *search, config.simulator_distance))
        return lambda device: simulator
    if not AGENTS[config.agent]:
        policy = Replay(suite) if config.agent == "replay" else _CONTROLS[config.agent](env)
        return lambda device: policy
    model = WorldModel.load(config.model)
    if model.config.env_id != env and not config.other_world:
        raise ValueError(
            f"{config.model} was trained in {model.config.env_id}, not in env={env}; give env=..., or say "
            "other_world=true if actions and pictures are the same"
        )

    value = load_value(Path(config.model) / "value", config.model) if config.value else None

    slow = slow_of(config.model) if config.agent == "hierarchical" else None

    def make(device: str) -> Policy:
        if slow is not None:
            levels = (model, slow, *search, config.slow)
            return LatentPolicy(hierarchical_agent(*levels, device, config.init_std, value))
        if config.agent == "simulator_latent":
            return simulator_latent_policy(env, model, *search, device, config.init_std)
        return LatentPolicy(latent_agent(model, *search, device, config.init_std, value, config.rollout))

    make("cpu")
    return make


def search_pictures(config: Config, suite: TaskSuite, device: str) -> SearchPictures:
    """What draws the pictures of ``config.pictures`` tasks."""
    side = SEARCHES[config.agent]
    if config.agent != "world_model":
        return SearchPictures(suite, config.pictures, config.seed, side=side)
    model = WorldModel.load(config.model).to(device).eval()
    view = viewer(Path(config.model), model, suite.env_id, config.pictures_data, device)
    return SearchPictures(suite, config.pictures, config.seed, model, view, side)


_CONTROLS: dict[str, Callable[[str], Policy]] = {"scripted": Scripted, "random": RandomPolicy, "noop": NoOp}


def results_of(job: Run, config: Config, suite: TaskSuite, tasks: list[dict[str, Any]]) -> dict[str, Any]:
    """What ``results.json`` has: how it went, and all that is needed to do it again."""
    return {
        "agent": config.agent,
        "env": suite.env_id,
        "model": job.config["inputs"]["model"],
        "suite": suite.hash,
        "suite_name": suite.name,
        "horizon": suite.horizon,
        "after_success": config.after_success,
        "seeds": {"plan": config.seed, "tasks": None if config.suite else config.tasks_seed},
        "versions": versions(),
        **summarise(tasks, suite.horizon),
        "tasks": tasks,
    }


if __name__ == "__main__":
    from experiments.cli import main_for

    raise SystemExit(main_for("plan"))
