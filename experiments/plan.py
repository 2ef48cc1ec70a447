"""Act in an environment on held-out tasks, and measure how many goals are reached.

Example:
    worldmodel plan model=runs/train/<hash>/model
    worldmodel plan agent=random
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from envs.evaluate import NoOp, Policy, RandomPolicy, TaskResult, evaluate, wilson
from envs.task import TaskSuite, make_suite
from experiments.agents import INIT_STDS, LatentPolicy, SimulatorPolicy, latent_agent, simulator_agent
from experiments.common import open_run, prepare
from planners.cem import CEMConfig
from planners.costs import GoalCostConfig
from planners.mpc import MPCConfig
from worldmodel.atomic import write_atomic, write_bytes, write_json
from worldmodel.models.files import directory_hash
from worldmodel.models.world_model import WorldModel
from worldmodel.training.run import Run

AGENTS = ("world_model", "simulator", "random", "noop")


@dataclass
class Config:
    """Settings of an evaluation."""

    #: world_model, or a control: simulator (the true simulator and distance), random or noop.
    agent: str = "world_model"
    #: world_model: model directory that worldmodel train made.
    model: str = ""
    #: Gymnasium id of the environment.
    env: str = "worldmodel/TwoRoom-v0"
    #: Held-out tasks: how many, and the seed that they are made from (collection draws from other streams).
    tasks: int = 100
    #: See tasks.
    tasks_seed: int = 0
    #: Run directory; empty: runs/plan/<hash of the configuration>.
    out: str = ""
    #: Environments at once; outcomes do not depend on it.
    num_envs: int = 10
    planner: CEMConfig = field(default_factory=CEMConfig)
    cost: GoalCostConfig = field(default_factory=GoalCostConfig)
    mpc: MPCConfig = field(default_factory=MPCConfig)
    #: Spread of a world model's first candidate plans: that of the data's actions, or of the action bounds.
    init_std: str = "data"
    #: Of the planner and of random actions.
    seed: int = 0
    #: auto, cpu or cuda.
    device: str = "auto"
    #: torch threads; 0: as many as torch finds cores.
    threads: int = 0

    def __post_init__(self) -> None:
        if self.agent not in AGENTS:
            raise ValueError(f"agent={self.agent!r} is unknown; choose one of {', '.join(AGENTS)}")
        if (self.agent == "world_model") != bool(self.model):
            raise ValueError(
                "agent=world_model needs model=MODEL_DIRECTORY, which worldmodel train makes"
                if self.agent == "world_model"
                else f"agent={self.agent} uses no world model: leave model out"
            )
        if self.init_std not in INIT_STDS:
            raise ValueError(f"init_std={self.init_std!r} is unknown; choose {' or '.join(INIT_STDS)}")
        if self.tasks < 1 or self.num_envs < 1:
            raise ValueError("tasks and num_envs must be at least 1")


def run(config: Config) -> dict[str, Any]:
    """Evaluate the tasks that are missing and return the results."""
    suite = make_suite(config.env, config.tasks, config.tasks_seed)
    model = directory_hash(Path(config.model)) if config.model else ""
    make_policy(config, "cpu")  # says what is wrong before there is a directory
    job = open_run("plan", config, {"model": model, "suite": suite.hash})
    policy = make_policy(config, prepare(job, config.device, config.threads))
    log = job.path / "tasks.jsonl"
    done = _read_done(log)
    bar = tqdm(
        total=config.tasks,
        initial=len(done),
        desc=f"plan ({config.agent})",
        unit="task",
        disable=None,
        leave=False,
    )

    def keep(result: TaskResult) -> None:
        save_episode(job.path / "episodes" / f"{result.id:04d}.npz", result)
        with open(log, "a") as file:
            file.write(json.dumps(result.to_json()) + "\n")
        done[result.id] = result.to_json()
        job.record_seconds()
        bar.update()

    (job.path / "episodes").mkdir(exist_ok=True)
    suite.save(job.path / "suite.json")
    evaluate(
        suite,
        policy,
        config.num_envs,
        on_result=keep,
        record=range(config.tasks),
        seed=config.seed,
        done=tuple(done),
    )
    bar.close()
    return write_results(job, config, suite, [done[i] for i in sorted(done)])


def outcome(results: dict[str, Any]) -> str:
    """What the command says at its end."""
    low, high = results["interval"]
    reached = f"{results['successes']} of {results['episodes']} goals reached"
    return f"{reached} (95% interval {low:.0%} to {high:.0%}); {results['path']}"


def make_policy(config: Config, device: str) -> Policy:
    """The policy that the configuration names.

    Raises:
        ValueError: The model was trained in another environment.
    """
    if config.agent == "noop":
        return NoOp(config.env)
    if config.agent == "random":
        return RandomPolicy(config.env)
    if config.agent == "simulator":
        return SimulatorPolicy(simulator_agent(config.env, config.planner, config.cost, config.mpc))
    model = WorldModel.load(config.model)
    if model.config.env_id != config.env:
        raise ValueError(
            f"{config.model} was trained in {model.config.env_id}, not in env={config.env}; give env=..."
        )
    return LatentPolicy(latent_agent(model, config.planner, config.cost, config.mpc, device, config.init_std))


def write_results(job: Run, config: Config, suite: TaskSuite, tasks: list[dict[str, Any]]) -> dict[str, Any]:
    """Summarise the tasks into ``results.json``."""
    successes = sum(task["success"] for task in tasks)
    results = {
        "agent": config.agent,
        "model": job.config["inputs"]["model"],
        "suite": suite.hash,
        "episodes": len(tasks),
        "successes": successes,
        "interval": wilson(successes, len(tasks)),
        "other_room": [
            sum(t["success"] for t in tasks if t["label"] == "other room"),
            sum(t["label"] == "other room" for t in tasks),
        ],
        "seconds_per_decision": float(np.mean([t["seconds_per_decision"] for t in tasks])),
        "tasks": tasks,
    }
    write_json(job.path / "results.json", results)
    if job.done is None:
        job.finish({"successes": successes, "episodes": len(tasks)})
    job.close()
    return {**results, "path": str(job.path / "results.json")}


def save_episode(path: Path, result: TaskResult) -> None:
    """Keep an episode's frames ``(steps + 1, C, H, W)`` and its goal's picture, for reports."""

    frames, goal = result.frames, result.goal_frame
    assert frames is not None and goal is not None, "every task is recorded"

    def write(file: Path) -> None:
        with open(file, "wb") as stream:
            np.savez_compressed(stream, frames=frames, goal=goal)

    write_atomic(path, write)


def _read_done(path: Path) -> dict[int, dict[str, Any]]:
    """Finished tasks of an interrupted evaluation; a line that was cut short does not count."""
    if not path.exists():
        return {}
    content = path.read_text()
    whole = content[: content.rfind("\n") + 1]
    if whole != content:
        write_bytes(path, whole.encode())
    return {task["id"]: task for task in map(json.loads, whole.splitlines())}


if __name__ == "__main__":
    from experiments.cli import main_for

    raise SystemExit(main_for("plan"))
