"""The kinds of planners by name: what settings say, and what builds them."""

from __future__ import annotations

from typing import Any

from planners.base import Planner
from planners.cem import CEM, CEMConfig
from planners.cma_es import CMAES, CMAESConfig
from planners.gradient import Gradient, GradientConfig
from planners.icem import ICEM, ICEMConfig
from planners.mppi import MPPI, MPPIConfig
from planners.nevergrad import Nevergrad, NevergradConfig
from planners.random_shooting import RandomShooting, RandomShootingConfig
from planners.refine import CEMGradient, CEMGradientConfig

#: Kind to the dataclass of its settings and the planner. `cma` and `nevergrad` need the package of that name.
PLANNERS: dict[str, tuple[type[Any], type[Any]]] = {
    "cem": (CEMConfig, CEM),
    "icem": (ICEMConfig, ICEM),
    "mppi": (MPPIConfig, MPPI),
    "random_shooting": (RandomShootingConfig, RandomShooting),
    "gradient": (GradientConfig, Gradient),
    "cem_gradient": (CEMGradientConfig, CEMGradient),
    "cma": (CMAESConfig, CMAES),
    "nevergrad": (NevergradConfig, Nevergrad),
}
#: Kinds that follow the cost's gradient: they need a cost made of torch operations, as a simulator's is not.
NEEDS_GRADIENT = ("gradient", "cem_gradient")


def planner_kind(config: object) -> str:
    """The name of a configuration's kind.

    Raises:
        ValueError: it configures no planner.
    """
    for kind, (config_class, _) in PLANNERS.items():
        if type(config) is config_class:
            return kind
    known = ", ".join(config_class.__name__ for config_class, _ in PLANNERS.values())
    raise ValueError(f"{type(config).__name__} configures no planner; there are {known}")


def build_planner(config: object) -> Planner:
    """A planner with these settings.

    Raises:
        ValueError: the settings are of no kind, or the planner needs a package that is not installed.
    """
    planner: Planner = PLANNERS[planner_kind(config)][1](config)
    return planner
