from __future__ import annotations

import pytest

from envs.task import TaskSuite, make_suite
from envs.two_room import TwoRoom
from envs.world import make_world

TWO_ROOM = "worldmodel/TwoRoom-v0"


@pytest.fixture
def world() -> TwoRoom:
    made = make_world(TWO_ROOM)
    assert isinstance(made, TwoRoom)
    return made


@pytest.fixture(scope="session")
def suite() -> TaskSuite:
    return make_suite(TWO_ROOM, count=20, seed=0)
