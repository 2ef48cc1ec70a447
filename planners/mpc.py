"""Model-predictive control: plan, act for a few steps, look again, plan again from what is left."""

import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from planners.base import Bounds, Cost, History, Plan, Planner
from planners.search import derive_seed


@dataclass
class MPCConfig:
    """Settings of `MPCAgent`.

    Raises:
        ValueError: a value is out of its range.
    """

    execute: int = 1  # model steps of a plan that are carried out before planning again
    # Begin each search from what is left of the previous plan, and of the elites of a planner that remembers some.
    # With small budgets and the simulator as cost, it brings 31, 41 and 1 more goals of 100 in TwoRoom, Reacher and
    # PointMaze (docs/planners.md, "What each part brings").
    warm_start: bool = True
    # M, observations that a cost gets to see, fewer at an episode's start; None: as many as it asks for by
    # its attribute `context`, else 1
    history: int | None = None
    deadline: float | None = None  # seconds per decision, encoding included; see `Planner.plan`

    def __post_init__(self) -> None:
        for name in ("execute", "history"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"MPCConfig.{name} is {value}; use at least 1")
        if self.deadline is not None and not self.deadline > 0:
            raise ValueError(f"MPCConfig.deadline is {self.deadline}; use seconds above 0, or null for none")


@dataclass(frozen=True, eq=False)
class Decision:
    """The latest planning of an agent: for which of its rows, from what it knew, and with what outcome."""

    rows: list[int]
    history: History
    plan: Plan
    seconds: float  # encoding included


@dataclass
class _Episode:
    """One row of the agent since its last reset."""

    goal: Tensor
    seed: int
    unseen: deque[Tensor]  # observations not encoded yet, at most M
    seen: deque[Tensor]  # encoded observations, at most M
    actions: deque[Tensor]  # executed, (K, A) each, at most M - 1
    plan: Tensor | None = None  # (L, K, A)
    elites: Tensor | None = None  # (P, L, K, A), what the planner remembers
    used: int = 0  # steps of the plan that were executed
    decisions: int = 0


class MPCAgent:
    """Acts in E environments, or one robot, by planning again and again towards a goal.

    Needs no simulator and no model, only a function that makes costs from what was seen:

        agent = MPCAgent(CEM(config), LatentCostFactory(encode, rollout), bounds, mean, std)
        agent.reset(goal_frames, seeds)
        actions = agent.act(frames)

    What happens in one environment depends on its own observations, goal and seed only. On a CPU and without
    a deadline this holds bit for bit if it holds for the cost, as it does for `LatentGoalCost`.

    Args:
        planner: see `Planner`.
        make_cost: called with a `History` of the environments to plan for; returns their cost. If it has a
            method `encode`, as `LatentCostFactory` has, then observations and goals `(n, ...)` pass through
            it, each once: goals at reset, observations when they are first needed.
        bounds: action bounds, environment units.
        init_mean: `(A,)`, see `Planner.plan`.
        init_std: `(A,)`, see `Planner.plan`.
        config: see `MPCConfig`.

    Attributes:
        last: the latest `Decision`; None before the first.
        history: M, observations that a cost gets to see.
        make_cost: as given; `make_cost(last.history)` is the cost of the latest decision.

    Raises:
        ValueError: more steps are to be executed than a plan has.
    """

    def __init__(
        self,
        planner: Planner,
        make_cost: Callable[[History], Cost],
        bounds: Bounds,
        init_mean: Tensor,
        init_std: Tensor,
        config: MPCConfig | None = None,
    ) -> None:
        self.config = replace(config or MPCConfig())
        if self.config.execute > planner.horizon:
            raise ValueError(
                f"MPCConfig.execute is {self.config.execute}, but plans have {planner.horizon} steps; "
                "lower execute or raise the planner's horizon"
            )
        self.planner, self.bounds = planner, bounds
        self.init_mean = torch.as_tensor(init_mean, dtype=torch.float32, device=bounds.device)
        self.init_std = torch.as_tensor(init_std, dtype=torch.float32, device=bounds.device)
        self.last: Decision | None = None
        self.make_cost = make_cost
        wanted: int = getattr(make_cost, "context", 1)
        self.history = self.config.history or wanted
        self._encode: Callable[[Tensor], Tensor] = getattr(make_cost, "encode", _unchanged)
        self._episodes: list[_Episode] = []

    def reset(self, goals: Tensor, seeds: Tensor | Sequence[int]) -> None:
        """Begins E episodes and forgets everything of earlier ones.

        Args:
            goals: `(E, ...)`, images `(E, C, H, W)` uint8 for planning in latent space. Arrays are converted.
            seeds: `(E,)` integers. Each decision's seed derives from its environment's seed and its number.
        """
        goals = torch.as_tensor(goals)
        seeds = [int(seed) for seed in seeds]
        if goals.ndim == 0 or len(goals) != len(seeds) or not seeds:
            raise ValueError(
                f"goals have shape {tuple(goals.shape)}, for {len(seeds)} seeds; give one goal per seed"
            )
        m = self.history
        self._episodes = [
            _Episode(goal, seed, deque(maxlen=m), deque(maxlen=m), deque(maxlen=m - 1))
            for goal, seed in zip(self._encode(goals.clone()), seeds, strict=True)
        ]
        self.last = None

    def retarget(self, rows: Sequence[int], goals: Tensor) -> None:
        """Gives some episodes other goals `(n, ...)`, encoded already if goals are; what they did and planned stays."""
        for row, goal in zip(rows, goals, strict=True):
            self._episodes[row].goal = goal

    def act(self, observations: Tensor, active: Tensor | None = None, began: float | None = None) -> Tensor:
        """The next actions.

        Args:
            observations: `(E, ...)`, like the goals. Copied: the caller may overwrite them.
            active: `(E,)` bool, the environments that are still going, all by default. For the others nothing
                is planned, their observation is ignored and their episode stands still.
            began: `time.perf_counter()` when the decision began, which the deadline counts from; now by default.

        Returns:
            `(E, K, A)` float32 inside the bounds, on their device: K environment actions, to be executed
            before the next call. Rows that are not active hold the action nearest to 0.

        Raises:
            ValueError: `reset` was not called, or the number of rows differs from the goals'.
        """
        began = time.perf_counter() if began is None else began
        observations = torch.as_tensor(observations)
        rows = self.active_rows(observations, active)
        for row in rows:
            self._episodes[row].unseen.append(observations[row].clone())
        due = [row for row in rows if self._needs_plan(self._episodes[row])]
        if due:
            self._plan(due, began)
        idle = self.bounds.clip(torch.zeros_like(self.init_mean))
        actions = idle.repeat(len(self._episodes), self.planner.action_block, 1)
        for row in rows:
            episode = self._episodes[row]
            assert episode.plan is not None
            actions[row] = episode.plan[episode.used]
            episode.actions.append(episode.plan[episode.used])
            episode.used += 1
        return actions

    def active_rows(self, observations: Tensor, active: Tensor | None = None) -> list[int]:
        """The rows that `act` would act for; checks both arguments."""
        envs = len(self._episodes)
        if envs == 0:
            raise ValueError("the agent has no goal yet; call reset(goals, seeds) before act")
        if observations.ndim == 0 or len(observations) != envs:
            raise ValueError(f"observations have shape {tuple(observations.shape)}; expected {envs} rows")
        if active is None:
            return list(range(envs))
        active = torch.as_tensor(active)
        if active.shape != (envs,) or active.dtype != torch.bool:
            raise ValueError(f"active is {tuple(active.shape)} {active.dtype}; expected ({envs},) bool")
        return [int(row) for row in active.nonzero()[:, 0]]

    def _needs_plan(self, episode: _Episode) -> bool:
        return episode.plan is None or episode.used >= self.config.execute

    def _plan(self, rows: list[int], began: float) -> None:
        episodes = [self._episodes[row] for row in rows]
        history = self._history(rows)
        cost = self.make_cost(history)
        start = torch.stack([self._start(e) for e in episodes]) if self.config.warm_start else None
        deadline = self.config.deadline
        if deadline is not None:
            deadline = max(deadline - (time.perf_counter() - began), 1e-6)
        plan = self.planner.plan(
            cost, self.bounds, self.init_mean, self.init_std,
            seeds=[derive_seed(e.seed, e.decisions) for e in episodes], start=start, deadline=deadline,
        )  # fmt: skip
        for row, episode in enumerate(episodes):
            episode.plan, episode.used, episode.decisions = plan.actions[row], 0, episode.decisions + 1
            episode.elites = None if plan.elites is None else plan.elites[row]
        failed = [row for row, cost in zip(rows, plan.cost.tolist(), strict=True) if cost == float("inf")]
        if failed:
            warnings.warn(
                f"no candidate plan had a finite cost in environments {failed}; they go on with the plan "
                "that the search began with. Look for NaN in the model's weights or its observations",
                RuntimeWarning,
                stacklevel=3,
            )
        self.last = Decision(rows, history, plan, time.perf_counter() - began)

    def _start(self, episode: _Episode) -> Tensor:
        """What a search begins with: a plan `(L, K, A)`, or `(1 + P, L, K, A)` for a planner that remembers P."""
        # An episode without an earlier plan starts from the mean, which then is a candidate, too. It must not
        # matter for one environment whether another one, in the same search, has a plan left to start from.
        fill = self.bounds.clip(self.init_mean)
        still = fill.expand(self.planner.horizon, self.planner.action_block, -1)
        plan = still if episode.plan is None else shift(episode.plan, episode.used, fill)
        memory: int = getattr(self.planner, "memory", 0)
        if memory == 0:
            return plan
        elites = [] if episode.elites is None else [shift(one, episode.used, fill) for one in episode.elites]
        return torch.stack([plan, *elites[:memory], *[plan] * (memory - len(elites))])

    def _history(self, rows: list[int]) -> History:
        episodes = [self._episodes[row] for row in rows]
        encoded = iter(self._encode(torch.stack([frame for e in episodes for frame in e.unseen])))
        for episode in episodes:
            episode.seen.extend(next(encoded) for _ in episode.unseen)
            episode.unseen.clear()
        m, idle = self.history, torch.zeros(self.planner.action_block, self.bounds.action_dim)
        idle = idle.to(self.bounds.device)
        seen = [[e.seen[0]] * (m - len(e.seen)) + list(e.seen) for e in episodes]
        actions = [[idle] * (m - 1 - len(e.actions)) + list(e.actions) for e in episodes]
        empty = idle.new_zeros(len(rows), 0, *idle.shape)
        return History(
            observations=torch.stack([torch.stack(row) for row in seen]),
            past_actions=torch.stack([torch.stack(row) for row in actions]) if m > 1 else empty,
            length=torch.tensor([len(e.seen) for e in episodes]),
            goals=torch.stack([e.goal for e in episodes]),
            rows=torch.tensor(rows),
        )


def shift(plan: Tensor, steps: int, fill: Tensor) -> Tensor:
    """What is left of a plan `(L, K, A)` after `steps` steps, filled up at its end with an action `(A,)`.

    Repeating the last step instead makes the agent overshoot: near the goal, every search then starts from a
    plan that leaves it again.
    """
    return torch.cat([plan[steps:], fill.expand(min(steps, len(plan)), *plan.shape[1:])])


def _unchanged(observations: Tensor) -> Tensor:
    return observations
