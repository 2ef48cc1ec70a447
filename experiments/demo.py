"""The whole road in minutes on a CPU: collect pixels, pretrain V-JEPA, train world models, plan to goal images.

Each stage is a command of its own, which the report lists. An interrupted demo continues when run again.

Example:
    worldmodel demo
    worldmodel demo seed=1 out=runs/demo_seed1
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.stages import Stage, seconds_of
from worldmodel.atomic import read_json, write_json

POLICIES = ("vjepa", "untrained_encoder", "end_to_end", "simulator", "random", "noop")


@dataclass
class Config:
    """Settings of the demo; each stage's other settings are its command's defaults."""

    #: Directory of all stages and of report.html.
    out: str = "runs/demo"
    #: Seed of data, weights and planning. The held-out tasks are the same for every seed.
    seed: int = 0
    #: Episodes of 40 steps to collect.
    episodes: int = 1000
    #: Training steps of V-JEPA.
    pretrain_steps: int = 600
    #: Training steps of the two world models on a frozen encoder.
    train_steps: int = 600
    #: Training steps of the end-to-end model.
    end_to_end_steps: int = 400
    #: Held-out tasks.
    tasks: int = 100


def stages(config: Config) -> list[Stage]:
    """The demo's commands, in order."""
    out, seed = config.out, f"seed={config.seed}"
    data, encoder = f"data={out}/data", f"encoder_from={out}/pretrain/model"
    frozen = f"loop.steps={config.train_steps}"

    def plan(name: str, what: str, *overrides: str) -> Stage:
        return Stage(
            f"plan_{name}",
            what,
            "plan",
            [*overrides, f"tasks={config.tasks}", seed, f"out={out}/plan_{name}"],
        )

    def plan_with(name: str, what: str) -> Stage:
        return plan(name, what, f"model={out}/train_{name}/model")

    return [
        Stage("collect", "A ball explores two rooms; its pixels and actions are kept.", "collect",
              [f"episodes={config.episodes}", seed, f"out={out}/data"]),
        Stage("pretrain", "V-JEPA learns to predict hidden parts of clips, without looking at actions.", "pretrain",
              [data, f"loop.steps={config.pretrain_steps}", "report=false", seed, f"out={out}/pretrain"]),
        Stage("train_vjepa", "A head and a predictor of the next latent learn on the frozen V-JEPA encoder.", "train",
              [data, encoder, frozen, seed, f"out={out}/train_vjepa"]),
        Stage("train_untrained_encoder", "Control: the same on an encoder with random weights.", "train",
              [data, "variant=untrained", frozen, seed, f"out={out}/train_untrained_encoder"]),
        Stage("train_end_to_end", "Comparison: encoder, head and predictor learn together from pixels.", "train",
              [data, "variant=end_to_end", f"loop.steps={config.end_to_end_steps}", "loop.batch_size=32", seed,
               f"out={out}/train_end_to_end"]),
        plan_with("vjepa", "The agent plans in V-JEPA's latent space to goal images that it has never seen."),
        plan_with("untrained_encoder", "The same agent on the untrained encoder."),
        plan_with("end_to_end", "The same agent on the end-to-end model."),
        plan("simulator", "Control: a smaller search with the true simulator and the true distance.", "agent=simulator",
             "planner.samples=48", "planner.elites=8", "planner.iterations=2", "planner.horizon=6"),
        plan("random", "Random actions.", "agent=random"),
        plan("noop", "No action at all.", "agent=noop"),
    ]  # fmt: skip


def run(config: Config) -> dict[str, Any]:
    """Run the stages that are not done yet, print a table, and write summary.json and report.html."""
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for stage in stages(config):
        seconds = run_stage(stage, out)
        rows.append({"name": stage.name, "what": stage.what, "command": stage.command, "seconds": seconds})
        write_json(out / "stages.json", rows)
        print(f"{stage.name:26} {seconds:6.1f} s   {stage.what}", flush=True)
    began = time.monotonic()
    run_stage(Stage("report", "", "report", [f"run={out}"]), out)
    rows.append({"name": "report", "seconds": time.monotonic() - began})
    summary = summarise(out, rows)
    write_json(out / "summary.json", summary)
    print_table(out, summary)
    return summary


def run_stage(stage: Stage, out: Path) -> float:
    """Run, finish or skip a stage as its command would; returns its seconds over all interruptions."""
    stage.run()
    return seconds_of(out / ("data" if stage.name == "collect" else stage.name))


def summarise(out: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Successes per policy and minutes per stage."""
    results = {name: json.loads((out / f"plan_{name}" / "results.json").read_text()) for name in POLICIES}
    policies = {
        name: {key: result[key] for key in ("successes", "episodes")} for name, result in results.items()
    }
    minutes = {row["name"]: round(row["seconds"] / 60, 2) for row in rows}
    minutes["total"] = round(sum(row["seconds"] for row in rows) / 60, 2)
    return {"policies": policies, "minutes": minutes}


def print_table(out: Path, summary: dict[str, Any]) -> None:
    """Goals reached per policy, with 95% intervals."""
    print(f"\n{'policy':20} goals reached   95% interval   through the door")
    for name in POLICIES:
        result = read_json(out / f"plan_{name}" / "results.json")
        low, high = result["interval"]
        door, doors = result["labels"].get("other room", (0, 0))
        reached = f"{result['successes']}/{result['episodes']}"
        print(f"{name:20} {reached:>13}   {low:5.0%} to {high:4.0%}   {f'{door}/{doors}':>16}")
    print(f"\n{summary['minutes']['total']:.1f} minutes in all. Open {out}/report.html")


if __name__ == "__main__":
    from experiments.cli import main_for

    raise SystemExit(main_for("demo"))
