"""Gaps of joint positions: units, wrapping, orientations."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from envs.joint_gaps import ANGLE, LENGTH, JointGaps

XML = """
<mujoco><statistic extent="2"/><compiler angle="radian"/><worldbody>
  <body name="cart"><joint name="x" type="slide"/><geom size="0.1"/>
    <body><joint name="turns" type="hinge"/><geom size="0.1"/>
      <body><joint name="stops" type="hinge" limited="true" range="-4 4"/><geom size="0.1"/></body>
    </body>
  </body>
  <body><joint type="ball"/><geom size="0.1"/></body>
  <body><freejoint/><geom size="0.1"/></body>
</worldbody></mujoco>
"""
SPEC = int(mujoco.mjtState.mjSTATE_INTEGRATION)


@pytest.fixture(scope="module")
def model() -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_string(XML)


def state(model: mujoco.MjModel, **places: float | list[float]) -> np.ndarray:
    """The state with some joints elsewhere: x, turns, stops, ball, free."""
    data = mujoco.MjData(model)
    slices = {"x": 0, "turns": 1, "stops": 2, "ball": slice(3, 7), "free": slice(7, 14)}
    for name, value in places.items():
        data.qpos[slices[name]] = value
    found = np.empty(mujoco.mj_stateSize(model, SPEC))
    mujoco.mj_getState(model, data, found, SPEC)
    return found


def turned(angle: float) -> list[float]:
    """The orientation turned by an angle about (1, 2, 2) / 3, as a quaternion."""
    axis = np.sin(angle / 2) * np.array([1.0, 2.0, 2.0]) / 3
    return [float(np.cos(angle / 2)), *axis.tolist()]


def test_each_joint_counts_in_its_tolerance(model: mujoco.MjModel) -> None:
    gaps, rest = JointGaps(model), state(model)
    assert gaps(rest, rest).shape == (1 + 1 + 1 + 3 + 2,)
    assert not gaps(rest, rest).any()
    for place, size in [
        ({"x": 0.3}, 0.3 / (LENGTH * 2)),
        ({"turns": -0.3}, 0.3 / ANGLE),
        ({"stops": 0.3}, 0.3 / ANGLE),
        ({"ball": turned(0.3)}, 0.3 / ANGLE),
        ({"free": [0.0, 0.3, 0.0, 1.0, 0.0, 0.0, 0.0]}, 0.3 / (LENGTH * 2)),
        ({"free": [0.0, 0.0, 0.0, *turned(0.3)]}, 0.3 / ANGLE),
    ]:
        gap = np.abs(gaps(state(model, **place), rest))
        assert gap.max() == pytest.approx(size, rel=1e-9), place
        assert (gap > 1e-9).sum() == 1


def test_only_a_hinge_without_limits_goes_the_shorter_way(model: mujoco.MjModel) -> None:
    gaps, rest = JointGaps(model), state(model)
    assert np.abs(gaps(state(model, turns=2 * np.pi + 0.1), rest)).max() == pytest.approx(0.1 / ANGLE)
    assert np.abs(gaps(state(model, turns=3.0), state(model, turns=-3.0))).max() * ANGLE < 0.3
    assert np.abs(gaps(state(model, stops=3.0), state(model, stops=-3.0))).max() == pytest.approx(6 / ANGLE)


def test_both_quaternions_of_an_orientation_are_the_same(model: mujoco.MjModel) -> None:
    gaps = JointGaps(model)
    one, other = state(model, ball=turned(1.0)), state(model, ball=[-q for q in turned(1.0)])
    assert np.abs(gaps(one, other)).max() == pytest.approx(0, abs=1e-9)
    opposite = gaps(state(model, ball=turned(np.pi)), state(model))
    assert np.abs(opposite).max() == pytest.approx(np.pi / ANGLE)


def test_many_at_once_are_as_one_by_one(model: mujoco.MjModel) -> None:
    gaps, rng = JointGaps(model, 2.0), np.random.default_rng(0)
    states = np.stack(
        [state(model, x=rng.normal(), turns=rng.normal(), ball=turned(rng.normal())) for _ in "abc"]
    )
    table = gaps(states[:, None], states[None])
    assert table.shape == (3, 3, 8)
    np.testing.assert_array_equal(table[1, 2], gaps(states[1], states[2]))
    np.testing.assert_allclose(table, JointGaps(model)(states[:, None], states[None]) / 2)


def test_what_is_refused(model: mujoco.MjModel) -> None:
    with pytest.raises(ValueError, match="positive factor"):
        JointGaps(model, 0.0)
    with pytest.raises(ValueError, match="no joints"):
        JointGaps(mujoco.MjModel.from_xml_string("<mujoco/>"))
