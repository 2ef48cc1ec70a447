"""The MPC agent's bookkeeping: what it shows to planner and cost, and which actions it takes from a plan."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from planners.base import Bounds, Cost, History, Plan
from planners.mpc import MPCAgent, MPCConfig, shift


class Notes:
    """Planner, cost factory and cost in one; plan number i consists of the numbers 100 i, 100 i + 1, ..."""

    horizon, action_block = 4, 1

    def __init__(self) -> None:
        self.histories: list[History] = []
        self.starts: list[Tensor | None] = []
        self.seeds: list[list[int]] = []
        self.deadlines: list[float | None] = []
        self.encoded: list[int] = []

    def encode(self, observations: Tensor) -> Tensor:
        self.encoded += observations.flatten().tolist()
        return observations * 10.0

    def __call__(self, history: History) -> Cost:
        self.histories.append(history)
        return lambda plans: torch.zeros(plans.shape[:2])

    def plan(
        self,
        cost: Cost,
        bounds: Bounds,
        init_mean: Tensor,
        init_std: Tensor,
        *,
        seeds: Tensor | list[int],
        start: Tensor | None = None,
        deadline: float | None = None,
    ) -> Plan:
        numbers = torch.arange(4.0) + 100 * len(self.seeds)
        self.starts.append(start)
        self.seeds.append([int(seed) for seed in seeds])
        self.deadlines.append(deadline)
        return Plan(numbers.view(1, 4, 1, 1).repeat(len(seeds), 1, 1, 1), torch.zeros(len(seeds)))


WIDE = Bounds(torch.tensor([-torch.inf]), torch.tensor([torch.inf]))


def noting_agent(config: MPCConfig) -> tuple[MPCAgent, Notes]:
    notes = Notes()
    return MPCAgent(notes, notes, WIDE, torch.tensor([0.5]), torch.ones(1), config), notes


def seen(*numbers: int) -> Tensor:
    return torch.tensor(numbers).view(-1, 1)


def test_a_plan_is_executed_for_some_steps_and_then_made_anew() -> None:
    agent, notes = noting_agent(MPCConfig(execute=2))
    agent.reset(seen(9), [5])
    assert agent.last is None
    actions = [agent.act(seen(t)).item() for t in range(5)]
    assert actions == [0, 1, 100, 101, 200]
    assert len(notes.histories) == 3
    assert agent.last is not None and agent.last.rows == [0] and agent.last.seconds > 0


def test_warm_start_shifts_the_plan_by_what_was_executed() -> None:
    agent, notes = noting_agent(MPCConfig(execute=1))
    agent.reset(seen(9), [5])
    for t in range(3):
        agent.act(seen(t))
    assert [s.flatten().tolist() for s in notes.starts if s is not None] == [
        [0.5, 0.5, 0.5, 0.5],  # nothing to start from: the mean
        [1, 2, 3, 0.5],
        [101, 102, 103, 0.5],
    ]
    agent, notes = noting_agent(MPCConfig(execute=3))
    agent.reset(seen(9), [5])
    for t in range(4):
        agent.act(seen(t))
    assert notes.starts[1] is not None and notes.starts[1].flatten().tolist() == [3, 0.5, 0.5, 0.5]


def test_nothing_is_left_of_a_plan_that_was_executed_to_its_end() -> None:
    agent, notes = noting_agent(MPCConfig(execute=4))
    agent.reset(seen(9), [5])
    for t in range(5):
        agent.act(seen(t))
    assert notes.starts[1] is not None and notes.starts[1].flatten().tolist() == [0.5] * 4


def test_shift_keeps_order_and_shape() -> None:
    plan, fill = torch.arange(12.0).view(3, 2, 2), torch.tensor([-1.0, -2.0])
    assert shift(plan, 1, fill).flatten().tolist() == [4, 5, 6, 7, 8, 9, 10, 11, -1, -2, -1, -2]
    for steps in range(5):
        assert shift(plan, steps, fill).shape == plan.shape


def test_without_warm_start_every_search_begins_anew() -> None:
    agent, notes = noting_agent(MPCConfig(warm_start=False))
    agent.reset(seen(9), [5])
    agent.act(seen(0)), agent.act(seen(1))
    assert notes.starts == [None, None]


def test_history_grows_from_the_episodes_start_and_then_slides() -> None:
    agent, notes = noting_agent(MPCConfig(history=3))
    agent.reset(seen(9), [5])
    for t in range(1, 6):
        agent.act(seen(t))
    got = [
        (h.length.tolist(), h.observations.flatten().tolist(), h.past_actions.flatten().tolist())
        for h in notes.histories
    ]
    assert got == [
        ([1], [10, 10, 10], [0, 0]),
        ([2], [10, 10, 20], [0, 0]),  # the first action executed was 0
        ([3], [10, 20, 30], [0, 100]),
        ([3], [20, 30, 40], [100, 200]),
        ([3], [30, 40, 50], [200, 300]),
    ]
    assert notes.histories[0].observations.shape == (1, 3, 1)
    assert notes.histories[0].past_actions.shape == (1, 2, 1, 1)
    assert all(h.goals.tolist() == [[90.0]] for h in notes.histories)


def test_history_holds_the_steps_between_plannings_too() -> None:
    agent, notes = noting_agent(MPCConfig(history=3, execute=2))
    agent.reset(seen(9), [5])
    for t in range(1, 6):
        agent.act(seen(t))
    assert [h.observations.flatten().tolist() for h in notes.histories] == [
        [10, 10, 10],
        [10, 20, 30],
        [30, 40, 50],
    ]
    assert [h.past_actions.flatten().tolist() for h in notes.histories] == [[0, 0], [0, 1], [100, 101]]


def test_without_history_there_are_no_past_actions() -> None:
    agent, notes = noting_agent(MPCConfig())
    agent.reset(seen(9, 9), [5, 6])
    agent.act(seen(1, 2)), agent.act(seen(3, 4))
    assert notes.histories[1].observations.tolist() == [[[30.0]], [[40.0]]]
    assert notes.histories[1].past_actions.shape == (2, 0, 1, 1)


def test_history_is_by_default_what_the_cost_asks_for() -> None:
    notes = Notes()
    notes.context = 2  # type: ignore[attr-defined]
    agent = MPCAgent(notes, notes, WIDE, torch.tensor([0.5]), torch.ones(1), MPCConfig())
    agent.reset(seen(9), [5])
    for t in (1, 2, 3):
        agent.act(seen(t))
    assert [h.observations.flatten().tolist() for h in notes.histories] == [[10, 10], [10, 20], [20, 30]]
    assert noting_agent(MPCConfig(history=1))[0].history == 1


def test_goals_and_observations_are_encoded_once_and_only_if_needed() -> None:
    agent, notes = noting_agent(MPCConfig(history=2))
    agent.reset(seen(9), [5])
    for t in range(4):
        agent.act(seen(t))
    assert notes.encoded == [9, 0, 1, 2, 3]
    agent, notes = noting_agent(MPCConfig(history=1, execute=3))
    agent.reset(seen(9), [5])
    for t in range(4):
        agent.act(seen(t))
    assert notes.encoded == [9, 0, 3]


def test_a_factory_without_encode_gets_raw_observations() -> None:
    notes = Notes()
    agent = MPCAgent(notes, notes.__call__, WIDE, torch.zeros(1), torch.ones(1))
    agent.reset(seen(9), [5])
    agent.act(seen(7))
    assert notes.histories[0].observations.tolist() == [[[7]]] and notes.histories[0].goals.tolist() == [[9]]


def test_the_callers_buffers_may_be_overwritten() -> None:
    agent, notes = noting_agent(MPCConfig(history=2, execute=2))
    buffer, goal = np.array([[1]]), np.array([[9]])
    agent.reset(goal, [5])  # type: ignore[arg-type]
    goal[:] = 0
    for t in range(1, 4):
        buffer[:] = t
        agent.act(buffer)[:] = 77  # type: ignore[arg-type]
    assert notes.histories[1].observations.flatten().tolist() == [20, 30]
    assert notes.histories[1].past_actions.flatten().tolist() == [1]

    notes = Notes()  # and nothing is encoded, which would have made a copy
    agent = MPCAgent(notes, notes.__call__, WIDE, torch.zeros(1), torch.ones(1))
    goal[:] = 9
    agent.reset(goal, [5])  # type: ignore[arg-type]
    goal[:] = 0
    agent.act(buffer)  # type: ignore[arg-type]
    assert notes.histories[0].goals.tolist() == [[9]]


def test_reset_forgets_everything() -> None:
    agent, notes = noting_agent(MPCConfig(history=2, execute=3))
    agent.reset(seen(9), [5])
    agent.act(seen(1)), agent.act(seen(2))
    agent.reset(seen(8), [5])
    agent.act(seen(3))
    history = notes.histories[-1]
    assert len(notes.histories) == 2  # planned at once, although the old plan had a step left
    assert history.length.tolist() == [1] and history.observations.flatten().tolist() == [30, 30]
    assert history.past_actions.flatten().tolist() == [0] and history.goals.tolist() == [[80.0]]
    assert notes.starts[1] is not None and notes.starts[1].flatten().tolist() == [0.5] * 4
    assert notes.seeds[0] == notes.seeds[1]
    agent.reset(seen(7, 7, 7), [1, 2, 3])  # also to another number of environments
    assert agent.act(seen(0, 0, 0)).shape == (3, 1, 1)


def test_inactive_rows_are_neither_planned_nor_advanced() -> None:
    agent, notes = noting_agent(MPCConfig(history=3, execute=2))
    agent.reset(seen(7, 8, 9), [1, 2, 3])
    yes, no = True, False
    agent.act(seen(10, 20, 30), torch.tensor([yes, no, yes]))
    agent.act(seen(11, 21, 31), torch.tensor([yes, no, no]))
    actions = agent.act(seen(12, 22, 32), torch.tensor([no, yes, yes]))
    assert [h.rows.tolist() for h in notes.histories] == [[0, 2], [1]]
    assert notes.encoded == [7, 8, 9, 10, 30, 22]
    assert notes.histories[1].length.tolist() == [1]
    assert actions.flatten().tolist() == [
        0,
        100,
        1,
    ]  # idle; first step of a new plan; second of the first one
    agent.act(seen(13, 23, 33), torch.tensor([yes, yes, yes]))
    mixed = notes.histories[2]  # row 0 returns after a pause: its time did not pass
    assert mixed.rows.tolist() == [0, 2] and mixed.length.tolist() == [3, 3]
    assert mixed.observations.flatten().tolist() == [100, 110, 130, 300, 320, 330]
    assert agent.act(seen(0, 0, 0), torch.tensor([no, no, no])).shape == (3, 1, 1)
    assert len(notes.histories) == 3


def test_idle_actions_lie_inside_the_bounds() -> None:
    bounds = Bounds(torch.tensor([0.5]), torch.tensor([2.0]))
    agent = MPCAgent(Notes(), Notes(), bounds, torch.ones(1), torch.ones(1))
    agent.reset(seen(1), [0])
    assert agent.act(seen(0), torch.tensor([False])).item() == 0.5


def test_every_decision_has_its_own_seed() -> None:
    agent, notes = noting_agent(MPCConfig())
    agent.reset(seen(9, 9), [5, 6])
    for t in range(3):
        agent.act(seen(t, t))
    seeds = [seed for decision in notes.seeds for seed in decision]
    assert len(set(seeds)) == 6 and min(seeds) >= 0
    alone, other = noting_agent(MPCConfig())
    alone.reset(seen(9), [6])
    for t in range(3):
        alone.act(seen(t))
    assert [decision[0] for decision in other.seeds] == [decision[1] for decision in notes.seeds]
