"""Write what a demo found as one HTML page with videos and pictures, which opens without a server.

Example:
    worldmodel report run=runs/demo
"""

from dataclasses import dataclass
from pathlib import Path

from experiments.common import split_episodes
from experiments.machine import system
from worldmodel.report.artefacts import DemoRun
from worldmodel.report.demo_report import write_report


@dataclass
class Config:
    """Settings of a report."""

    #: Directory that worldmodel demo made; the report is written into it.
    run: str = "runs/demo"


def run(config: Config) -> Path:
    """Write report.html and overview.png; returns the page's path."""
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
