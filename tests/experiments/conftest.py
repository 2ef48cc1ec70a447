"""A job of the tests' own, with a configuration package beside it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from experiments.cli import main

JOB = '''
"""Bake a loaf.

Example:
    worldmodel bake oven=hot
"""

import errno
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING


class Crust(Enum):
    thin = 1
    thick = 2


@dataclass
class Oven:
    degrees: float = 200.0  # heat of the oven
    fan: bool = False


@dataclass
class Gas:
    pressure: int = 3


@dataclass
class Wood:
    logs: int = 4


@dataclass
class Config:
    flour: str = MISSING  # name of the flour
    #: How long,
    #: in minutes.
    minutes: int = 40
    crust: Crust = Crust.thin
    salt: float | None = None
    seeds: list[int] = field(default_factory=lambda: [1, 2], metadata={"help": "which seeds go in"})
    extra: dict[str, int] = field(default_factory=dict)
    oven: Oven = field(default_factory=Oven)
    fuel: Any = None

    def __post_init__(self) -> None:
        if self.minutes < 0:
            raise ValueError(f"minutes={self.minutes} is negative; give a time to bake")


SCHEMAS = {"fuel/gas": Gas, "fuel/wood": Wood}
baked = []


def run(config: Config) -> None:
    baked.append(config)
    outcomes = {
        "burnt": ValueError("the loaf is\\nburnt; bake for less than 50 minutes"),
        "lost": FileNotFoundError(2, "No such file or directory", "data/flour"),
        "full": OSError(errno.ENOSPC, "No space left on device", "runs/loaf"),
        "worker": BrokenPipeError(errno.EPIPE, "Broken pipe"),
        "stopped": KeyboardInterrupt(),
        "bug": KeyError("yeast"),
    }
    if config.flour in outcomes:
        raise outcomes[config.flour]
    if config.flour == "wrapped":
        raise RuntimeError('Error while serializing: Os { code: 28, message: "No space left on device" }')
    print(f"baked {config.flour}")
'''

CONFIGS = {
    "bake": """
        defaults:
          - bake_schema
          - oven: warm
          - fuel: gas
          - _self_
        minutes: 45
    """,
    "oven/warm": "degrees: 180",
    "oven/hot": "degrees: 250\nfan: true",
    "fuel/gas": "defaults: [gas_schema, _self_]",
    "fuel/wood": "defaults: [wood_schema, _self_]\nlogs: 6",
}


@pytest.fixture
def bake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`bake("key=value", ...)` runs the job through the command line and returns its exit code."""
    (tmp_path / "bakery.py").write_text(JOB, encoding="utf-8")
    for name, text in CONFIGS.items():
        path = tmp_path / "bakery_configs" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text), encoding="utf-8")
    (tmp_path / "bakery_configs" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.startswith("bakery")]:
        monkeypatch.delitem(sys.modules, name)

    def run(*args: str, job: str = "bake") -> int:
        return main([job, *args], jobs={"bake": "bakery"}, config_module="bakery_configs")

    return run
