"""The terms of costs beside the plain distance: proprioception, penalties, uncertainty, learned values, sums."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from planners.base import Bounds, History
from planners.cem import CEM, CEMConfig
from planners.costs import GoalCostConfig, LatentCostFactory, LatentGoalCost
from planners.gradient import Gradient, GradientConfig
from planners.terms import DISTANCES, SumCost, action_penalty, disagreement, with_proprio

E, N, D, S, L, K, A = 2, 3, 6, 5, 4, 2, 2
ONLY_FINAL = {"path": 0.0, "final": 1.0, "minimum": 0.0}


def drift(context: Tensor, past_actions: Tensor, plans: Tensor) -> Tensor:
    push = plans.sum(dim=(3, 4)).cumsum(dim=2)
    return context[:, None, None, -1] + push[..., None, None] * torch.linspace(0.5, 1.5, D)


def problem() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(E, 2, N, D), torch.randn(E, 1, K, A), torch.randn(E, N, D), torch.randn(E, S, L, K, A)


def cost_of(config: GoalCostConfig, **others: object) -> Tensor:
    context, past_actions, goals, plans = problem()
    return LatentGoalCost(drift, context, past_actions, goals, config=config, **others)(plans)  # type: ignore[arg-type]


# Path


def test_a_uniform_path_is_the_mean_over_all_steps() -> None:
    cost = LatentGoalCost(
        drift, *problem()[:3],
        config=GoalCostConfig(path=1.0, final=0.0, minimum=0.0, weighting="uniform"),
    )  # fmt: skip
    distances = torch.rand(3, 7)
    torch.testing.assert_close(cost.reduce(distances), distances.mean(dim=1))


# Proprioception


@pytest.mark.parametrize("kind", sorted(DISTANCES))
def test_the_unit_and_the_number_of_the_pictures_tokens_do_not_matter(kind: str) -> None:
    torch.manual_seed(0)
    picture, aim = torch.randn(E, S, L, N, D), torch.randn(E, 1, 1, N, D)
    body, pose = torch.randn(E, S, L, 1, D), torch.randn(E, 1, 1, 1, D)
    distance = with_proprio(kind, [-1], 0.3)
    plain = distance(torch.cat([picture, body], dim=-2), torch.cat([aim, pose], dim=-2))
    scaled = distance(torch.cat([picture * 50, body], dim=-2), torch.cat([aim * 50, pose], dim=-2))
    more = distance(
        torch.cat([picture, picture, picture, body], dim=-2), torch.cat([aim, aim, aim, pose], dim=-2)
    )
    torch.testing.assert_close(scaled, plain)
    torch.testing.assert_close(more, plain)


@pytest.mark.parametrize("kind", sorted(DISTANCES))
def test_proprioception_counts_by_its_weight_in_standard_deviations(kind: str) -> None:
    latents = torch.ones(N, D)
    goal = latents.clone()
    goal[-1] += 1.0  # every value is off by one standard deviation; the picture is right
    assert with_proprio(kind, [-1], 0.3)(latents, goal).item() == pytest.approx(0.3)
    assert with_proprio(kind, [N - 1], 0.0)(latents, goal).item() == pytest.approx(0.0, abs=1e-6)
    goal[-1], goal[0] = 1.0, 3.0
    assert with_proprio(kind, [-1], 9.0)(latents, goal).item() == pytest.approx(
        with_proprio(kind, [-1], 0.0)(latents, goal).item()
    )


def test_a_goal_pose_at_the_datas_mean_is_no_special_case() -> None:
    goal = torch.ones(N, D)
    goal[-1] = 0.0
    assert with_proprio("l1", [-1], 1.0)(torch.ones(N, D), goal).item() == pytest.approx(1.0)


def test_proprioception_by_the_settings() -> None:
    _, _, goals, plans = problem()
    costs = cost_of(GoalCostConfig(proprio=0.5, **ONLY_FINAL), proprio_tokens=(-1,))
    latents = drift(problem()[0], problem()[1], plans)[:, :, -1]
    seen = (latents - goals[:, None])[..., :-1, :].square().mean(dim=(2, 3)).sqrt()
    felt = (latents - goals[:, None])[..., -1, :].square().mean(dim=2).sqrt()
    size = goals[:, :-1].square().mean(dim=(1, 2)).sqrt()
    torch.testing.assert_close(costs, seen / size[:, None] + 0.5 * felt)
    with pytest.raises(ValueError, match="cost.proprio needs a model with proprioception"):
        cost_of(GoalCostConfig(proprio=0.5))
    with pytest.raises(ValueError, match="cost.proprio has no effect on a learned distance"):
        LatentCostFactory(
            lambda f: f, drift, GoalCostConfig(proprio=0.5), distance=DISTANCES["l1"], proprio_tokens=(-1,)
        )


# Actions


def test_action_penalties_are_what_a_plain_loop_computes() -> None:
    _, past_actions, _, plans = problem()
    scale, before = torch.tensor([2.0, 0.5]), past_actions[:, -1, -1]
    size, change = action_penalty(plans, scale, before)
    for e in range(E):
        for s in range(S):
            flat = (plans[e, s].reshape(L * K, A) / scale).double()
            steps = torch.cat([(before[e] / scale).double()[None], flat])
            assert size[e, s].item() == pytest.approx((flat**2).mean().item(), rel=1e-5)
            assert change[e, s].item() == pytest.approx(
                ((steps[1:] - steps[:-1]) ** 2).mean().item(), rel=1e-5
            )
    assert (action_penalty(plans[:, :, :1, :1], scale)[1] == 0).all()  # one action alone does not change


def test_penalties_add_up_in_the_cost() -> None:
    scale = torch.tensor([2.0, 0.5])
    _, past_actions, _, plans = problem()
    plain, with_penalty = cost_of(GoalCostConfig()), cost_of(
        GoalCostConfig(action=0.3, change=0.7), action_scale=scale
    )  # fmt: skip
    size, change = action_penalty(plans, scale, past_actions[:, -1, -1])
    torch.testing.assert_close(with_penalty, plain + 0.3 * size + 0.7 * change)


def test_a_penalty_on_change_makes_plans_smoother() -> None:
    context, past_actions, goals, _ = problem()
    bounds = Bounds(-torch.ones(A), torch.ones(A))
    roughness = []
    for weight in (0.0, 1.0):
        cost = LatentGoalCost(
            drift, context, torch.zeros_like(past_actions), goals, config=GoalCostConfig(change=weight)
        )
        plan = CEM(CEMConfig(64, 8, 8, L, K)).plan(cost, bounds, torch.zeros(A), torch.ones(A), seeds=[0, 1])
        roughness.append(plan.actions.flatten(1, 2).diff(dim=1).square().mean().item())
    assert roughness[1] < 0.5 * roughness[0]


# Uncertainty


def members(context: Tensor, past_actions: Tensor, plans: Tensor) -> Tensor:
    """Two members that agree where the first action is 0, and the less, the larger it is."""
    middle = drift(context, past_actions, plans)
    apart = plans[:, :, 0, 0, 0].abs()[..., None, None, None] * torch.ones_like(middle)
    return torch.stack([middle - apart, middle + apart])


def test_an_ensemble_is_judged_by_its_mean_and_pays_for_disagreement() -> None:
    context, past_actions, goals, plans = problem()
    plain = cost_of(GoalCostConfig())
    free = LatentGoalCost(members, context, past_actions, goals)(plans)
    torch.testing.assert_close(free, plain)
    config = GoalCostConfig(disagreement=0.4)
    paid = LatentGoalCost(members, context, past_actions, goals, config=config)(plans)
    torch.testing.assert_close(paid, plain + 0.4 * plans[:, :, 0, 0, 0].abs())
    with pytest.raises(ValueError, match="cost.disagreement needs an ensemble"):
        cost_of(config)


def test_members_that_agree_have_a_gradient() -> None:
    same = torch.ones(3, 2, N, D, requires_grad=True)
    disagreement(same).sum().backward()  # type: ignore[no-untyped-call]
    assert same.grad is not None and same.grad.isfinite().all()


def test_a_rollout_that_agrees_with_itself_pays_nothing() -> None:
    torch.testing.assert_close(cost_of(GoalCostConfig(consistency=5.0)), cost_of(GoalCostConfig()))


def test_a_rollout_that_contradicts_itself_pays_by_how_much() -> None:
    context, past_actions, goals, plans = problem()
    sizes = []

    def jumpy(context: Tensor, past_actions: Tensor, plans: Tensor) -> Tensor:
        """What half a plan leads to lies 2 away from where the whole plan says."""
        sizes.append(tuple(plans.shape))
        return drift(context, past_actions, plans) + 2.0 * (plans.shape[2] != L)

    config = GoalCostConfig(consistency=0.5)
    paid = LatentGoalCost(jumpy, context, past_actions, goals, config=config)(plans)
    torch.testing.assert_close(paid, cost_of(GoalCostConfig()) + 0.5 * 2.0)
    assert sizes == [(1, S, L, K, A), (S, 1, L - L // 2, K, A)] * E


# A learned value, a cost of one's own, sums


def test_a_learned_value_takes_the_distances_place() -> None:
    context, past_actions, goals, plans = problem()

    def steps_to_go(latents: Tensor, goals: Tensor) -> Tensor:
        return (latents - goals).abs().amax(dim=(-2, -1)) / 0.1

    factory = LatentCostFactory(
        lambda frames: frames, drift, GoalCostConfig(**ONLY_FINAL), distance=steps_to_go
    )
    history = History(context, past_actions, torch.tensor([2, 2]), goals, torch.tensor([0, 1]))
    expected = steps_to_go(drift(context, past_actions, plans), goals[:, None, None])[:, :, -1]
    torch.testing.assert_close(factory(history)(plans), expected)


def test_a_sum_is_weighted_and_leaves_out_what_has_no_weight() -> None:
    plans = torch.rand(E, S, L, K, A)

    def never(plans: Tensor) -> Tensor:
        raise AssertionError("a term of weight 0 is not computed")

    def ones(plans: Tensor) -> Tensor:
        return torch.ones(plans.shape[:2])

    def some_fail(plans: Tensor) -> Tensor:
        return torch.where(torch.arange(S) == 2, torch.nan, 3.0).expand(E, S)

    total = SumCost((2.0, ones), (0.0, never), (0.5, some_fail))(plans)
    assert total[:, [0, 1, 3, 4]].eq(3.5).all() and total[:, 2].isnan().all()
    for weights in ((), (0.0,), (float("inf"),)):
        with pytest.raises(ValueError, match="SumCost has the weights"):
            SumCost(*[(weight, ones) for weight in weights])


def test_gradients_flow_through_every_term() -> None:
    context, past_actions, goals, _ = problem()
    config = GoalCostConfig(proprio=0.5, action=0.1, change=0.1, disagreement=0.1, consistency=0.1)
    goal = LatentGoalCost(members, context, past_actions, goals, config=config, proprio_tokens=(-1,))
    cost = SumCost((1.0, goal), (0.1, lambda plans: plans.square().mean(dim=(2, 3, 4))))
    bounds = Bounds(-torch.ones(A), torch.ones(A))
    plan = Gradient(GradientConfig(4, 15, L, K)).plan(
        cost, bounds, torch.full((A,), 0.5), torch.ones(A), seeds=[0, 1]
    )
    assert (plan.cost < 0.95 * cost(torch.full((E, 1, L, K, A), 0.5))[:, 0]).all()


@pytest.mark.parametrize("name", ["proprio", "action", "change", "disagreement", "consistency"])
def test_bad_weights_are_named(name: str) -> None:
    for value in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"GoalCostConfig.{name} is"):
            GoalCostConfig(**{name: value})
    with pytest.raises(ValueError, match="weighting is 'late'; choose linear or uniform"):
        GoalCostConfig(weighting="late")
