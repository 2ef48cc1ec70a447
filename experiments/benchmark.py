"""Play a task suite with a world model and with all that it must be compared to, and write one table.

Beside the model stand what cannot fail (replayed solutions), what needs no model (random, no action, the world's own
script), and two rows that tell where failures come from: search with the true simulator and the true distance, and
with the true simulator and the model's latents. Each row is a run of its own, which continues when interrupted.

Example:
    worldmodel benchmark suite=two_room model=runs/train/<hash>/model
    worldmodel benchmark suite=two_room rows=[random,noop,replay]
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from envs.suites import load_suite
from envs.world import make_world
from experiments import plan
from experiments.compare import compare, read_results
from experiments.plan_agents import AGENTS
from planners.costs import GoalCostConfig
from planners.mpc import MPCConfig
from planners.registry import NEEDS_GRADIENT, PLANNERS, planner_kind
from worldmodel.atomic import write_json
from worldmodel.models.files import directory_hash
from worldmodel.report.plan_report import write_plans_report

SCHEMAS = {f"planner/{kind}": found[0] for kind, found in PLANNERS.items()}


@dataclass
class Config:
    """Settings of a benchmark; those that plan has too mean the same."""

    #: Model directory that worldmodel train made; empty: the rows without a model only.
    model: str = ""
    #: Task suite: the name of one that comes with the toolkit, or its file.
    suite: str = "two_room"
    #: The first so many tasks; 0: all.
    tasks: int = 0
    #: Agents to play; empty: all, those that need a model if there is one.
    rows: list[str] = field(default_factory=list)
    #: Directory of all rows and of report.html; empty: runs/benchmark/<suite>_<hash of the model>.
    out: str = ""
    #: Environments at once.
    num_envs: int = 10
    planner: Any = MISSING
    cost: GoalCostConfig = field(default_factory=GoalCostConfig)
    mpc: MPCConfig = field(default_factory=MPCConfig)
    #: Samples of the row simulator_latent, which draws and encodes every imagined picture; 0: those of the planner.
    latent_samples: int = 16
    #: Spread of a world model's first candidate plans: that of the data's actions, or of the action bounds.
    init_std: str = "data"
    #: What follows a success: freeze, or continue.
    after_success: str = "freeze"
    #: Whether the model may have been trained in another environment.
    other_world: bool = False
    #: Of the planner and of random actions.
    seed: int = 0
    #: auto, cpu or cuda.
    device: str = "auto"
    #: torch threads; 0: as many as torch finds cores.
    threads: int = 0

    def __post_init__(self) -> None:
        if unknown := [row for row in self.rows if row not in AGENTS]:
            raise ValueError(f"rows has no {', '.join(unknown)}; choose from {', '.join(AGENTS)}")
        if self.latent_samples < 0:
            raise ValueError(f"latent_samples={self.latent_samples} must not be negative")
        if self.rows and not self.model and (needy := [row for row in self.rows if AGENTS[row]]):
            raise ValueError(
                f"rows={','.join(needy)} needs model=MODEL_DIRECTORY, which worldmodel train makes"
            )


def run(config: Config) -> dict[str, Any]:
    """Play the rows that are missing, print a table, and write summary.json and report.html."""
    out = Path(config.out or f"runs/benchmark/{_name(config)}").expanduser()
    rows = [plan_of(agent, config, out) for agent in AGENTS if wanted(agent, config)]
    for row in rows:
        plan.load_policy(row, plan.load_tasks(row))  # says what is wrong before any row is played
    found = {row.agent: plan.run(row) for row in rows}
    suite = found[rows[0].agent]["suite"]
    played = [agent for agent in AGENTS if (out / agent / "results.json").is_file()]
    results = {agent: read_results(str(out / agent)) for agent in played}
    results = {agent: row for agent, row in results.items() if row["suite"] == suite}
    summary = {agent: _summary(agent, results) for agent in results}
    write_json(out / "summary.json", summary)
    write_plans_report(out)
    print_table(summary)
    return {"rows": summary, "report": str(out / "report.html")}


def outcome(found: dict[str, Any]) -> str:
    """What the command says at its end."""
    return f"wrote {found['report']}"


def wanted(agent: str, config: Config) -> bool:
    """Whether a row belongs to the table: one that was asked for, else those that can be played."""
    if config.rows:
        return agent in config.rows
    if planner_kind(config.planner) in NEEDS_GRADIENT and agent.startswith("simulator"):
        return False  # has none
    if agent == "scripted" and not getattr(make_world(load_suite(config.suite).env_id), "has_script", True):
        return False
    if agent == "hierarchical":
        return bool(config.model) and (Path(config.model) / "slow").is_dir()
    return bool(config.model) or not AGENTS[agent]


def plan_of(agent: str, config: Config, out: Path) -> plan.Config:
    """The settings of ``worldmodel plan`` for a row."""
    planner = config.planner
    if agent == "simulator_latent" and config.latent_samples:
        share = min(1.0, config.latent_samples / planner.samples)
        fewer = {"samples": round(share * planner.samples)}
        if hasattr(planner, "elites"):
            fewer["elites"] = max(2, round(share * planner.elites))
        planner = replace(planner, **fewer)
    cost = config.cost
    if agent == "simulator":  # whose cost is the true distance
        cost = GoalCostConfig(path=cost.path, final=cost.final, minimum=cost.minimum)
    return plan.Config(
        agent=agent,
        model=config.model if AGENTS[agent] else "",
        suite=config.suite,
        tasks=config.tasks,
        other_world=config.other_world,
        after_success=config.after_success,
        out=str(out / agent),
        num_envs=config.num_envs,
        planner=planner,
        cost=cost,
        mpc=config.mpc,
        init_std=config.init_std,
        seed=config.seed,
        device=config.device,
        threads=config.threads,
    )


def print_table(summary: dict[str, dict[str, Any]]) -> None:
    """Goals reached by each row, with intervals, by label, and against the model task by task."""
    print(f"\n{'agent':18} goals reached   95% interval   p against the model   by label")
    for agent, row in summary.items():
        low, high = row["interval"]
        reached = f"{row['successes']}/{row['episodes']}"
        labels = ", ".join(f"{label} {solved}/{n}" for label, (solved, n) in row["labels"].items())
        p = f"{row['p']:.3g}" if "p" in row else ""
        print(f"{agent:18} {reached:>13}   {low:5.0%} to {high:4.0%}   {p:>19}   {labels}")
    print()


def _summary(agent: str, results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    row = results[agent]
    keys = (
        "successes",
        "episodes",
        "interval",
        "final",
        "held",
        "labels",
        "path_efficiency",
        "seconds_per_decision",
    )
    found = {key: row[key] for key in keys}
    if agent != "world_model" and "world_model" in results:
        pair = compare({"a": results["world_model"], "b": row})
        found |= {"model_minus_this": [pair["difference"], *pair["interval"]], "p": pair["p"]}
    return found


def _name(config: Config) -> str:
    model = directory_hash(Path(config.model))[:8] if config.model else "controls"
    return f"{Path(config.suite).stem}_{model}"


if __name__ == "__main__":
    from experiments.cli import main_for

    raise SystemExit(main_for("benchmark"))
