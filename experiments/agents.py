"""Policies for the evaluator, made of planners, models and simulators: where the packages meet."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from experiments.window_agent import WindowAgent
from planners.base import Bounds, Cost, History
from planners.costs import Encode, GoalCostConfig, LatentCostFactory, LatentGoalCost
from planners.hierarchical import HierarchicalAgent
from planners.mpc import MPCAgent, MPCConfig
from planners.registry import NEEDS_GRADIENT, build_planner, planner_kind
from planners.terms import Distance
from worldmodel.models.dynamics import Ensemble, RolloutConfig, candidates_within, fast_rollout
from worldmodel.models.world_model import WorldModel

if TYPE_CHECKING:  # a latent agent needs no simulator installed
    from envs.evaluate import Goals, Observation


class LatentPolicy:
    """Plans in a world model's latent space towards goal images; sees pixels only."""

    privileged = False

    def __init__(self, agent: MPCAgent | HierarchicalAgent) -> None:
        self.agent = agent

    def reset(self, goals: Goals, seeds: np.ndarray) -> None:
        self.agent.reset(torch.from_numpy(goals.frames), seeds.tolist())

    def act(self, observation: Observation, active: np.ndarray) -> np.ndarray:
        return self.agent.act(torch.from_numpy(observation.frames), torch.from_numpy(active)).numpy()


class SimulatorPolicy:
    """Searches with the true simulator and the true distance: what planning could reach with a perfect model."""

    privileged = True

    def __init__(self, agent: MPCAgent) -> None:
        self.agent = agent

    def reset(self, goals: Goals, seeds: np.ndarray) -> None:
        self.agent.reset(torch.from_numpy(goals.states), seeds.tolist())

    def act(self, observation: Observation, active: np.ndarray) -> np.ndarray:
        return self.agent.act(torch.from_numpy(observation.states), torch.from_numpy(active)).numpy()


class SimulatorLatentPolicy:
    """Searches with the true simulator, and judges by a world model's latents of pictures of what is imagined.

    What planning could reach with these latents and perfect dynamics. Goals are pictures; the start is a state.
    """

    privileged = True

    def __init__(self, agent: MPCAgent, encode: Callable[[Tensor], Tensor]) -> None:
        self.agent, self._encode = agent, encode

    def reset(self, goals: Goals, seeds: np.ndarray) -> None:
        self.agent.reset(self._encode(torch.from_numpy(goals.frames)), seeds.tolist())

    def act(self, observation: Observation, active: np.ndarray) -> np.ndarray:
        return self.agent.act(torch.from_numpy(observation.states), torch.from_numpy(active)).numpy()


#: What the first candidates of a search are drawn with.
INIT_STDS = ("data", "bounds")
_PICTURES_AT_ONCE = 128


def latent_agent(
    model: WorldModel,
    planner: Any,
    cost: GoalCostConfig,
    mpc: MPCConfig,
    device: str = "cpu",
    init_std: str = "data",
    value: Distance | None = None,
    rollout: RolloutConfig | None = None,
) -> MPCAgent:
    """An MPC agent that plans with a world model; usable without gymnasium, see ``MPCAgent``.

    Args:
        model: The world model.
        planner: The search: settings of any of ``planners.registry.PLANNERS``.
        cost: Weights of the latent distance, and other terms.
        mpc: The agent's settings.
        device: Where the model computes.
        init_std: The first candidates have the mean and spread of the data's actions (``data``), or the middle and half
            the range of the action bounds (``bounds``).
        value: Takes the place of the latent distance, such as a value head (``worldmodel.models.parts.load_value``).
        rollout: How plans are imagined; gradients are always the model's own, in float32.

    Raises:
        ValueError: The planner's action block is not the model's, the model sees proprioception, the spread is to
            come from infinite bounds, or a term of the cost needs what the model has not.
    """
    costs = latent_costs(model, planner, cost, device, value, rollout)
    common = (build_planner(planner), costs, *first_plans(model, init_std), mpc)
    window = model.config.window
    return WindowAgent(window, *common) if window > 1 else MPCAgent(*common)


def latent_costs(
    model: WorldModel,
    planner: Any,
    cost: GoalCostConfig,
    device: str = "cpu",
    value: Distance | None = None,
    rollout: RolloutConfig | None = None,
    encode: Encode | None = None,
) -> LatentCostFactory:
    """Costs of plans by a world model; arguments and errors are those of ``latent_agent``.

    ``encode`` takes the place of the model's, where observations are more than a picture.
    """
    if encode is None:
        check_no_proprioception(model)
        encode = model.encode if model.config.window == 1 else lambda windows: model.encode(windows)[:, -1]
    model = model.to(device).eval()
    actions, rollout = model.config.actions, rollout or RolloutConfig()
    if cost.disagreement and not isinstance(model.dynamics, Ensemble):
        raise ValueError("cost.disagreement needs a model of several members; train it with members=3")
    if isinstance(value, nn.Module):
        value = value.to(device)
    if planner.action_block != actions.per_step:
        raise ValueError(
            f"planner.action_block={planner.action_block}, but the model was trained with {actions.per_step} "
            f"environment actions per step; set planner.action_block={actions.per_step}"
        )
    return LatentCostFactory(
        encode,
        fast_rollout(model.dynamics, rollout, device, members=cost.disagreement > 0),
        cost,
        device=device,
        candidates=candidates_within(model.dynamics, planner.horizon, rollout.memory),
        context=model.dynamics.context,
        distance=value,
        proprio_tokens=[-1] if model.takes_proprio else [],
        action_scale=model.dynamics.action_std,
    )


def check_no_proprioception(model: WorldModel) -> None:
    """See that the model needs nothing but pictures.

    Raises:
        ValueError: It sees proprioception, which worlds do not tell apart from the rest of their states.
    """
    if model.takes_proprio:
        raise ValueError(
            "the model sees proprioception, but worlds give agents pictures only; train with proprio=false (robots "
            "have both: experiments.proprio_agent)"
        )


def check_one_picture(model: WorldModel) -> None:
    """See that the model needs nothing but a picture at each step.

    Raises:
        ValueError: It needs more.
    """
    check_no_proprioception(model)
    if model.config.window > 1:
        raise ValueError(
            f"the model sees {model.config.window} frames at each step, but agent=simulator_latent shows it each "
            "imagined state by itself; train with encoder_window=1 dynamics.context=2"
        )


def first_plans(model: WorldModel, init_std: str) -> tuple[Bounds, Tensor, Tensor]:
    """Bounds, mean ``(A,)`` and spread ``(A,)`` that searches for the model's actions begin with.

    Raises:
        ValueError: The spread is to come from infinite bounds.
    """
    actions = model.config.actions
    low, high = torch.tensor(actions.low), torch.tensor(actions.high)
    mean, std = torch.tensor(actions.mean), torch.tensor(actions.std)
    if init_std == "bounds":
        mean, std = (low + high) / 2, (high - low) / 2
        if not torch.isfinite(std).all():
            raise ValueError("init_std=bounds needs finite action bounds, and the model's are not; use data")
    return Bounds(low, high), mean, std


def simulator_agent(
    env_id: str, planner: Any, cost: GoalCostConfig, mpc: MPCConfig, distance: str = "way"
) -> MPCAgent:
    """The MPC agent with the simulator as its model; observations and goals are states.

    Its cost is the way that is left, or, with ``distance="straight"``, the Euclidean distance, which no wall lengthens.

    Raises:
        ValueError: The planner follows gradients, or the cost has terms that only a world model's latents have.
    """
    from envs.simulate import SimulatorCost

    check_no_gradient(planner, "simulator")
    if cost != (plain := GoalCostConfig(path=cost.path, final=cost.final, minimum=cost.minimum)):
        name = next(name for name, usual in vars(plain).items() if getattr(cost, name) != usual)
        raise ValueError(f"cost.{name} has no effect on agent=simulator, whose cost is the true distance")
    simulator = SimulatorCost(
        env_id, path=cost.path, final=cost.final, minimum=cost.minimum, distance=distance
    )

    def make_cost(history: History) -> Cost:
        states, goals = history.observations[:, -1].numpy(), history.goals.numpy()
        return as_torch(lambda plans: simulator(states, goals, plans))

    low, high = torch.from_numpy(simulator.action_low), torch.from_numpy(simulator.action_high)
    middle, spread = (low + high) / 2, (high - low) / 2
    return MPCAgent(build_planner(planner), make_cost, Bounds(low, high), middle, spread, mpc)


def simulator_latent_policy(
    env_id: str,
    model: WorldModel,
    planner: Any,
    cost: GoalCostConfig,
    mpc: MPCConfig,
    device: str = "cpu",
    init_std: str = "data",
) -> SimulatorLatentPolicy:
    """Plans with the simulator as dynamics and a world model's latents as eyes; see ``SimulatorLatentPolicy``.

    Every imagined step of every candidate is drawn and encoded, so a decision costs as many encoded pictures as
    ``samples * horizon * iterations``.

    Raises:
        ValueError: The model needs more than a picture, the spread is to come from infinite bounds, or the planner
            follows gradients.
    """
    from envs.simulate import SimulatorCost
    from envs.world import channels_first

    check_one_picture(model)
    check_no_gradient(planner, "simulator_latent")
    for name in ("disagreement", "consistency"):
        if getattr(cost, name):
            raise ValueError(
                f"cost.{name} is about a model's dynamics, which agent=simulator_latent does without"
            )
    simulator = SimulatorCost(env_id)
    eyes = LatentCostFactory(model.to(device).eval().encode, model.rollout, cost, device=device)

    def imagine(state: np.ndarray, plans: Tensor) -> Tensor:
        """Latents ``(1, S, L, N, Z)`` of the pictures after each step of plans ``(1, S, L, K, A)``."""
        ends = simulator.rollout(state[None], plans.cpu().numpy())[0]
        pictures = np.stack([simulator.world.render_state(end) for end in ends.reshape(-1, ends.shape[-1])])
        with torch.no_grad():
            parts = [
                model.encode(part.clone().to(device))
                for part in torch.from_numpy(channels_first(pictures)).split(_PICTURES_AT_ONCE)
            ]
        return torch.cat(parts).reshape(1, *ends.shape[:2], *parts[0].shape[1:])

    def make_cost(history: History) -> Cost:
        states, goals = history.observations[:, -1].numpy(), history.goals.to(device)
        # The place of a model's context is taken by the state, which the rollout knows.
        no_past = torch.zeros(1, 0, 1, 1)
        costs = [
            LatentGoalCost(
                lambda context, past, plans, state=state: imagine(state, plans),  # type: ignore[misc]
                goal[None, None], no_past, goal[None], config=cost, action_scale=model.dynamics.action_std,
            )
            for state, goal in zip(states, goals, strict=True)
        ]  # fmt: skip
        return lambda plans: torch.cat([one(plans[row : row + 1]) for row, one in enumerate(costs)])

    agent = MPCAgent(build_planner(planner), make_cost, *first_plans(model, init_std), mpc)
    return SimulatorLatentPolicy(agent, eyes.encode)


def check_no_gradient(planner: object, agent: str) -> None:
    """Say that a simulator has no gradient."""
    if planner_kind(planner) in NEEDS_GRADIENT:
        raise ValueError(
            f"planner={planner_kind(planner)} follows the cost's gradient, and agent={agent} has none; choose another"
        )


def as_torch(cost: Callable[[np.ndarray], np.ndarray]) -> Cost:
    """A cost over arrays as a cost over tensors."""

    def call(plans: Tensor) -> Tensor:
        return torch.from_numpy(cost(plans.numpy())).float()

    return call
