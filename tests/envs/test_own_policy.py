from __future__ import annotations

import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

from envs.collect import collect
from envs.own_policy import PolicyError, code_hash
from envs.policies import ExploringPolicy, make_policy
from envs.seeding import keyed_rng

TWO_ROOM = "worldmodel/TwoRoom-v0"
PICTURE = np.zeros((64, 64, 3), np.uint8)
SPACE = gym.spaces.Box(np.float32([-1.0, 0.0]), np.float32([1.0, 0.5]))

POLICIES = """
import numpy as np

class Zigzag:
    def __init__(self, low, high, period=4):
        self.low, self.high, self.period = low, high, int(period)

    def reset(self, rng):
        self.count = int(rng.integers(100))

    def act(self, observation):
        self.count += 1
        return self.high if self.count // self.period % 2 else self.low

class Blocks:
    def __init__(self, low, block):
        self.low, self.block = low, block

    def reset(self, rng):
        self.rng = rng

    def act(self, observation):
        return np.full((self.block, self.low.size), self.rng.uniform(0, 0.4))

class OneArray:
    def __init__(self, low):
        self.actions = np.zeros_like(low)

    def reset(self, rng):
        self.actions[:] = 0

    def act(self, observation):
        self.actions += 0.01
        return self.actions

class Looks:
    def __init__(self, world):
        self.world = world

    def reset(self, rng):
        pass

    def act(self, observation):
        return np.clip(-self.world.get_state()[1:3], -1, 1)

class Wild(Blocks):
    def act(self, observation):
        return np.full((self.block, self.low.size), 2.0)

class Wide(Blocks):
    def act(self, observation):
        return np.zeros((self.block, 7))

class Uneven(Blocks):
    def act(self, observation):
        self.turn = getattr(self, "turn", 0) + 1
        return np.zeros((1 if self.turn == 1 else self.block, self.low.size))

class NotANumber(Blocks):
    def act(self, observation):
        return self.low * np.nan

class Needs(Blocks):
    def __init__(self, speed):
        pass

class Lacks:
    def reset(self, rng):
        pass

class Breaks(Blocks):
    def act(self, observation):
        return {}["no such key"]
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "wandering.py").write_text(POLICIES)
    (tmp_path / "broken_import.py").write_text("import a_library_that_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)  # processes that are started inherit it
    for name in ("wandering", "broken_import"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return "wandering"


def make(name: str, block: int = 1, **options: float) -> ExploringPolicy:
    return make_policy(name, SPACE, block, options, own_code=True)


def test_a_class_on_the_python_path_is_used(module: str):
    policy = make(f"{module}:Zigzag", period=1)
    policy.reset(keyed_rng("test", 0))
    actions = np.concatenate([policy.act(PICTURE) for _ in range(4)])
    assert actions.shape == (4, 2) and actions.dtype == np.float32
    assert {tuple(action) for action in actions} == {(-1.0, 0.0), (1.0, 0.5)}


def test_collection_asks_until_a_step_has_its_actions(module: str):
    options = {"period": 2}
    ((_, episode),) = collect(TWO_ROOM, 1, 4, f"{module}:Zigzag", block=3, policy_options=options)
    assert episode["actions"].shape == (4, 3, 2)
    changes = (np.diff(episode["actions"].reshape(12, 2)[:, 0]) != 0).sum()
    assert changes in (5, 6)  # every second environment step
    ((_, episode),) = collect(TWO_ROOM, 1, 4, f"{module}:Blocks", block=3)
    assert (episode["actions"] == episode["actions"][:, :1]).all()


def test_a_policy_may_use_one_array_for_all_its_actions(module: str):
    """All recorded actions were the last one."""
    ((_, episode),) = collect(TWO_ROOM, 1, 5, f"{module}:OneArray")
    assert episode["actions"][:, 0, 0] == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.05])


def test_any_number_of_workers_makes_the_same_data(module: str):
    """A policy may look at the world that it acts in, in its process."""

    def actions(workers: int) -> list[bytes]:
        episodes = collect(TWO_ROOM, 6, 5, f"{module}:Looks", workers=workers)
        return [episode["actions"].tobytes() for _, episode in episodes]

    assert len(set(actions(0))) == 6 and actions(0) == actions(2)


def test_code_is_only_imported_where_that_was_allowed(module: str):
    with pytest.raises(ValueError, match="unknown exploring policy 'wandering:Zigzag'; the choices are held"):
        make_policy(f"{module}:Zigzag", SPACE)
    assert module not in sys.modules


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("nowhere:Zigzag", {}, "no module 'nowhere'.*folder of nowhere.py with PYTHONPATH=."),
        ("wandering.deeper:Zigzag", {}, "no module 'wandering.deeper'"),
        (":Zigzag", {}, "no module ''"),
        ("broken_import:Zigzag", {}, "imports a_library_that_nobody_has, which is not installed"),
        ("wandering:Zigzg", {}, "wandering.py has no class 'Zigzg'; it has Zigzag, Blocks"),
        ("wandering:np", {}, "has no class 'np'"),
        ("wandering:Lacks", {}, "Lacks in .*wandering.py has no act; an exploring policy has reset"),
        ("wandering:Zigzag", {"perod": 2}, "no option perod; its options are period .in .*wandering.py"),
        ("wandering:Zigzag", {"low": 2}, "no option low"),
        (
            "wandering:Needs",
            {},
            r"needs speed: \+policy_options.speed=..., or give it a default in .*wandering.py",
        ),
    ],
)
def test_what_is_wrong_is_said_with_the_file(module: str, name: str, options: dict[str, float], said: str):
    with pytest.raises(PolicyError, match=said):
        make(name, **options)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Wild", r"\[\[2.0, 2.0\]\], which is not inside the bounds .* clip it in .*wandering.py"),
        ("NotANumber", "not inside the bounds"),
        ("Wide", r"shape \(1, 7\); needed is \(1, 2\) or \(2,\), see .*wandering.py"),
    ],
)
def test_actions_are_checked(module: str, name: str, said: str):
    policy = make(f"{module}:{name}")
    policy.reset(keyed_rng("test", 0))
    with pytest.raises(PolicyError, match=said):
        policy.act(PICTURE)


def test_no_step_gets_more_actions_than_it_has(module: str):
    policy = make(f"{module}:Uneven", block=3)
    policy.reset(keyed_rng("test", 0))
    policy.act(PICTURE)
    with pytest.raises(PolicyError, match=r"shape \(3, 2\); needed is \(2, 2\)"):
        policy.act(PICTURE)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_contract_is_one_line_from_a_process_too(module: str, workers: int):
    with pytest.raises(PolicyError, match="not inside the bounds"):
        list(collect(TWO_ROOM, 2, 3, f"{module}:Wild", workers=workers))


def test_an_error_in_the_users_code_keeps_its_traceback(module: str):
    with pytest.raises(RuntimeError, match=r"(?s)wandering.py.*KeyError: 'no such key'"):
        list(collect(TWO_ROOM, 2, 3, f"{module}:Breaks", workers=1))


def test_the_code_has_a_name(module: str, tmp_path: Path):
    before = code_hash(f"{module}:Zigzag")
    assert len(before) == 16 and before == code_hash(f"{module}:Blocks") and code_hash("smooth_random") == ""
    (tmp_path / "wandering.py").write_text(POLICIES + "\n")
    assert code_hash(f"{module}:Zigzag") != before
