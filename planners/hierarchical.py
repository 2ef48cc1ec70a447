"""Planning on two levels: a slow model says where to be in some steps, a fast one finds the actions that lead there."""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from planners.base import Bounds, Cost, History, Plan, Planner
from planners.cem import CEMConfig
from planners.costs import GoalCostConfig, Rollout
from planners.mpc import Decision, MPCAgent, MPCConfig, shift
from planners.search import derive_seed, make_generators
from planners.terms import Distance

_SLOW, _LENGTH = 1, 2  # key the seeds of the slow level apart from those of the fast one
_RANDOM = 32  # macro-actions that tell how long a slow step is


@dataclass
class HierarchyConfig:
    """Settings of `HierarchicalAgent`.

    Raises:
        ValueError: a value is out of its range.
    """

    # Model steps after which the slow level plans again; 0: when a slow step has passed, so that the rest of its plan
    # is a plan from there. Plans made more often forget the way that the last one found, and turn back.
    every: int = 0
    subgoal: int = 1  # which slow step of its plan is the sub-goal: 1 is the first
    # Begin each slow search from the previous plan, moved on by the slow steps that have passed.
    warm_start: bool = True
    # The goal itself is the sub-goal where the first slow step leads as near to it as the whole plan, give or take this
    # share of a slow step's length: slow plans are coarse, and near the goal only the fast level can be exact.
    tolerance: float = 0.25
    share: float = 0.5  # of a deadline: what the slow level may use of it when it plans
    # First slow plans spread this many standard deviations of the data's macro-actions. The way round a wall is a rare
    # find: the search has to begin wide and to follow its few best candidates.
    spread: float = 2.0
    planner: CEMConfig = field(default_factory=lambda: CEMConfig(512, 5, 8, horizon=8))  # of macro-actions
    # Of the latents that the slow level imagines: how near a plan comes, and how soon. Where it ends does not matter.
    cost: GoalCostConfig = field(default_factory=lambda: GoalCostConfig(path=1.0, final=0.0, minimum=3.0))

    def __post_init__(self) -> None:
        for name, least in (("every", 0), ("subgoal", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"HierarchyConfig.{name} is {getattr(self, name)}; use at least {least}")
        for name, ok in (("spread", self.spread > 0), ("tolerance", self.tolerance >= 0)):
            if not ok or getattr(self, name) == float("inf"):
                raise ValueError(
                    f"HierarchyConfig.{name} is {getattr(self, name)}; use a finite value above 0"
                )
        if not 0 < self.share < 1:
            raise ValueError(f"HierarchyConfig.share is {self.share}; use a share above 0 and below 1")
        if self.subgoal > self.planner.horizon:
            raise ValueError(
                f"HierarchyConfig.subgoal is {self.subgoal}, but slow plans have {self.planner.horizon} steps; "
                "lower subgoal or raise the slow planner's horizon"
            )
        if self.planner.action_block != 1:
            raise ValueError(
                "HierarchyConfig.planner.action_block must be 1: a slow step has one macro-action"
            )


@dataclass(frozen=True, eq=False)
class Level:
    """What a search needs: who searches, for which cost, and where first plans are.

    `bounds`, `init_mean (A,)` and `init_std (A,)` are those of actions, or of macro-actions for a slow level.
    """

    planner: Planner
    make_cost: Callable[[History], Cost]
    bounds: Bounds
    init_mean: Tensor
    init_std: Tensor


@dataclass(frozen=True, eq=False)
class Proposal:
    """The latest planning of the slow level: for which rows, and what it wants."""

    rows: list[int]
    plan: Plan  # of macro-actions (n, L, 1, m)
    imagined: Tensor  # (n, L, N, D), latents after each slow step
    subgoals: Tensor  # (n, N, D)
    seconds: float


@dataclass
class _Episode:
    """The slow level's side of one row since its last reset."""

    goal: Tensor
    seed: int
    plan: Tensor | None = None  # (L, 1, m)
    age: int = 0  # model steps since it was made
    decisions: int = 0


class HierarchicalAgent:
    """Acts like an `MPCAgent` whose goal is always near: a latent that a slower model imagines on the way.

    A slow level searches sequences of macro-actions, each of which stands for several model steps, so that few of them
    reach far. The latent that it imagines after the first is the goal of the fast level, which finds actions. Once that
    is about as near as the slow plan ever comes, the goal itself takes its place.

    What holds for `MPCAgent` holds here: what happens in one environment depends on its own observations, goal and
    seed only, bit for bit on a CPU; no action leaves the bounds; rows plan when it is their turn; a deadline holds for
    both levels together. The slow level sees the latest latent only.

    Source: LeCun, "A Path Towards Autonomous Machine Intelligence" (2022), section 4.7, and hierarchical planning with
    latent world models (arXiv:2604.03208).

    Args:
        fast: the level that acts. Its `make_cost` has a method `encode`, as `LatentCostFactory` has, or observations
            and goals are latents already.
        slow: the level that proposes. Its cost gets a context of one latent and no past macro-actions.
        rollout: of the slow level, see `planners.costs.Rollout`.
        distance: between latents, of the slow level; says when its plan has arrived.
        steps: model steps in a slow step.
        config: see `HierarchyConfig`. Its `planner`, `cost` and `spread` are for those who build `slow`.
        mpc: of the fast level; `deadline` is for a decision of both.

    Attributes:
        last: the fast level's latest `Decision`; None before the first.
        proposal: the slow level's latest `Proposal`; None before the first.

    Raises:
        ValueError: the settings do not fit the planners.
    """

    def __init__(
        self,
        fast: Level,
        slow: Level,
        rollout: Rollout,
        distance: Distance,
        steps: int,
        config: HierarchyConfig | None = None,
        mpc: MPCConfig | None = None,
    ) -> None:
        self.config = replace(config or HierarchyConfig())
        if steps < 1 or self.config.subgoal > slow.planner.horizon or slow.planner.action_block != 1:
            raise ValueError(
                f"a slow level of {steps} steps, whose plans have {slow.planner.horizon} blocks of "
                f"{slow.planner.action_block} macro-actions, with subgoal={self.config.subgoal}; needed are at least 1 "
                "step, blocks of 1, and plans that reach the sub-goal"
            )
        self.steps, self.proposal = steps, None
        self._fast = MPCAgent(
            fast.planner, _Seen(fast.make_cost), fast.bounds, fast.init_mean, fast.init_std, mpc
        )
        self._encode: Callable[[Tensor], Tensor] = getattr(fast.make_cost, "encode", lambda seen: seen)
        self._slow, self._rollout, self._distance = slow, rollout, distance
        self._episodes: list[_Episode] = []

    proposal: Proposal | None

    @property
    def last(self) -> Decision | None:
        return self._fast.last

    def reset(self, goals: Tensor, seeds: Tensor | Sequence[int]) -> None:
        """Begins E episodes and forgets everything of earlier ones; as `MPCAgent.reset`."""
        latents = self._encode(torch.as_tensor(goals).clone())
        self._fast.reset(latents, seeds)
        self._episodes = [_Episode(goal, int(seed)) for goal, seed in zip(latents, seeds, strict=True)]
        self.proposal = None

    def act(self, observations: Tensor, active: Tensor | None = None) -> Tensor:
        """The next actions `(E, K, A)`; as `MPCAgent.act`."""
        began = time.perf_counter()
        observations = torch.as_tensor(observations)
        rows = self._fast.active_rows(observations, active)
        if rows:
            seen = self._encode(torch.stack([observations[row].clone() for row in rows]))
            latents = seen.new_zeros(len(self._episodes), *seen.shape[1:])
            latents[rows] = seen
            due = [row for row in rows if self._is_due(self._episodes[row])]
            if due:
                self._propose(due, latents, began)
            for row in rows:
                self._episodes[row].age += 1
        else:
            latents = torch.stack([episode.goal for episode in self._episodes])  # nobody looks at them
        return self._fast.act(latents, active, began=began)

    def _is_due(self, episode: _Episode) -> bool:
        return episode.decisions == 0 or episode.age >= (self.config.every or self.steps)

    def _propose(self, rows: list[int], latents: Tensor, began: float) -> None:
        """Plan slowly for these rows, and give the fast level its sub-goals."""
        episodes, slow, seen = [self._episodes[row] for row in rows], self._slow, latents[rows]
        goals = torch.stack([e.goal for e in episodes])
        deadline = self._fast.config.deadline
        if deadline is not None:
            deadline = max(self.config.share * (deadline - (time.perf_counter() - began)), 1e-6)
        no_past = slow.bounds.low.new_zeros(len(rows), 0, 1, slow.bounds.action_dim)
        length = torch.ones(len(rows), dtype=torch.int64)
        plan = slow.planner.plan(
            slow.make_cost(History(seen[:, None], no_past, length, goals, torch.tensor(rows))),
            slow.bounds, slow.init_mean, slow.init_std,
            seeds=[derive_seed(e.seed, e.decisions, _SLOW) for e in episodes],
            start=torch.stack([self._start(e) for e in episodes]) if self.config.warm_start else None,
            deadline=deadline,
        )  # fmt: skip
        with torch.no_grad():
            # One by one and from memory of its own, for the reason that `LatentGoalCost` gives.
            imagined = torch.stack([
                self._rollout(now[None, None].clone(), no_past[:1], actions[None, None].to(now.device))[0, 0]
                for now, actions in zip(seen, plan.actions, strict=True)
            ])  # fmt: skip
            lengths = [
                self._length(now, derive_seed(e.seed, e.decisions, _LENGTH))
                for now, e in zip(seen, episodes, strict=True)
            ]
            subgoals = torch.stack([
                self._subgoal(*one) for one in zip(seen, imagined, goals, plan.cost.tolist(), lengths, strict=True)
            ])  # fmt: skip
        for episode, actions in zip(episodes, plan.actions, strict=True):
            episode.plan, episode.age, episode.decisions = actions, 0, episode.decisions + 1
        self._fast.retarget(rows, subgoals)
        self.proposal = Proposal(rows, plan, imagined, subgoals, time.perf_counter() - began)
        if failed := [
            row for row, cost in zip(rows, plan.cost.tolist(), strict=True) if cost == float("inf")
        ]:
            warnings.warn(
                f"no slow plan had a finite cost in environments {failed}; their sub-goal is the goal itself. Look for "
                "NaN in the slow level's weights or its observations",
                RuntimeWarning,
                stacklevel=3,
            )

    def _subgoal(self, now: Tensor, imagined: Tensor, goal: Tensor, cost: float, length: float) -> Tensor:
        """Where to go from `now (N, D)` if the plan's latents are `imagined (L, N, D)`; `length` is a slow step's."""
        if cost == float("inf"):
            return goal
        left = self._distance(torch.cat([now[None], imagined.to(now.dtype)]).clone(), goal[None])
        near = self.config.subgoal
        arrived = float(left[: near + 1].min()) <= float(left.min()) + self.config.tolerance * length
        return goal if arrived else imagined[near - 1]

    def _length(self, now: Tensor, seed: int) -> float:
        """How far a slow step leads from `now (N, D)`: the median over some random macro-actions."""
        slow = self._slow
        mean, std = (torch.as_tensor(value, dtype=torch.float32) for value in (slow.init_mean, slow.init_std))
        noise = torch.randn(_RANDOM, len(mean), generator=make_generators([seed])[0])
        plans = slow.bounds.clip(mean + std * noise.to(mean.device))[None, :, None, None].to(now.device)
        ends = self._rollout(now[None, None].clone(), plans.new_zeros(1, 0, 1, len(mean)), plans)[0, :, 0]
        return float(self._distance(ends.to(now.dtype), now[None]).median())

    def _start(self, episode: _Episode) -> Tensor:
        """What a slow search begins with: `(L, 1, m)`."""
        fill = self._slow.bounds.clip(torch.as_tensor(self._slow.init_mean, dtype=torch.float32))
        if episode.plan is None:
            return fill.expand(self._slow.planner.horizon, 1, -1)
        return shift(episode.plan, episode.age // self.steps, fill)


class _Seen:
    """A cost factory whose observations and goals are encoded already."""

    def __init__(self, make_cost: Callable[[History], Cost]) -> None:
        self.context: int = getattr(make_cost, "context", 1)
        self._make_cost = make_cost

    def __call__(self, history: History) -> Cost:
        return self._make_cost(history)
