"""Write what a run found as one HTML page with videos and pictures, which opens without a server.

Of a demo or an agent it shows how it plays and where it fails, of a pretraining what the features see, of an evaluation
what a world model predicts, and of a directory that holds several runs how they compare.

Example:
    worldmodel report run=runs/demo
    worldmodel report run=runs/pretrain/a1b2c3d4
    worldmodel report run=runs/ablations
"""

from dataclasses import dataclass
from pathlib import Path

from experiments.common import split_episodes
from experiments.machine import system
from worldmodel.report.artefacts import DemoRun
from worldmodel.report.comparison import write_comparison
from worldmodel.report.demo_report import write_report
from worldmodel.report.evaluation_report import write_evaluation_report, write_evaluations
from worldmodel.report.kinds import kind_of
from worldmodel.report.plan_report import write_plan_report, write_plans_report
from worldmodel.report.pretraining_report import remake_pretraining_report


@dataclass
class Config:
    """Settings of a report."""

    #: Directory of a demo, a pretraining, an evaluation or an agent's tasks (worldmodel plan), or of several such runs
    #: to compare; the report goes into it.
    run: str = "runs/demo"
    #: Size of the feature pictures' input, as a multiple of the training's; 2 gives finer maps.
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.scale <= 0:
            raise ValueError(f"scale={self.scale} must be above 0")


def run(config: Config) -> Path:
    """Write report.html and pictures beside it; returns the page's path."""
    kind = kind_of(config.run)
    if kind == "pretraining":
        return remake_pretraining_report(config.run, scale=config.scale)
    if kind == "comparison":
        return write_comparison(config.run)
    if kind == "evaluation":
        return write_evaluation_report(config.run)
    if kind == "evaluations":
        return write_evaluations(config.run)
    if kind == "plan":
        return write_plan_report(config.run)
    if kind == "plans":
        return write_plans_report(config.run)
    demo = DemoRun(config.run)
    # The encoder's run says which episodes were held out; the demo gives all of its stages the same share.
    trained = demo.json("pretrain/config.json") or demo.json("train_vjepa/config.json") or {}
    held_out = trained.get("held_out", 0.05)
    found = system()
    machine = {
        "System": f"{found['os']}, {found['cores']} cores, {found['memory_gib']} GiB memory",
        "Python": found["python"],
    }
    page, _ = write_report(demo, lambda store: split_episodes(store, held_out), machine)
    return page


def outcome(page: Path) -> str:
    """What the command says at its end."""
    return f"wrote {page}"


if __name__ == "__main__":
    from experiments.cli import main_for

    raise SystemExit(main_for("report"))
