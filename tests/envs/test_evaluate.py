from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from envs.evaluate import (
    HOLD,
    Goals,
    NoOp,
    Observation,
    RandomPolicy,
    Replay,
    Scripted,
    evaluate,
    longest_run,
)
from envs.task import TaskSuite

TWO_ROOM = "worldmodel/TwoRoom-v0"


class NoisyScripted:
    """Finds the goal on a detour that depends on the seed, so that tasks end at different times."""

    privileged = True

    def __init__(self) -> None:
        self.scripted = Scripted(TWO_ROOM)

    def reset(self, goals: Goals, seeds: np.ndarray) -> None:
        self.scripted.reset(goals, seeds)
        self.rngs = [np.random.default_rng(seed) for seed in seeds]

    def act(self, observation: Observation, active: np.ndarray) -> np.ndarray:
        actions = self.scripted.act(observation, active)
        for row in np.flatnonzero(active):
            actions[row] += 1.5 * self.rngs[row].standard_normal(2)
        return np.clip(actions, -1, 1)


class Recorder:
    """Does nothing but keep what it was shown."""

    def __init__(self, privileged: bool) -> None:
        self.privileged = privileged
        self.goals: list[Goals] = []
        self.seeds: list[np.ndarray] = []
        self.seen: list[Observation] = []

    def reset(self, goals: Goals, seeds: np.ndarray) -> None:
        self.goals.append(goals)
        self.seeds.append(seeds)

    def act(self, observation: Observation, active: np.ndarray) -> np.ndarray:
        self.seen.append(observation)
        return np.zeros((len(active), 1, 2), np.float32)


class Constant:
    privileged = False

    def __init__(self, actions: np.ndarray) -> None:
        self.actions = actions

    def reset(self, goals: Goals, seeds: np.ndarray) -> None:
        pass

    def act(self, observation: Observation, active: np.ndarray) -> np.ndarray:
        return self.actions


def outcomes(results) -> list[tuple]:
    return [(r.id, r.label, r.success, r.steps, r.start_distance, r.final_distance) for r in results]


def first(suite: TaskSuite, count: int) -> TaskSuite:
    return dataclasses.replace(suite, tasks=suite.tasks[:count])


@pytest.mark.parametrize("make", [NoisyScripted, lambda: RandomPolicy(TWO_ROOM)])
def test_outcomes_do_not_depend_on_how_many_are_played_at_once(suite, make):
    few = first(suite, 10)
    alone = evaluate(few, make(), 1, record=range(10))
    assert [r.id for r in alone] == list(range(10))
    for num_envs in (3, 10, 64):
        together = evaluate(few, make(), num_envs, record=range(10))
        assert outcomes(together) == outcomes(alone)
        for a, b in zip(alone, together, strict=True):
            assert np.array_equal(a.frames, b.frames)
    # Any task alone, too: each depends on its id, not on its place.
    skipped = evaluate(few, make(), 2, done=[0, 1, 2, 5, 8])
    assert outcomes(skipped) == [outcomes(alone)[i] for i in (3, 4, 6, 7, 9)]


def test_the_noisy_policy_makes_the_test_above_worth_something(suite):
    results = evaluate(suite, NoisyScripted(), 20)
    assert len({r.steps for r in results}) > 5
    assert outcomes(results) != outcomes(evaluate(suite, NoisyScripted(), 20, seed=1))


def test_scripted_solves_and_nothing_does_not(suite):
    scripted = evaluate(suite, Scripted(TWO_ROOM), 7)
    assert all(r.success and r.final_distance <= 0.1 for r in scripted)
    idle = evaluate(suite, NoOp(TWO_ROOM), 7)
    assert not any(r.success for r in idle)
    assert all(r.steps == suite.horizon and r.final_distance == r.start_distance for r in idle)
    random = evaluate(suite, RandomPolicy(TWO_ROOM), 7)
    assert sum(r.success for r in random) <= 2


def test_unprivileged_policies_see_no_state(suite):
    blind, sighted = Recorder(privileged=False), Recorder(privileged=True)
    evaluate(first(suite, 3), blind, 2)
    evaluate(first(suite, 3), sighted, 2)
    assert all(goals.states is None for goals in blind.goals)
    assert all(seen.states is None for seen in blind.seen)
    assert np.array_equal(sighted.goals[0].states, np.stack([task.goal for task in suite.tasks[:2]]))
    assert np.array_equal(sighted.seen[0].states, np.stack([task.start for task in suite.tasks[:2]]))


def test_policies_see_pictures_with_channels_first(suite, world):
    recorder = Recorder(privileged=False)
    evaluate(first(suite, 2), recorder, 2)
    seen, goals = recorder.seen[0].frames, recorder.goals[0].frames
    assert seen.shape == goals.shape == (2, 3, 64, 64) and seen.dtype == goals.dtype == np.uint8
    assert np.array_equal(np.moveaxis(seen[1], 0, -1), world.render_state(suite[1].start))
    assert np.array_equal(np.moveaxis(goals[1], 0, -1), world.render_state(suite[1].goal))


def test_seeds_are_per_task(suite):
    one, many = Recorder(False), Recorder(False)
    evaluate(first(suite, 4), one, 1)
    evaluate(first(suite, 4), many, 4)
    assert np.array_equal(np.concatenate(one.seeds), many.seeds[0]) and many.seeds[0].dtype == np.int64
    assert len(set(many.seeds[0].tolist())) == 4


def test_finished_tasks_freeze_and_their_actions_are_ignored(suite):
    class Reckless(NoisyScripted):
        """Returns nonsense for rows that are done."""

        def act(self, observation: Observation, active: np.ndarray) -> np.ndarray:
            if hasattr(self, "last"):
                frozen = ~active & ~self.last_active
                assert np.array_equal(observation.frames[frozen], self.last[frozen])
            self.last, self.last_active = observation.frames, active
            actions = super().act(observation, active)
            actions[~active] = np.nan
            return actions

    assert outcomes(evaluate(suite, Reckless(), 10)) == outcomes(evaluate(suite, NoisyScripted(), 1))


def test_a_block_of_actions_is_executed_in_order_and_stops_at_success(suite):
    task = suite[0]

    class Replay(Constant):
        pass

    padding = np.ones((60 - len(task.solution), 2), np.float32)
    result = evaluate(first(suite, 1), Replay(np.concatenate([task.solution, padding])[None]), 1, record=[0])[
        0
    ]
    assert result.success and result.steps == len(task.solution)
    assert result.frames.shape == (result.steps + 1, 3, 64, 64)


def test_pictures_are_kept_where_asked_for(suite, world):
    results = evaluate(first(suite, 3), NoisyScripted(), 3, record=[1])
    assert results[0].frames is None and results[0].goal_frame is None
    film = results[1].frames
    assert film.shape == (results[1].steps + 1, 3, 64, 64) and film.dtype == np.uint8
    assert np.array_equal(np.moveaxis(film[0], 0, -1), world.render_state(suite[1].start))
    assert np.array_equal(np.moveaxis(results[1].goal_frame, 0, -1), world.render_state(suite[1].goal))
    assert not np.array_equal(film[-1], film[-2])


def test_results_are_told_after_each_group_and_fit_json(suite):
    told: list[int] = []
    returned = evaluate(first(suite, 5), NoOp(TWO_ROOM), 2, on_result=lambda r: told.append(r.id), record=[0])
    assert told == [r.id for r in returned] == [0, 1, 2, 3, 4]
    content = json.loads(json.dumps(returned[0].to_json()))
    assert content["id"] == 0 and content["success"] is False and content["label"] == suite[0].label
    assert content["seconds_per_decision"] > 0
    assert "frames" not in content and "goal_frame" not in content


def test_an_interrupted_evaluation_can_go_on(suite):
    class Interrupt(Exception):
        pass

    kept = []

    def on_result(result):
        kept.append(result)
        if len(kept) == 4:
            raise Interrupt

    few = first(suite, 8)
    with pytest.raises(Interrupt):
        evaluate(few, RandomPolicy(TWO_ROOM), 2, on_result)
    rest = evaluate(few, RandomPolicy(TWO_ROOM), 3, done={r.id for r in kept})
    assert outcomes(kept + rest) == outcomes(evaluate(few, RandomPolicy(TWO_ROOM), 8))


def test_nothing_left_to_do(suite):
    assert evaluate(suite, NoOp(TWO_ROOM), 4, done=range(20)) == []


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.zeros((1, 2), np.float32), r"shape \(1, 2\)"),
        (np.zeros((1, 0, 2), np.float32), r"shape \(1, 0, 2\)"),
        (np.zeros((1, 1, 3), np.float32), "A=2"),
        (np.full((1, 1, 2), np.nan, np.float32), "not finite"),
        (np.full((1, 1, 2), 1.01, np.float32), "outside the bounds"),
    ],
)
def test_wrong_actions_are_named(suite, actions, message):
    with pytest.raises(ValueError, match=rf"Constant\.act.*{message}"):
        evaluate(first(suite, 1), Constant(actions), 1)


def test_bad_requests_are_named(suite):
    with pytest.raises(ValueError, match="num_envs"):
        evaluate(suite, NoOp(TWO_ROOM), 0)
    with pytest.raises(ValueError, match="TwoRoom-v0"):
        NoOp("worldmodel/Nowhere-v0")


def test_the_recorded_solutions_reach_every_goal_in_as_many_steps(suite):
    results = evaluate(suite, Replay(suite), 7)
    assert [r.steps for r in results] == [len(task.solution) for task in suite]
    assert all(r.success and r.final_success and r.held is None for r in results)
    # Also alone, and where the first tasks are left out: solutions belong to ids, not to places.
    assert outcomes(evaluate(suite, Replay(suite), 1, done=range(15))) == outcomes(results)[15:]


class ToTheGoalAndOn:
    """Reaches a goal by the scripted policy, stays for some steps, then leaves it."""

    privileged = True

    def __init__(self, stay: int) -> None:
        self.stay, self.scripted = stay, Scripted(TWO_ROOM)

    def reset(self, goals: Goals, seeds: np.ndarray) -> None:
        self.scripted.reset(goals, seeds)
        self.goals, self.left = goals.states, np.full(len(seeds), self.stay)

    def act(self, observation: Observation, active: np.ndarray) -> np.ndarray:
        actions = self.scripted.act(observation, active)
        gap = observation.states[:, 1:3] - self.goals[:, 1:3]
        self.left -= np.hypot(*gap.T) <= 0.1
        for row in np.flatnonzero(self.left < 0):
            actions[row] = -np.sign(
                observation.states[row, 1:3]
            )  # to the middle of the floor, and through it
        return actions


def test_success_ever_at_the_end_and_held_are_told_apart(suite):
    few = first(suite, 6)
    stays = evaluate(few, Scripted(TWO_ROOM), 3, after_success="continue", record=[0])
    assert all(r.success and r.final_success and r.held for r in stays)
    assert len(stays[0].frames) == few.horizon + 1 and stays[0].steps == len(few[0].solution)
    frozen = evaluate(few, Scripted(TWO_ROOM), 3)
    assert [r.steps for r in stays] == [r.steps for r in frozen]  # until the first success, in either case
    assert [r.efficiency for r in stays] == [r.efficiency for r in frozen]
    leaves = evaluate(few, ToTheGoalAndOn(stay=2), 6, after_success="continue")
    assert all(r.success and not r.held for r in leaves) and not any(r.final_success for r in leaves[:2])
    assert all(r.final_success for r in evaluate(few, ToTheGoalAndOn(stay=2), 6))
    with pytest.raises(ValueError, match="after_success='stop'"):
        evaluate(few, Scripted(TWO_ROOM), 3, after_success="stop")


def test_ten_steps_in_a_row_are_held():
    assert longest_run([]) == 0 and longest_run([False]) == 0
    nine = [True] * (HOLD - 1)
    assert longest_run([*nine, False, *nine]) == HOLD - 1 and longest_run([False, *nine, True]) == HOLD


def test_straight_ways_are_efficient_and_detours_are_not(suite):
    few = first(suite, 10)
    straight, noisy = evaluate(few, Scripted(TWO_ROOM), 10), evaluate(few, NoisyScripted(), 10)
    assert all(0.75 < r.efficiency <= 1.0 for r in straight)
    solved = [(a, b) for a, b in zip(straight, noisy, strict=True) if b.success]
    assert len(solved) >= 5 and all(b.efficiency < a.efficiency for a, b in solved)
    assert all(b.travelled > a.travelled for a, b in solved)
    idle = evaluate(few, NoOp(TWO_ROOM), 10)
    assert all(r.efficiency is None and r.travelled == 0.0 for r in idle)
