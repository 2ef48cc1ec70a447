"""Jobs that run other jobs, one after another: each stage is a command of its own, and none is done twice."""

from __future__ import annotations

import importlib
import shlex
from pathlib import Path
from typing import Any, NamedTuple

from experiments.settings import compose_settings
from worldmodel.atomic import read_json


class Stage(NamedTuple):
    """One command."""

    name: str
    what: str
    job: str
    overrides: list[str]

    @property
    def command(self) -> str:
        """As one would type it in a shell."""
        return shlex.join(["worldmodel", self.job, *self.overrides])

    def run(self) -> Any:
        """Run, finish or skip it as its command would; returns what the job returns."""
        module = importlib.import_module(f"experiments.{self.job}")
        schemas = getattr(module, "SCHEMAS", None)
        return module.run(
            compose_settings(self.job, module.Config, self.overrides, schemas=schemas).to_object()
        )


def seconds_of(directory: Path) -> float:
    """Seconds of a finished run over all interruptions; 0 if it does not say."""
    done = directory / "done.json"
    return float(read_json(done)["seconds"]) if done.exists() else 0.0
