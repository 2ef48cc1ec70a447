"""Which settings of worldmodel plan go with which agent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envs.simulate import DISTANCES
from planners.hierarchical import HierarchyConfig
from worldmodel.models.dynamics import RolloutConfig

if TYPE_CHECKING:
    from experiments.plan import Config

#: Agents, and whether they need a world model.
AGENTS = {
    "world_model": True,
    "hierarchical": True,
    "simulator_latent": True,
    "simulator": False,
    "scripted": False,
    "replay": False,
    "random": False,
    "noop": False,
}
#: Those that search with a planner, and the points along each side of their cost landscapes: the simulator's latents
#: cost a drawn and encoded picture for each step.
SEARCHES = {"world_model": 25, "simulator": 25, "simulator_latent": 9}


def check_agent(config: Config) -> None:
    """See that every setting has an effect on the agent.

    Raises:
        ValueError: One has none, or the agent lacks something.
    """
    if AGENTS[config.agent] != bool(config.model):
        raise ValueError(
            f"agent={config.agent} needs model=MODEL_DIRECTORY, which worldmodel train makes"
            if AGENTS[config.agent]
            else f"agent={config.agent} uses no world model: leave model out"
        )
    if config.value and config.agent not in ("world_model", "hierarchical"):
        raise ValueError(f"value=true has no effect on agent={config.agent}; leave it out")
    if config.pictures < 0:
        raise ValueError(f"pictures={config.pictures} must not be negative")
    if config.pictures and config.agent not in SEARCHES:
        raise ValueError(
            f"pictures={config.pictures} shows searches, and agent={config.agent} has none; leave it out"
        )
    if config.pictures and config.shard:
        raise ValueError(f"pictures={config.pictures} is not for shards; leave shard or pictures out")
    if config.pictures_data and (not config.pictures or config.agent != "world_model"):
        raise ValueError(
            "pictures_data has an effect on agent=world_model with pictures=N only; leave it out"
        )
    if config.rollout != RolloutConfig() and config.agent != "world_model":
        raise ValueError(
            f"rollout.* has no effect on agent={config.agent}, which imagines nothing; leave it out"
        )
    if config.slow != HierarchyConfig() and config.agent != "hierarchical":
        raise ValueError(f"slow.* has no effect on agent={config.agent}; leave it out")
    if config.simulator_distance not in DISTANCES:
        raise ValueError(
            f"simulator_distance={config.simulator_distance!r} is unknown; choose {' or '.join(DISTANCES)}"
        )
    if config.simulator_distance != "way" and config.agent != "simulator":
        raise ValueError(f"simulator_distance has no effect on agent={config.agent}; leave it out")
