"""The examples on the page about extending keep the contracts that the page tells its readers to keep."""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import re
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
import pytest
import torch

from envs.world import make_world
from worldmodel.objectives.base import Batch

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "extending.md"


@pytest.fixture
def example(tmp_path: Path) -> Callable[[str], ModuleType]:
    """A module that the page has the reader write."""
    found = re.findall(
        r"^```python\n# file: (\S+)\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    files = dict(found)

    def load(name: str) -> ModuleType:
        (tmp_path / name).write_text(files[name], encoding="utf-8")
        return load_module(tmp_path / name)

    return load


def load_module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docs_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_examples_models_and_objective_keep_their_contracts(example: Callable[[str], ModuleType]) -> None:
    contracts = load_module(ROOT / "tests/worldmodel/models/contracts.py")
    models = example("my_models.py")
    torch.manual_seed(0)
    clip = torch.randint(0, 256, (3, 4, 3, 64, 64), dtype=torch.uint8)
    contracts.check_encoder(models.MeanColour(), clip, windows=(1,))
    contracts.check_dynamics(
        models.LinearDynamics(1, 5, 2, 3), tokens=1, width=5, block=2, action_dim=3, context=1
    )
    batch = Batch(0, range(3), views=(clip,), actions=torch.rand(3, 3, 1, 2))
    contracts.check_objective(example("my_objectives.py").NextFrame(), batch)


def keep_contract(
    contract: ModuleType, made: dict[str, Callable[[], Any]], undo: Callable[[], None] = lambda: None
) -> int:
    """Call each test of a contract that takes what `made` makes, with all that it is parametrised with."""
    count = 0
    for test in [test for name, test in vars(contract).items() if name.startswith("test_")]:
        if not made.keys() & inspect.signature(test).parameters.keys():
            continue
        axes = []
        for mark in getattr(test, "pytestmark", []):
            if mark.name == "parametrize":
                names = [name.strip() for name in mark.args[0].split(",")]
                values = mark.args[1] if names[0] not in made else [None]
                axes.append([dict(zip(names, v if len(names) > 1 else (v,), strict=True)) for v in values])
        for chosen in itertools.product(*axes):
            arguments = {name: value for part in chosen for name, value in part.items()}
            needed = made.keys() & inspect.signature(test).parameters.keys()
            test(**{**arguments, **{name: made[name]() for name in needed}})
            undo()
            count += 1
    return count


def test_the_examples_planner_keeps_the_contract(
    example: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Clock:
        now = 0.0

        def __call__(self) -> float:
            return self.now

    def clock() -> Clock:
        fake = Clock()
        monkeypatch.setattr(time, "perf_counter", fake)
        return fake

    contract = load_module(ROOT / "tests/planners/test_planner_contract.py")
    planner = example("my_planners.py").ShrinkingSearch

    def factory(samples: int = 64, iterations: int = 3, horizon: int = 4, action_block: int = 1) -> Any:
        return planner(samples, iterations, horizon, action_block)

    assert keep_contract(contract, {"factory": lambda: factory, "clock": clock}, monkeypatch.undo) > 40


def test_the_examples_world_keeps_the_contract(example: Callable[[str], ModuleType]) -> None:
    contract = load_module(ROOT / "tests/envs/test_world_contract.py")
    example("my_worlds.py")
    try:
        assert (
            keep_contract(contract, {"env_id": lambda: "Floor-v0", "world": lambda: make_world("Floor-v0")})
            > 5
        )
    finally:
        del gym.registry["Floor-v0"]
