"""Planning speed: seconds per solve, plans per second, the planner's own share, and other libraries' planners.

Part of `worldmodel bench what=[plan]`. A solve is one search for E environments in the latent space of a predictor with
random weights: what a plan is worth has no influence on what it costs. Times are by the clock; ratios are by the
processor's time too, which says more where other programs want the same cores.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from planners.base import Bounds
from planners.costs import GoalCostConfig, LatentGoalCost, Rollout
from planners.registry import build_planner
from worldmodel.models.dynamics import (
    AdaLNDynamics,
    AdaLNDynamicsConfig,
    Dynamics,
    RolloutConfig,
    candidates_within,
    fast_rollout,
)

PEERS = ("torch-world", "stable-worldmodel")
_LEWM = AdaLNDynamicsConfig(
    width=192,
    depth=6,
    heads=16,
    head_width=64,
    mlp_hidden=2048,
    context=3,
    projection=2048,
    projection_norm="batch",
)
#: Predictors by name, with the width of their latent: what training has by default, and the published LeWM's.
PREDICTORS = {"small": (AdaLNDynamicsConfig(), 64), "lewm": (_LEWM, 192)}


@dataclass
class PlanBench:
    """Sizes of solves; the planner's settings say how many candidates, iterations and steps."""

    #: small (what training has by default) or lewm (6 blocks of 192 with 16 heads of 64, MLPs of 2048).
    predictor: str = "small"
    #: Steps that its window has; 0: 3. With as many as the plan has, or more, no step is ever computed twice.
    window: int = 0
    #: Environments planned for at once, each number a row.
    environments: list[int] = field(default_factory=lambda: [1])
    #: Tokens per step, each number a row: 1, or patches. With several, also a rollout that recomputes its window.
    tokens: list[int] = field(default_factory=lambda: [1])
    #: fp32, bf16.
    precisions: list[str] = field(default_factory=lambda: ["fp32", "bf16"])
    #: With torch.compile as well, and, on a GPU, with CUDA graphs.
    compile: bool = False
    #: GiB for the activations of candidates; 0: no limit.
    memory: float = 0.0

    def __post_init__(self) -> None:
        if self.predictor not in PREDICTORS:
            raise ValueError(f"plan.predictor={self.predictor!r}: choose one of {', '.join(PREDICTORS)}")
        if min([self.window + 1, *self.environments, *self.tokens]) < 1:
            raise ValueError(
                "plan.environments and plan.tokens must be at least 1, and plan.window not negative"
            )
        for precision in self.precisions:
            RolloutConfig(precision=precision, memory=self.memory)


@dataclass(frozen=True)
class Times:
    """Of one call: seconds by the clock, and of the processor."""

    clock: float
    processor: float


def measure(bench: PlanBench, planner: Any, repeats: int, device: str = "cpu") -> dict[str, float]:
    """Rows of seconds and ratios, for all combinations of the settings.

    Args:
        bench: Sizes.
        planner: Settings of a planner.
        repeats: Solves that are timed, after one that is not.
        device: Where the predictor computes.
    """
    figures: dict[str, float] = {}
    for tokens in bench.tokens:
        dynamics = make_predictor(bench, tokens, planner.action_block).to(device)
        sides = rollouts(bench, dynamics, device)
        for envs in bench.environments:
            solves = {
                name: make_solve(dynamics, one, planner, envs, bench.memory) for name, one in sides.items()
            }
            solves["nothing"] = make_solve(dynamics, None, planner, envs)
            where = (
                f"{envs} environments, {tokens} tokens" if max(envs, tokens) > 1 else "1 environment, 1 token"
            )
            times = in_turns(solves, repeats)
            figures |= _rows(where, envs, times)
    return figures


def _rows(where: str, envs: int, times: dict[str, list[Times]]) -> dict[str, float]:
    figures = {}
    overhead = median(one.processor for one in times.pop("nothing"))
    plain = times.pop(RECOMPUTED, None)
    for name, found in times.items():
        clock = sorted(one.clock for one in found)
        figures[f"plan: s per solve, p50, {where}, {name}"] = median(clock)
        figures[f"plan: s per solve, p95, {where}, {name}"] = clock[int(0.95 * (len(clock) - 1) + 0.5)]
        figures[f"plan: plans/s, {where}, {name}"] = envs / median(clock)
        share = 100 * overhead / median(one.processor for one in found)
        figures[f"plan: planner's own share of a solve in %, {where}, {name}"] = share
        if plain is not None:
            gain = median(a.processor / b.processor for a, b in zip(plain, found, strict=True))
            figures[f"plan: faster than {RECOMPUTED} by, {where}, {name}"] = gain
    return figures


RECOMPUTED = "recomputing the window"


def rollouts(bench: PlanBench, dynamics: Dynamics, device: str) -> dict[str, Rollout]:
    """What imagines plans in each row."""
    found: dict[str, Rollout] = {}
    for precision in bench.precisions:
        found[precision] = fast_rollout(dynamics, RolloutConfig(precision), device)
        if bench.compile:
            found[f"{precision}, compiled"] = fast_rollout(
                dynamics, RolloutConfig(precision, compile=True), device
            )
        if bench.compile and device.startswith("cuda"):
            graphs = RolloutConfig(precision, compile=True, cuda_graphs=True)
            found[f"{precision}, CUDA graphs"] = fast_rollout(dynamics, graphs, device)
    if dynamics.tokens > 1:
        found[RECOMPUTED] = lambda context, past, plans: recomputed(dynamics, context, past, plans)
    return found


def make_predictor(bench: PlanBench, tokens: int, block: int) -> AdaLNDynamics:
    """The predictor, with random weights that let the actions count, for actions of 2 dimensions."""
    config, width = PREDICTORS[bench.predictor]
    torch.manual_seed(0)
    config = AdaLNDynamicsConfig(**{**asdict(config), "context": bench.window or config.context})
    dynamics = AdaLNDynamics(config, tokens, width, block, 2).eval().requires_grad_(False)
    for layer in dynamics.blocks:
        nn.init.normal_(layer.modulation.weight, std=0.02)  # type: ignore[union-attr,arg-type]
    return dynamics


def make_solve(
    dynamics: Dynamics, rollout: Rollout | None, settings: Any, envs: int, memory: float = 0.0
) -> Callable[[], Tensor]:
    """One search for all environments, from one frame each; without a rollout, by a cost that takes no time."""
    device = dynamics.action_mean.device
    drawn = torch.randn(
        2, envs, 1, dynamics.tokens, dynamics.width, generator=torch.Generator().manual_seed(0)
    )
    context, goals = drawn.to(device)
    past = torch.zeros(envs, 0, dynamics.actions_per_step, 2, device=device)
    planner, limit = build_planner(settings), torch.full((2,), 10.0)
    candidates = candidates_within(dynamics, settings.horizon, memory)

    def solve() -> Tensor:
        if rollout is None:
            plan = planner.plan(
                lambda plans: plans[:, :, -1, -1, 0], Bounds(-limit, limit), *_first(), seeds=range(envs)
            )
            return plan.actions
        cost = LatentGoalCost(rollout, context, past, goals[:, 0], config=FINAL, candidates=candidates)
        return planner.plan(cost, Bounds(-limit, limit), *_first(), seeds=range(envs)).actions

    return solve


#: The published cost: the squared distance after the last step.
FINAL = GoalCostConfig(path=0.0, final=1.0, minimum=0.0, distance="mse")


def _first() -> tuple[Tensor, Tensor]:
    return torch.zeros(2), torch.ones(2)


def recomputed(dynamics: Dynamics, context: Tensor, past_actions: Tensor, plans: Tensor) -> Tensor:
    """A rollout that computes its whole window at each step, with the context copied for each candidate."""
    count = plans.shape[1]
    tokens = context.repeat_interleave(count, dim=0)
    actions = torch.cat([past_actions.repeat_interleave(count, dim=0), plans.flatten(0, 1)], dim=1)
    for end in range(tokens.shape[1], actions.shape[1] + 1):
        window = slice(max(0, end - dynamics.context), end)
        tokens = torch.cat([tokens, dynamics(tokens[:, window], actions[:, window])[:, -1:]], dim=1)
    return tokens[:, context.shape[1] :].unflatten(0, plans.shape[:2])


def in_turns(sides: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[Times]]:
    """Times of all sides, one call of each after the other, so that all see the machine equally busy."""
    times: dict[str, list[Times]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, side in sides.items():
            clock, processor = time.perf_counter(), time.process_time()
            side()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:  # the first warms up
                times[name].append(Times(time.perf_counter() - clock, time.process_time() - processor))
    return times


def median_seconds(work: Callable[[], Any], repeats: int) -> float:
    """Of a call, after three that warm up."""
    times = []
    for _ in range(repeats + 3):
        began = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return sorted(times[3:])[repeats // 2]


def measure_peer(name: str, python: str, bench: PlanBench, planner: Any, repeats: int) -> dict[str, float]:
    """Solves by another library's planner and predictor with our weights, and ours, in one process of its environment.

    Args:
        name: Of ``PEERS``.
        python: The Python that has it; empty: this one.
        bench: Sizes; the peer plans for the first number of environments, with one token.
        planner: Settings of CEM.
        repeats: Turns.

    Raises:
        ValueError: The library is missing, it does not predict what we predict, or the planner is another.
    """
    missing = [key for key in ("samples", "elites", "iterations", "horizon") if not hasattr(planner, key)]
    if missing or planner.horizon < 1:
        raise ValueError("what=[plan] against other libraries measures their CEM; use planner=cem")
    settings = {
        "bench": asdict(bench),
        "planner": asdict(planner),
        "repeats": repeats,
        "threads": torch.get_num_threads(),
    }
    script = Path(__file__).with_name("bench_plan_peer.py")
    command = [python or sys.executable, str(script), name, json.dumps(settings)]
    try:
        answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    except OSError as error:
        raise ValueError(f"peer_python={python} cannot be run ({error.strerror})") from error
    if answer.returncode:
        raise ValueError(
            f"{name}'s planner in {python or sys.executable} ended, see its last lines above; install {name} there, or "
            "name another Python: peer_python=PATH"
        )
    figures: dict[str, float] = json.loads(answer.stdout)
    return figures
