"""Which report fits a directory."""

from __future__ import annotations

from pathlib import Path

from worldmodel.atomic import read_json
from worldmodel.report.artefacts import STAGES
from worldmodel.report.comparison import find_runs
from worldmodel.report.evaluation_report import find_evaluations, is_evaluation
from worldmodel.report.plan_report import find_plans, is_plan


def kind_of(directory: str | Path) -> str:
    """``"demo"``, ``"pretraining"``, ``"evaluation"`` (of a world model), ``"plan"`` (of an agent), or several runs
    side by side: ``"comparison"`` of pretrainings, ``"evaluations"``, ``"plans"``.

    Raises:
        FileNotFoundError: There is nothing that a report could be made of; the message says what could.
        ValueError: ``config.json`` is damaged.
    """
    path = Path(directory)
    if not path.is_dir():
        raise FileNotFoundError(f"no directory {path}; make a run there first with: worldmodel demo")
    if (path / "stages.json").is_file() or any((path / name).is_dir() for name in STAGES):
        return "demo"
    if (path / "config.json").is_file():
        config = read_json(path / "config.json")
        if isinstance(config, dict) and "encoder" in config and ("mask" in config or "objective" in config):
            return "pretraining"
    if is_evaluation(path):
        return "evaluation"
    if is_plan(path):
        return "plan"
    if len(find_evaluations(path)) > 1:
        return "evaluations"
    if len(find_runs(path)) > 1:
        return "comparison"
    if find_plans(path):
        return "plans"
    raise FileNotFoundError(
        f"{path} is neither a demo (stages.json) nor a pretraining (config.json with encoder and mask) nor an "
        "evaluation, and does not hold several runs; give a directory that worldmodel demo, pretrain, evaluate, "
        "plan or benchmark made, or one above several of them"
    )
