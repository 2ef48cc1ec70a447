"""Every planner, for the tests of what all promise. A new planner joins by adding its factory to LEARNERS."""

from __future__ import annotations

import importlib.util
import time
from typing import Protocol

import pytest
from _pytest.mark import ParameterSet

from planners.base import Planner
from planners.cem import CEM, CEMConfig
from planners.cma_es import CMAES, CMAESConfig
from planners.gradient import Gradient, GradientConfig
from planners.icem import ICEM, ICEMConfig
from planners.mppi import MPPI, MPPIConfig
from planners.nevergrad import Nevergrad, NevergradConfig
from planners.random_shooting import RandomShooting, RandomShootingConfig
from planners.refine import CEMGradient, CEMGradientConfig, Refine


class Factory(Protocol):
    """Builds a planner of about `samples` candidates per iteration, or for about as much computation."""

    def __call__(
        self, samples: int = 64, iterations: int = 3, horizon: int = 4, action_block: int = 1
    ) -> Planner: ...


def cem(samples: int = 64, iterations: int = 3, horizon: int = 4, action_block: int = 1) -> Planner:
    elites = max(1, samples // 6)
    return CEM(CEMConfig(samples, iterations, elites, horizon, action_block))


def cem_with_momentum(
    samples: int = 64, iterations: int = 3, horizon: int = 4, action_block: int = 1
) -> Planner:
    elites = max(1, samples // 6)
    return CEM(CEMConfig(samples, iterations, elites, horizon, action_block, correlated=1.0, momentum=0.1))


def icem(samples: int = 64, iterations: int = 3, horizon: int = 4, action_block: int = 1) -> Planner:
    elites = max(1, samples // 6)
    return ICEM(ICEMConfig(samples, iterations, elites, horizon, action_block, decay=1.25, keep=0.3))


def icem_white(samples: int = 64, iterations: int = 3, horizon: int = 4, action_block: int = 1) -> Planner:
    elites = max(1, samples // 6)
    return ICEM(ICEMConfig(samples, iterations, elites, horizon, action_block, colour=0, keep=1))


def mppi(samples: int = 64, iterations: int = 3, horizon: int = 4, action_block: int = 1) -> Planner:
    return MPPI(MPPIConfig(samples, iterations, horizon, action_block))


def random_shooting(
    samples: int = 64, iterations: int = 3, horizon: int = 4, action_block: int = 1
) -> Planner:
    return RandomShooting(RandomShootingConfig(samples, iterations, horizon, action_block))


def gradient_adam(samples: int = 64, iterations: int = 3, horizon: int = 4, action_block: int = 1) -> Planner:
    return Gradient(GradientConfig(max(samples // 4, 1), iterations, horizon, action_block, lr=0.25))


def gradient_sgd(samples: int = 64, iterations: int = 3, horizon: int = 4, action_block: int = 1) -> Planner:
    return Gradient(GradientConfig(max(samples // 4, 1), iterations, horizon, action_block, "sgd", 0.2, 0.5))


def cem_gradient(samples: int = 64, iterations: int = 3, horizon: int = 4, action_block: int = 1) -> Planner:
    steps = iterations // 2
    if steps == 0:
        return cem(samples, iterations, horizon, action_block)
    elites = max(1, samples // 6)
    config = CEMGradientConfig(samples, iterations - steps, elites, horizon, action_block, steps=steps)
    return CEMGradient(config)


def icem_then_mppi(
    samples: int = 64, iterations: int = 3, horizon: int = 4, action_block: int = 1
) -> Planner:
    first = icem(samples, iterations - iterations // 2, horizon, action_block)
    if iterations < 2:
        return first
    return Refine(first, mppi(samples, iterations // 2, horizon, action_block))


def cma(samples: int = 64, iterations: int = 3, horizon: int = 4, action_block: int = 1) -> Planner:
    return CMAES(CMAESConfig(max(samples, 4), iterations, horizon, action_block))


def nevergrad(samples: int = 64, iterations: int = 3, horizon: int = 4, action_block: int = 1) -> Planner:
    return Nevergrad(NevergradConfig(max(samples, 4), iterations, horizon, action_block))


def needs(factory: Factory) -> ParameterSet:
    """Skipped where the package of that name is not installed."""
    name = name_of(factory)
    skip = pytest.mark.skipif(not importlib.util.find_spec(name), reason=f"needs {name}")
    return pytest.param(factory, marks=skip)


def name_of(factory: Factory) -> str:
    return factory.__name__  # type: ignore[attr-defined,no-any-return]


LEARNERS = [
    cem, cem_with_momentum, icem, icem_white, mppi, gradient_adam, gradient_sgd, cem_gradient, icem_then_mppi,
    needs(cma), needs(nevergrad),
]  # fmt: skip


@pytest.fixture(params=[*LEARNERS, random_shooting], ids=name_of)
def factory(request: pytest.FixtureRequest) -> Factory:
    """Each planner."""
    found: Factory = request.param
    return found


@pytest.fixture(params=LEARNERS, ids=name_of)
def learner(request: pytest.FixtureRequest) -> Factory:
    """Each planner that gets better from iteration to iteration."""
    found: Factory = request.param
    return found


class Clock:
    """Time that passes only where a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Takes the place of `time.perf_counter`."""
    fake = Clock()
    monkeypatch.setattr(time, "perf_counter", fake)
    return fake
