"""Agents on two levels, made of a world model and the slow level that worldmodel train_slow put beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from experiments.agents import first_plans, latent_costs
from planners.base import Bounds
from planners.cem import CEM
from planners.costs import GoalCostConfig, LatentCostFactory, make_distance
from planners.hierarchical import HierarchicalAgent, HierarchyConfig, Level
from planners.mpc import MPCConfig
from planners.registry import build_planner
from planners.terms import Distance
from worldmodel.models.dynamics import SlowDynamics
from worldmodel.models.parts import load_slow
from worldmodel.models.world_model import WorldModel


def slow_of(model: str) -> SlowDynamics:
    """The slow level beside a model's parts.

    Raises:
        ValueError: There is none, or one of another model.
    """
    if not (Path(model) / "slow").is_dir():
        raise ValueError(
            f"{model} has no slow level, which agent=hierarchical plans with; make one by worldmodel train_slow "
            f"model={model} data=..."
        )
    return load_slow(Path(model) / "slow", model)


def hierarchical_agent(
    model: WorldModel,
    slow: SlowDynamics,
    planner: Any,
    cost: GoalCostConfig,
    mpc: MPCConfig,
    config: HierarchyConfig,
    device: str = "cpu",
    init_std: str = "data",
    value: Distance | None = None,
) -> HierarchicalAgent:
    """An agent that plans with a world model towards sub-goals that its slow level proposes.

    Args:
        model: The world model.
        slow: Its slow level (``worldmodel.models.parts.load_slow``).
        planner: The fast level's search: settings of any of ``planners.registry.PLANNERS``.
        cost: Of the fast level.
        mpc: The agent's settings; the deadline is for both levels.
        config: The slow level's search and cost, and how often it plans.
        device: Where the models compute.
        init_std: See ``experiments.agents.latent_agent``.
        value: Takes the place of the slow level's latent distance, such as a value head.

    Raises:
        ValueError: Plans of the fast level end before the sub-goal, or something does not fit the model; see
            ``experiments.agents.latent_agent``.
    """
    if model.config.window > 1:
        raise ValueError(
            f"the model sees {model.config.window} frames at each step, and agent=hierarchical gives it one; train "
            "with encoder_window=1 dynamics.context=2"
        )
    away = slow.encoder.config.steps * config.subgoal
    if planner.horizon < away:
        raise ValueError(
            f"planner.horizon={planner.horizon}, but sub-goals are {away} model steps away; raise planner.horizon, or "
            "train a slow level with a smaller slow.steps"
        )
    if config.cost.disagreement:
        raise ValueError("slow.cost.disagreement needs an ensemble, which a slow level is not; leave it out")
    if isinstance(value, nn.Module):
        value = value.to(device)
    slow = slow.to(device).eval()
    mean, std = slow.encoder.macro_mean.cpu(), config.spread * slow.encoder.macro_std.cpu()
    slow_costs = LatentCostFactory(
        model.encode, slow.rollout, config.cost, device=device, distance=value, action_scale=std.to(device)
    )
    return HierarchicalAgent(
        Level(
            build_planner(planner), latent_costs(model, planner, cost, device), *first_plans(model, init_std)
        ),
        Level(
            CEM(config.planner), slow_costs, Bounds(-torch.ones_like(mean), torch.ones_like(mean)), mean, std
        ),
        slow.rollout,
        make_distance(config.cost, value, ()),
        slow.encoder.config.steps,
        config,
        mpc,
    )
