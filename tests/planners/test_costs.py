"""Latent goal costs against plain loops, and the factory that makes them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from planners.base import History
from planners.costs import DISTANCES, GoalCostConfig, LatentCostFactory, LatentGoalCost, chunk_size

E, M, N, D, S, L, K, A = 3, 2, 4, 5, 6, 7, 2, 3


def drift(context: Tensor, past_actions: Tensor, plans: Tensor) -> Tensor:
    """A rollout that depends on all it is given: the last latent, pushed by past and planned actions."""
    push = plans.sum(dim=3).cumsum(dim=2) + past_actions.sum(dim=(1, 2))[:, None, None]
    push = torch.cat([push, push[..., :2]], dim=-1)  # A -> D
    return context[:, None, None, -1] + push[:, :, :, None] * torch.linspace(0.5, 1.5, N)[:, None]


def problem() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return (
        torch.randn(E, M, N, D),
        torch.randn(E, M - 1, K, A),
        torch.randn(E, N, D),
        torch.randn(E, S, L, K, A),
    )


def loop_distance(kind: str, latent: Tensor, goal: Tensor) -> float:
    per_token, squares, absolutes = [], 0.0, 0.0
    for n in range(N):
        dot = left = right = token = 0.0
        for d in range(D):
            x, y = float(latent[n, d]), float(goal[n, d])
            squares, absolutes, token = squares + (x - y) ** 2, absolutes + abs(x - y), token + (x - y) ** 2
            dot, left, right = dot + x * y, left + x * x, right + y * y
        per_token.append(math.sqrt(token) if kind == "l2" else 1 - dot / math.sqrt(left * right))
    if kind in ("l2", "cosine"):
        return sum(per_token) / N
    mse = squares / (N * D)
    return {"rms": math.sqrt(mse), "mse": mse, "l1": absolutes / (N * D)}[kind]


@pytest.mark.parametrize("kind", sorted(DISTANCES))
def test_the_cost_is_what_a_plain_loop_computes(kind: str) -> None:
    context, past_actions, goals, plans = problem()
    config = GoalCostConfig(path=0.7, final=1.3, minimum=0.4, distance=kind)
    costs = LatentGoalCost(drift, context, past_actions, goals, config=config)(plans)
    assert costs.shape == (E, S) and costs.dtype == torch.float32
    latents = drift(context, past_actions, plans)
    for e in range(E):
        for s in range(S):
            d = [loop_distance(kind, latents[e, s, t], goals[e]) for t in range(L)]
            path = sum((t + 1) * d[t] for t in range(L)) / sum(t + 1 for t in range(L))
            assert float(costs[e, s]) == pytest.approx(0.7 * path + 1.3 * d[-1] + 0.4 * min(d), rel=1e-4)


def test_later_steps_of_the_path_weigh_more() -> None:
    cost = LatentGoalCost(
        drift, *problem()[:3], config=GoalCostConfig(path=1.0, final=0.0, minimum=0.0)
    )  # fmt: skip
    early, late = torch.tensor([1.0, 0, 0]), torch.tensor([0, 0, 1.0])
    assert cost.reduce(late) == pytest.approx(3 * cost.reduce(early))
    assert cost.reduce(torch.ones(9)) == pytest.approx(1.0)  # a mean: the plan's length does not matter


def test_at_the_goal_the_cost_is_zero() -> None:
    context, past_actions, _, plans = problem()
    goals = context[:, -1]
    stay = LatentGoalCost(
        lambda c, a, p: c[:, None, None, -1].expand(-1, S, L, -1, -1), context, past_actions, goals
    )
    torch.testing.assert_close(stay(plans), torch.zeros(E, S))


@pytest.mark.parametrize("chunk", [None, 1, 2, 3, 100])
def test_chunks_change_nothing_but_the_number_of_calls(chunk: int | None) -> None:
    context, past_actions, goals, plans = problem()
    sizes = []

    def counting(c: Tensor, a: Tensor, p: Tensor) -> Tensor:
        sizes.append(len(c))
        return drift(c, a, p)

    cost = LatentGoalCost(counting, context, past_actions, goals, chunk=chunk)(plans)
    torch.testing.assert_close(cost, LatentGoalCost(drift, context, past_actions, goals)(plans))
    assert sizes == {None: [1, 1, 1], 1: [1, 1, 1], 2: [2, 1], 3: [3], 100: [3]}[chunk]


def test_only_real_context_reaches_the_rollout() -> None:
    context, past_actions, goals, plans = problem()
    context, past_actions = context.repeat(1, 2, 1, 1), torch.randn(E, 3, K, A)
    context[0, :3] = past_actions[0] = torch.nan  # row 0 has one real step, row 1 four, row 2 two
    context[2, :2] = past_actions[2, :2] = torch.nan
    seen = []

    def rollout(c: Tensor, a: Tensor, p: Tensor) -> Tensor:
        seen.append((c.shape[1], a.shape[1]))
        return drift(c, a, p)

    length = torch.tensor([1, 4, 2])
    costs = LatentGoalCost(rollout, context, past_actions, goals, length=length, chunk=2)(plans)
    assert seen == [(1, 0), (2, 1), (4, 3)]
    for e, n in enumerate(length.tolist()):  # in the order of the environments, although grouped by length
        alone = LatentGoalCost(
            drift, context[e : e + 1, 4 - n :], past_actions[e : e + 1, 4 - n :], goals[e : e + 1]
        )
        torch.testing.assert_close(alone(plans[e : e + 1])[0], costs[e])


@pytest.mark.parametrize("width", [3, 10, 17])
def test_costs_do_not_depend_on_the_neighbours_bit_for_bit(width: int) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(width + A, 61), nn.GELU(), nn.Linear(61, width))

    def rollout(c: Tensor, a: Tensor, p: Tensor) -> Tensor:
        state, states = c[:, None, -1].expand(-1, p.shape[1], -1, -1), []
        for t in range(p.shape[2]):
            action = p[:, :, t, 0, None].expand(-1, -1, state.shape[2], -1)
            state = state + network(torch.cat([state, action], dim=-1))
            states.append(state)
        return torch.stack(states, dim=2)

    context, past_actions = torch.randn(7, 3, 1, width), torch.randn(7, 2, 1, A)
    goals, plans = torch.randn(7, 1, width), torch.randn(7, 33, 4, 1, A)
    together = LatentGoalCost(rollout, context, past_actions, goals)(plans)
    for some in ([0], [1], [6], [4, 2], [5, 6, 0]):
        alone = LatentGoalCost(rollout, context[some], past_actions[some], goals[some])(plans[some])
        assert torch.equal(alone, together[some])


def test_gradients_reach_the_plans() -> None:
    context, past_actions, goals, plans = problem()
    plans.requires_grad_()
    LatentGoalCost(drift, context, past_actions, goals)(plans).sum().backward()
    assert plans.grad is not None and plans.grad.isfinite().all() and (plans.grad != 0).any()


def test_half_precision_latents_are_compared_in_single_precision() -> None:
    context, past_actions, goals, plans = problem()
    cost = LatentGoalCost(drift, context.bfloat16(), past_actions, goals.bfloat16())(plans)
    assert cost.dtype == torch.float32


# The factory


def encode(frames: Tensor) -> Tensor:
    return frames.float().flatten(1)[:, : N * D].view(-1, N, D) / 255


def frames(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)


def test_the_factory_encodes_frames_one_at_a_time_on_a_cpu() -> None:
    sizes = []

    def counting(batch: Tensor) -> Tensor:
        assert batch.dtype == torch.uint8
        sizes.append(len(batch))
        return encode(batch)

    images = frames(5)
    factory = LatentCostFactory(counting, drift)
    assert torch.equal(factory.encode(images), encode(images)) and sizes == [1] * 5
    sizes.clear()
    LatentCostFactory(counting, drift, chunk=4).encode(images)
    assert sizes == [4, 1]


def test_the_factory_makes_the_cost_of_a_history() -> None:
    context, past_actions, goals, plans = problem()
    length = torch.tensor([2, 1, 2])
    config = GoalCostConfig(path=0.0, final=2.0)
    history = History(context, past_actions, length, goals, torch.arange(E))
    made = LatentCostFactory(encode, drift, config)(history)(plans)
    expected = LatentGoalCost(drift, context, past_actions, goals, length=length, config=config)(plans)
    assert torch.equal(made, expected)


def test_encoding_keeps_no_graph() -> None:
    layer = nn.Linear(192, N * D)
    factory = LatentCostFactory(lambda batch: layer(batch.float().flatten(1)).view(-1, N, D), drift)
    assert not factory.encode(frames(2)).requires_grad


# Errors: one clear line each


@pytest.mark.parametrize(
    "values, message",
    [
        ({"path": -1.0}, "path is -1.0"),
        ({"final": math.inf}, "final is inf"),
        ({"minimum": math.nan}, "minimum is nan"),
        ({"path": 0, "final": 0, "minimum": 0}, "all 0"),
        ({"distance": "rmse"}, "distance is 'rmse'; choose one of rms, mse, l1, l2, cosine"),
    ],
)
def test_bad_settings_are_named(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        GoalCostConfig(**values)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_shapes_that_do_not_match_are_named() -> None:
    context, past_actions, goals, plans = problem()
    with pytest.raises(ValueError, match=r"context has shape .* goals \(3, 4, 4\)"):
        LatentGoalCost(drift, context, past_actions, goals[..., :4])
    with pytest.raises(ValueError, match=r"past_actions .* E = 3 and M = 2"):
        LatentGoalCost(drift, context, past_actions[:, :0], goals)
    for length in ([0, 1, 1], [1, 3, 1], [1, 1]):
        with pytest.raises(ValueError, match="length is"):
            LatentGoalCost(drift, context, past_actions, goals, length=torch.tensor(length))
    with pytest.raises(ValueError, match="rollout returned shape"):
        LatentGoalCost(lambda c, a, p: drift(c, a, p)[:, :, 0], context, past_actions, goals)(plans)
    with pytest.raises(ValueError, match="encode returned shape"):
        LatentCostFactory(lambda batch: encode(batch)[:, 0], drift).encode(frames(2))
    with pytest.raises(ValueError, match="chunk is -1"):
        LatentGoalCost(drift, context, past_actions, goals, chunk=-1)


def test_off_the_cpu_all_environments_share_a_call() -> None:
    assert chunk_size(None, torch.device("cuda"), 32) == 32
    assert chunk_size(None, torch.device("cpu"), 32) == 1
    assert chunk_size(8, torch.device("cuda"), 32) == 8


def test_the_settings_are_a_hydra_node() -> None:
    omegaconf = pytest.importorskip("omegaconf")
    node = omegaconf.OmegaConf.merge(omegaconf.OmegaConf.structured(GoalCostConfig), {"distance": "l1"})
    assert omegaconf.OmegaConf.to_object(node) == GoalCostConfig(distance="l1")


def test_candidates_in_parts_cost_the_same() -> None:
    sizes: list[int] = []

    def rollout(context: torch.Tensor, past: torch.Tensor, plans: torch.Tensor) -> torch.Tensor:
        sizes.append(plans.shape[1])
        return context[:, None, -1:] + plans.sum(dim=3)[:, :, :, None].cumsum(dim=2)

    context, past, goals = torch.randn(2, 1, 3, 2), torch.zeros(2, 0, 1, 2), torch.randn(2, 3, 2)
    plans = torch.randn(2, 7, 4, 1, 2)
    config = GoalCostConfig(action=0.5, consistency=0.0)
    whole = LatentGoalCost(rollout, context, past, goals, config=config)(plans)
    sizes.clear()
    parts = LatentGoalCost(rollout, context, past, goals, config=config, candidates=3)(plans)
    assert sizes == [3, 3, 1] * 2
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=1e-5)
    with pytest.raises(ValueError, match="candidates is 0"):
        LatentGoalCost(rollout, context, past, goals, candidates=0)
