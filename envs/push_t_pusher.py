"""A hand-written pusher for PushT: it certifies tasks and makes goal-directed data. It neither learns nor simulates.

Contacts have no friction and the table takes all speed at once, so a push at one place of the outline, along the
normal there, turns and moves the block by the same twist in the block's own frame for as long as it lasts: the
impulse divided by mass and inertia. So where a push of s px leads to is known in closed form.

From every state anew, the pusher picks among pushes at 46 places, each followed by a second one or not, the plan with
the least way for the agent and the least error in the end; walks round the block to the first place; and pushes. As a
plan that is under way only gets shorter, it is picked again at the next step. When the block lies well, the agent goes
to its own place.
"""

from __future__ import annotations

import numpy as np

from envs.push_t_geometry import (
    AGENT_RADIUS,
    CENTER,
    GYRATION,
    INNER_WALL,
    OUTLINE,
    SIDE,
    blocked,
    out_of,
    rotate,
    to_block,
    to_world,
)

_BEFORE = 8.0  # px between agent and block before a push
_CLEAR = 6.0  # and on the way round its corners
_SLACK = 1.0  # least px of a way that counts as free
_STRIDE = 30.0  # px that the agent aims ahead
_LENGTHS = np.array([2.0, 4.0, 7.0, 11.0, 16.0, 23.0, 32.0, 44.0, 60.0, 80.0, 105.0, 135.0])  # px of a push
_BEAM = 2  # lengths of each first push that a second one is tried after
_SECOND = slice(0, None, 3), slice(0, None, 2)  # which places and lengths are tried then
_PUSH_COST = 40.0  # px of way that a push is worth avoiding
_ERROR_COST = 10.0  # px of way that a px of error is worth
_UNDONE_COST = 300.0  # and that an end out of tolerance is worth
_IDLE_COST = (
    2000.0  # for plans that leave over half of the error, in proportion; else doing nothing might be cheapest
)
# The agent is held by a spring and a damper. From these two gains on offset and velocity, it is in two steps where
# it shall be, and at rest (deadbeat control of ten steps of 0.01 s with stiffness 100 and damping 20).
_GAINS = 2.44141641, 0.07258891
_REACH = 100.0


class Pusher:
    """Chooses one action from a state and a goal of `envs.push_t.PushT`, and remembers nothing.

    Args:
        tolerance: the block lies well when its centre's distance in px and its angle in rad times the radius of
            gyration, together, are no more than this.
        place_agent: whether the agent goes to its own place then, or stays.
    """

    def __init__(self, tolerance: float = 7.0, place_agent: bool = True) -> None:
        self.tolerance, self.place_agent = tolerance, place_agent
        points, normals = _places()
        self._touch = points - AGENT_RADIUS * normals
        self._before = self._touch - _BEFORE * normals
        self._normals = normals
        lever = points - CENTER
        turn = lever[:, 0] * normals[:, 1] - lever[:, 1] * normals[:, 0]
        effort = 1.0 + np.square(turn / GYRATION)
        # What each push does per px, in the block's frame: velocity (n, 2) of the centre and turn (n,).
        self._move, self._turn = normals / effort[:, None], turn / GYRATION**2 / effort
        # And after each length l: shift (n, l, 2) and turn (n, l).
        self._shift, self._angle = _screw(self._move[:, None], self._turn[:, None], _LENGTHS)
        grow = AGENT_RADIUS + _CLEAR
        outer = OUTLINE[[0, 1, 2, 4, 5, 7]]  # without the two corners that point inwards
        self._corners = outer + grow * np.array([(-1, -1), (1, -1), (1, 1), (1, 1), (-1, 1), (-1, 1)])
        self._ways = _lengths(self._corners[:, None], self._corners)  # (6, 6)
        self._last_legs = _lengths(self._corners[:, None], self._before)  # (6, n)
        between = _shortest(self._ways)
        direct = _lengths(self._before[:, None], self._before)
        around = (self._last_legs.T[:, :, None] + between).min(axis=1)  # (n, 6)
        self._between = np.minimum(direct, (around[:, :, None] + self._last_legs).min(axis=1))  # (n, n)

    def action(self, state: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """One action (2,) float32 for a state (10,) and a goal (10,)."""
        agent, velocity, place, angle = state[:2], state[2:4], state[4:6], float(state[6])
        local = to_block(agent, place, angle)
        error, turn = _error(state, goal)
        if np.hypot(np.hypot(*error), GYRATION * turn) <= self.tolerance:
            if not self.place_agent:
                return _towards(agent, velocity, agent)
            # The place may be too near the block as it lies now.
            wanted = out_of(to_block(goal[:2], place, angle), AGENT_RADIUS + _SLACK)
            ways, next_points = self._routes(local, wanted[None], self._usable(self._corners, place, angle))
            target = next_points[0] if np.isfinite(ways[0]) else wanted
            return _towards(agent, velocity, to_world(target, place, angle))
        target = self._push(local, place, angle, error, turn)
        return _towards(agent, velocity, target)

    def _push(
        self, local: np.ndarray, place: np.ndarray, angle: float, error: np.ndarray, turn: float
    ) -> np.ndarray:
        """Where on the table the agent should go, (2,), to push the block."""
        usable = self._usable(self._before, place, angle, 0.0)
        ways, next_points = self._routes(local, self._before, self._usable(self._corners, place, angle))
        ways = ways + _BEFORE
        # In front of a place already: no way round.
        offset = local - self._touch
        gap = -(offset * self._normals).sum(axis=-1)
        aside = np.abs(offset[:, 0] * self._normals[:, 1] - offset[:, 1] * self._normals[:, 0])
        ready = (aside < 5.0) & (gap > -5.0) & (gap < _BEFORE + 4.0)
        ways = np.where(ready, np.abs(gap) + aside, ways)
        ways = np.where(usable | ready, ways, np.inf)
        choice, length = self._choose(ways, place, angle, error, turn)
        if not ready[choice]:
            return to_world(next_points[choice], place, angle)
        ahead = min(_STRIDE, gap[choice] + length)
        pushed = max(ahead - gap[choice], 0.0)
        shift, spin = _screw(self._move[choice], self._turn[choice], np.array(pushed))
        touch = self._touch[choice] - max(gap[choice] - ahead, 0.0) * self._normals[choice]
        moved = CENTER + shift + rotate(touch - CENTER, spin)
        return to_world(moved, place, angle)

    def _choose(
        self, ways: np.ndarray, place: np.ndarray, angle: float, error: np.ndarray, turn: float
    ) -> tuple[int, float]:
        """Number and length in px of the best first push, given the ways (n,) to each."""
        count = len(ways)
        # A push's best length, if no other follows, besides the fixed ones.
        best = self._best_lengths(error, turn)
        shift, spin = _screw(self._move, self._turn, best)
        lengths = np.concatenate([np.broadcast_to(_LENGTHS, (count, len(_LENGTHS))), best[:, None]], axis=1)
        shifts = np.concatenate([self._shift, shift[:, None]], axis=1)
        spins = np.concatenate([self._angle, spin[:, None]], axis=1)
        errors, turns = rotate(error - shifts, -spins), turn - spins
        cost = ways[:, None] + lengths + _PUSH_COST + _into_walls(shifts, spins, place, angle)
        now = float(np.hypot(np.hypot(*error), GYRATION * turn))
        alone = cost + self._left(errors, turns, now)
        i = np.repeat(np.arange(count), _BEAM)
        k = np.argpartition(alone, _BEAM, axis=1)[:, :_BEAM].ravel()
        hopeful = (cost[i, k] + _PUSH_COST < alone.min()) | (alone[i, k] == alone.min())
        i, k = i[hopeful], k[hopeful]
        rest = errors[i, k][:, None, None] - self._shift[_SECOND]
        left = self._left(rest, turns[i, k][:, None, None] - self._angle[_SECOND], now)  # (beam, n', l')
        second = (left + _LENGTHS[_SECOND[1]]).min(axis=-1)
        both = cost[i, k] + (second + self._between[i][:, _SECOND[0]] + _PUSH_COST).min(axis=-1)
        row = int(np.argmin(np.minimum(both, alone[i, k])))
        return int(i[row]), float(lengths[i[row], k[row]])

    def _left(self, errors: np.ndarray, turns: np.ndarray, now: float) -> np.ndarray:
        """What errors (..., 2) and (...) at the end of a plan cost, given the size of the error now."""
        x, y, turned = errors[..., 0], errors[..., 1], GYRATION * turns
        size = np.sqrt(x * x + y * y + turned * turned)
        cost: np.ndarray = _ERROR_COST * np.maximum(size - 0.5 * self.tolerance, 0.0)
        cost += _UNDONE_COST * (size > 0.9 * self.tolerance)
        return cost + _IDLE_COST * np.maximum(size / now - 0.5, 0.0)

    def _best_lengths(self, error: np.ndarray, turn: float) -> np.ndarray:
        """The length (n,) of each push after which the error is least: Gauss-Newton steps along its screw."""
        lengths = np.zeros(len(self._turn))
        for _ in range(3):
            shifts, spins = _screw(self._move, self._turn, lengths)
            errors, turns = rotate(error - shifts, -spins), turn - spins
            along = (errors * self._move).sum(axis=-1) + GYRATION**2 * turns * self._turn
            size = np.square(self._move).sum(axis=-1) + np.square(GYRATION * self._turn)
            lengths = np.clip(lengths + along / size, 2.0, 200.0)
        return lengths

    def _routes(
        self, local: np.ndarray, ends: np.ndarray, usable: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Length (n,) of the shortest ways from `local` to `ends` (n, 2), and the next point (n, 2) on each."""
        start = out_of(local, AGENT_RADIUS + _SLACK)
        detour = float(np.hypot(*(start - local)))
        direct = _lengths(start, ends)
        first = np.where(usable, _lengths(start, self._corners), np.inf)
        between = _shortest(np.where(usable[:, None] & usable, self._ways, np.inf))
        legs = self._last_legs if ends is self._before else _lengths(self._corners[:, None], ends)
        around = first[:, None] + (between[:, :, None] + legs).min(axis=1)  # (6, n), by the first corner
        corner = around.argmin(axis=0)
        ways = np.minimum(direct, around.min(axis=0))
        next_points = np.where((direct <= ways)[:, None], ends, self._corners[corner])
        return detour + ways, next_points

    def _usable(self, points: np.ndarray, place: np.ndarray, angle: float, margin: float = 2.0) -> np.ndarray:
        """Whether points (n, 2) of the block's frame are on the table."""
        world = to_world(points, place, angle)
        return np.all((world >= margin) & (world <= SIDE - margin), axis=-1)


def _places() -> tuple[np.ndarray, np.ndarray]:
    """Places (46, 2) on the block's outline where the agent fits, and the normals (46, 2) into the block."""
    edges = (  # from, to, number, normal
        ((-57, 0), (57, 0), 13, (0, 1)),
        ((-60, 4), (-60, 26), 3, (1, 0)),
        ((60, 4), (60, 26), 3, (-1, 0)),
        ((-57, 30), (-35, 30), 4, (0, -1)),
        ((35, 30), (57, 30), 4, (0, -1)),
        ((-15, 50), (-15, 117), 8, (1, 0)),
        ((15, 50), (15, 117), 8, (-1, 0)),
        ((-12, 120), (12, 120), 3, (0, -1)),
    )
    points = [np.linspace(a, b, count) for a, b, count, _ in edges]
    normals = [np.tile(np.array(normal, dtype=float), (count, 1)) for _, _, count, normal in edges]
    return np.concatenate(points), np.concatenate(normals)


def _screw(move: np.ndarray, turn: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shift (..., 2) of the centre and turn (...) after pushes of `length` (...) px with this twist per px."""
    angle = turn * length
    half = 0.5 * angle
    # The chord of an arc: shorter than the arc, and half the angle further on.
    chord = length * np.sinc(half / np.pi)
    return chord[..., None] * rotate(np.broadcast_to(move, (*angle.shape, 2)), half), angle


def _error(state: np.ndarray, goal: np.ndarray) -> tuple[np.ndarray, float]:
    """Way (2,) of the block's centre to the goal's, in the block's frame, and the angle left, in [-pi, pi)."""
    centers = [to_world(CENTER, s[4:6], s[6]) for s in (state, goal)]
    turn = (float(goal[6] - state[6]) + np.pi) % (2 * np.pi) - np.pi
    return rotate(centers[1] - centers[0], -float(state[6])), turn


def _into_walls(shifts: np.ndarray, spins: np.ndarray, place: np.ndarray, angle: float) -> np.ndarray:
    """A cost (n, l) for pushes that would lead the block into a wall."""
    outer = OUTLINE[[0, 1, 2, 4, 5, 7]] - CENTER
    corners = CENTER + shifts[..., None, :] + rotate(outer, spins[..., None])
    world = to_world(corners, place, angle)
    over = np.maximum(INNER_WALL[0] + 1.0 - world, world - (INNER_WALL[1] - 1.0)).max(axis=(-1, -2))
    return 10.0 * np.maximum(over, 0.0)


def _lengths(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Length (...) of straight ways in the block's frame, infinite where the block is in the way."""
    length = np.sqrt(np.square(ends - starts).sum(axis=-1))
    return np.where(blocked(starts, ends, AGENT_RADIUS + 0.5 * _SLACK), np.inf, length)


def _shortest(ways: np.ndarray) -> np.ndarray:
    """Shortest ways (n, n) over any number of legs (Floyd and Warshall)."""
    ways = ways.copy()
    np.fill_diagonal(ways, 0.0)
    for k in range(len(ways)):
        ways = np.minimum(ways, ways[:, k, None] + ways[k])
    return ways


def _towards(agent: np.ndarray, velocity: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The action (2,) float32 that brings the agent at most a stride towards a target on the table."""
    way = target - agent
    way = way * min(1.0, _STRIDE / max(float(np.hypot(*way)), 1e-9))
    action = (_GAINS[0] * way - _GAINS[1] * velocity) / _REACH
    return (action / max(1.0, float(np.abs(action).max()))).astype(np.float32)
