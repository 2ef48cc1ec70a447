"""Far goals: planning on two levels beside one, where one fails for lack of horizon even with the true simulator.

Goals are behind a wall whose door is far away, so that the way begins by leading away from them. Each stage is a
command of its own; an interrupted experiment continues when run again.

Example:
    worldmodel hierarchy
    worldmodel hierarchy seed=1 out=runs/hierarchy_seed1
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.suites import load_suite
from experiments.compare import compare, read_results
from experiments.stages import Stage, seconds_of
from worldmodel.atomic import write_json

#: Environment actions in a model step.
BLOCK = 5
#: Model steps in a slow step.
SLOW_STEPS = 3
#: Slow steps of a slow plan: 75 environment steps, where the longest way takes 55. With more, plans have time to spare.
SLOW_HORIZON = 5
#: What every row of a model and of the simulator plans with: 25 environment steps ahead.
SEARCH = [f"planner.action_block={BLOCK}", "planner.horizon=5"]
#: What a policy is called in tables.
LABELS = {
    "hierarchical": "two levels",
    "flat": "one level",
    "flat_far": "one level, as far as two",
    "simulator": "simulator, straight distance",
    "simulator_way": "simulator, length of the way",
    "random": "random",
}


@dataclass
class Config:
    """Settings of the experiment; each stage's other settings are its command's defaults."""

    #: Directory of all stages.
    out: str = "runs/hierarchy"
    #: Suite of far goals.
    suite: str = "two_room_published_far"
    #: Its first tasks; 0: all.
    tasks: int = 0
    #: Seed of data, weights and planning. The held-out tasks are the same for every seed.
    seed: int = 0
    #: Episodes of 100 steps to collect.
    episodes: int = 600
    #: Training steps of V-JEPA; 0: no pretraining, an encoder with random weights.
    pretrain_steps: int = 600
    #: Training steps of the world model on the frozen encoder.
    train_steps: int = 2500
    #: Training steps of the slow level.
    slow_steps: int = 3000

    def __post_init__(self) -> None:
        if self.pretrain_steps < 0 or min(self.train_steps, self.slow_steps, self.episodes) < 1:
            raise ValueError(
                "episodes, train_steps and slow_steps must be at least 1, pretrain_steps at least 0"
            )


def stages(config: Config) -> list[Stage]:
    """The experiment's commands, in order."""
    out, seed = config.out, f"seed={config.seed}"
    env, data, model = load_suite(config.suite).env_id, f"data={out}/data", f"model={out}/train/model"
    encoder = f"encoder_from={out}/pretrain/model" if config.pretrain_steps else "variant=untrained"

    def plan(name: str, what: str, *overrides: str) -> Stage:
        common = [f"suite={config.suite}", f"tasks={config.tasks}", seed, f"out={out}/plan_{name}"]
        return Stage(f"plan_{name}", what, "plan", [*overrides, *common])

    pretrain = [data, f"loop.steps={config.pretrain_steps}", "report=false", seed, f"out={out}/pretrain"]
    learn = Stage("pretrain", "V-JEPA learns to predict hidden parts of clips.", "pretrain", pretrain)
    return [
        Stage("collect", "A ball goes to one random place after another, and wanders.", "collect",
              [f"env={env}", "policy=goal_directed", f"episodes={config.episodes}", "steps=100", seed,
               f"out={out}/data"]),
        *([learn] if config.pretrain_steps else []),
        Stage("train", f"A head and a predictor over {BLOCK} actions learn on the frozen encoder.", "train",
              [data, encoder, f"action_block={BLOCK}", "window=6", f"loop.steps={config.train_steps}", seed,
               f"out={out}/train"]),
        Stage("train_slow", f"A slow level learns steps of {SLOW_STEPS} model steps.", "train_slow",
              [model, data, f"slow.steps={SLOW_STEPS}", "window=5", f"loop.steps={config.slow_steps}", seed,
               f"out={out}/train_slow"]),
        plan("hierarchical", "Plans on two levels.", "agent=hierarchical", model, *SEARCH,
             f"slow.planner.horizon={SLOW_HORIZON}"),
        plan("flat", "The same search on the fast level alone.", model, *SEARCH),
        plan("flat_far", "The fast level alone, as far and with as many plans as the slow one.", model, SEARCH[0],
             f"planner.horizon={SLOW_HORIZON * SLOW_STEPS}", "planner.samples=512", "planner.elites=8",
             "planner.iterations=5", "cost.path=1", "cost.final=0", "cost.minimum=3"),
        plan("simulator", "The search of one level with the true simulator, whose cost knows no walls either.",
             "agent=simulator", "simulator_distance=straight", *SEARCH),
        plan("simulator_way", "Control: the same with the length of the way as its cost, a perfect value.",
             "agent=simulator", *SEARCH),
        plan("random", "Random actions.", "agent=random"),
    ]  # fmt: skip


def run(config: Config) -> dict[str, Any]:
    """Run the stages that are not done yet, print a line for each, and write summary.json."""
    out = Path(config.out).expanduser()
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for stage in stages(config):
        stage.run()
        seconds = seconds_of(out / ("data" if stage.name == "collect" else stage.name))
        rows.append({"name": stage.name, "what": stage.what, "command": stage.command, "seconds": seconds})
        print(f"{stage.name:20} {seconds:6.1f} s   {stage.what}", flush=True)
    results = {name: read_results(str(out / f"plan_{name}")) for name in LABELS}
    summary = {"stages": rows, "policies": {name: read_row(name, results) for name in LABELS}}
    write_json(out / "summary.json", summary)
    return {**summary, "out": str(out)}


def read_row(name: str, results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """How one policy did, and how much better two levels do on the same tasks, with the paired interval."""
    found = results[name]
    keys = ("successes", "episodes", "interval", "seconds_per_decision")
    row = {"label": LABELS[name], **{key: found[key] for key in keys}}
    if name != "hierarchical":
        pair = compare({"a": results["hierarchical"], "b": found})
        row["two_levels_minus_this"] = [pair["difference"], *pair["interval"]]
    return row


def outcome(summary: dict[str, Any]) -> str:
    """What the command says at its end."""
    lines = [f"{'policy':30} goals reached   95% interval   two levels reach more, in points"]
    for row in summary["policies"].values():
        low, high = row["interval"]
        reached = f"{row['successes']}/{row['episodes']}"
        gain = ""
        if "two_levels_minus_this" in row:
            more, least, most = (100 * value for value in row["two_levels_minus_this"])
            gain = f"{more:+.1f} ({least:+.1f} to {most:+.1f})"
        lines.append(f"{row['label']:30} {reached:>13}   {low:5.0%} to {high:4.0%}   {gain}")
    seconds = sum(row["seconds"] for row in summary["stages"])
    return "\n".join([*lines, f"{seconds / 60:.1f} minutes in all; {summary['out']}/summary.json"])


if __name__ == "__main__":
    from experiments.cli import main_for

    raise SystemExit(main_for("hierarchy"))
