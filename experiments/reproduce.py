"""Make a published result again: collect, train and play a world's suite of 200 held-out tasks, for several seeds.

The recipe of a world is a file, `configs/world/<name>.yaml`; `worldmodel reproduce world=<name>` is all that is needed
for its numbers. Beside the model stand the recorded solutions, search with the true simulator, random actions and
none. Each stage is a command of its own; an interrupted run continues.

Example:
    worldmodel reproduce world=two_room
    worldmodel reproduce world=point_maze seeds=[0]
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from envs.statistics import wilson
from envs.suites import load_suite
from experiments.stages import Stage, seconds_of
from worldmodel.atomic import read_json, write_bytes, write_json
from worldmodel.report.plan_report import write_plans_report
from worldmodel.report.theme import LIGHT
from worldmodel.report.training_time_picture import training_time_picture

CONTROLS = ("simulator", "replay", "random", "noop")


@dataclass
class WorldRecipe:
    """How a world's result is made: settings of the commands, as one would type them."""

    #: Task suite: the name of one that comes with the toolkit, or its file.
    suite: str = "two_room"
    #: Settings of worldmodel collect.
    collect: list[str] = field(default_factory=list)
    #: Settings of worldmodel train.
    train: list[str] = field(default_factory=list)
    #: Training steps; several: one training for each, which shows success over training time.
    steps: list[int] = field(default_factory=lambda: [1200])
    #: Settings of worldmodel plan for the model.
    plan: list[str] = field(default_factory=list)
    #: And for the row with the true simulator; its cost is the true distance, unfiltered.
    simulator: list[str] = field(default_factory=list)


@dataclass
class Config:
    """Settings of a result."""

    world: WorldRecipe = field(default_factory=WorldRecipe)
    #: Seeds of data, weights and planning; each is one row.
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    #: The first so many tasks of the suite; 0: all.
    tasks: int = 0
    #: Rows that stand beside the model.
    controls: list[str] = field(default_factory=lambda: list(CONTROLS))
    #: Directory of all stages and of report.html; empty: runs/reproduce/<suite>.
    out: str = ""

    def __post_init__(self) -> None:
        if not self.seeds or not self.world.steps:
            raise ValueError("seeds and world.steps must not be empty")
        if unknown := [name for name in self.controls if name not in CONTROLS]:
            raise ValueError(f"controls has no {', '.join(unknown)}; choose from {', '.join(CONTROLS)}")


def trainings(config: Config) -> Iterator[tuple[str, int, int]]:
    """The name, seed and steps of each training."""
    for seed in config.seeds:
        for steps in config.world.steps:
            yield f"seed{seed}" + (f"_steps{steps}" if len(config.world.steps) > 1 else ""), seed, steps


def stages(config: Config, out: Path) -> list[Stage]:
    """The commands, in order."""
    world, tasks = config.world, f"tasks={config.tasks}"
    env, suite = f"env={load_suite(world.suite).env_id}", f"suite={world.suite}"
    found = [
        Stage(f"data_seed{seed}", "pixels and actions", "collect",
              [env, *world.collect, f"seed={seed}", f"out={out}/data_seed{seed}"])
        for seed in config.seeds
    ]  # fmt: skip
    for name, seed, steps in trainings(config):
        data, where = f"data={out}/data_seed{seed}", f"out={out}/train_{name}"
        found.append(Stage(f"train_{name}", f"a world model, {steps} steps", "train",
                           [data, *world.train, f"loop.steps={steps}", f"seed={seed}", where]))  # fmt: skip
        found.append(Stage(name, "its plans", "plan",
                           [suite, tasks, f"model={out}/train_{name}/model", *world.plan, f"seed={seed}",
                            f"out={out}/{name}"]))  # fmt: skip
    for agent in config.controls:
        settings = world.simulator if agent == "simulator" else []
        found.append(Stage(agent, "control", "plan",
                           [suite, tasks, f"agent={agent}", *settings, f"out={out}/{agent}"]))  # fmt: skip
    return found


def run(config: Config) -> dict[str, Any]:
    """Run the stages that are not done yet; write summary.json, report.html and, for several steps, a picture."""
    out = Path(config.out or f"runs/reproduce/{Path(config.world.suite).stem}").expanduser()
    commands = []
    for stage in stages(config, out):
        stage.run()
        commands.append(stage.command)
        print(f"{stage.name:24} {seconds_of(out / stage.name):7.1f} s   {stage.what}", flush=True)
    rows = [
        read_row(out, name) | {"seed": seed, "steps": steps, "minutes": training_minutes(out, name)}
        for name, seed, steps in trainings(config)
    ]
    controls = [read_row(out, name) for name in config.controls]
    summary = {"suite": config.world.suite, "models": rows, "controls": controls, "commands": commands}
    write_json(out / "summary.json", summary)
    write_plans_report(out)
    if len(config.world.steps) > 1:
        write_bytes(out / "training_time.png", training_time_picture(rows, LIGHT))
    return {**summary, "out": str(out)}


def read_row(out: Path, name: str) -> dict[str, Any]:
    """How one policy did."""
    found = read_json(out / name / "results.json")
    kept = ("successes", "episodes", "interval", "labels", "seconds_per_decision")
    return {"name": name, **{key: found[key] for key in kept}}


def training_minutes(out: Path, name: str) -> float:
    """Minutes that a training took, by the clock."""
    return seconds_of(out / f"train_{name}") / 60


def outcome(summary: dict[str, Any]) -> str:
    """What the command says at its end."""
    lines = [f"{summary['suite']:24} goals reached   95% interval   training   per decision"]
    for row in [*summary["models"], *summary["controls"]]:
        low, high = row["interval"]
        minutes = f"{row['minutes']:.1f} min" if "minutes" in row else ""
        lines.append(
            f"{row['name']:24} {row['successes']:>9}/{row['episodes']:<4} {low:6.0%} to {high:4.0%}   {minutes:>8}   "
            f"{1000 * row['seconds_per_decision']:8.0f} ms"
        )
    longest = max(row["steps"] for row in summary["models"])
    last = [row for row in summary["models"] if row["steps"] == longest]
    if len(last) > 1:
        reached, played = sum(row["successes"] for row in last), sum(row["episodes"] for row in last)
        low, high = wilson(reached, played)
        lines.append(
            f"{f'{len(last)} trainings together':24} {reached:>9}/{played:<4} {low:6.0%} to {high:4.0%}"
        )
    return "\n".join([*lines, f"wrote {summary['out']}/report.html"])


if __name__ == "__main__":
    from experiments.cli import main_for

    raise SystemExit(main_for("reproduce"))
