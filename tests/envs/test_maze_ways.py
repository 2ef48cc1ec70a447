from __future__ import annotations

import heapq

import numpy as np
import pytest

from envs.maze_ways import MazeWays

U = [[1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [1, 1, 1, 0, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]]
# A loop, a block that stands alone, two blocks that touch at a corner, a dead end; wider than high.
TANGLE = [
    [1, 1, 1, 1, 1, 1, 1, 1, 1],
    [1, 0, 0, 0, 1, 0, 0, 0, 1],
    [1, 0, 1, 0, 1, 0, 1, 0, 1],
    [1, 0, 0, 0, 0, 1, 0, 0, 1],
    [1, 1, 0, 1, 0, 0, 0, 1, 1],
    [1, 0, 0, 1, 0, 1, 0, 0, 1],
    [1, 1, 1, 1, 1, 1, 1, 1, 1],
]


def ways(maze: list[list[int]], clearance: float = 0.1) -> MazeWays:
    return MazeWays(np.array(maze) == 1, clearance)


def points(maze: MazeWays, count: int, seed: int = 0) -> np.ndarray:
    """Random points that keep the clearance."""
    rng = np.random.default_rng(seed)
    centers = maze.centers()
    drawn = centers[rng.integers(len(centers), size=8 * count)] + rng.uniform(-0.5, 0.5, (8 * count, 2))
    return drawn[(maze.cleared(drawn) == drawn).all(axis=1)][:count]


def blocked(maze: MazeWays, a: np.ndarray, b: np.ndarray, count: int = 40) -> np.ndarray:
    """Whether lines (n, 2) to (n, 2) hit a wall grown by the clearance, by looking at `count` points of each."""
    rows, columns = maze.walls.shape
    line = a[:, None] + (b - a)[:, None] * np.linspace(0, 1, count)[:, None]
    hit = np.zeros(line.shape[:2], dtype=bool)
    reach = maze.clearance - 1e-6
    for row, column in np.argwhere(maze.walls):
        x, y = column + 0.5 - columns / 2, rows / 2 - 0.5 - row
        hit |= (np.abs(line[..., 0] - x) < 0.5 + reach) & (np.abs(line[..., 1] - y) < 0.5 + reach)
    return hit.any(axis=1)


def dijkstra(maze: MazeWays, nodes: np.ndarray, source: int, reach: float) -> np.ndarray:
    """Lengths of the shortest ways from one node over lines no longer than `reach`; never less than the true ones."""
    apart = np.hypot(*np.moveaxis(nodes[:, None] - nodes[None], -1, 0))
    a, b = np.nonzero((apart > 0) & (apart <= reach))
    free = ~blocked(maze, nodes[a], nodes[b])
    neighbours: list[list[int]] = [[] for _ in nodes]
    for i, j in zip(a[free], b[free], strict=True):
        neighbours[i].append(int(j))
    length = np.full(len(nodes), np.inf)
    length[source] = 0
    queue = [(0.0, source)]
    while queue:
        so_far, i = heapq.heappop(queue)
        if so_far > length[i]:
            continue
        for j in neighbours[i]:
            if so_far + apart[i, j] < length[j]:
                length[j] = so_far + apart[i, j]
                heapq.heappush(queue, (float(length[j]), j))
    return length


def test_the_way_round_a_wall_bends_at_its_corners() -> None:
    maze = ways(U)
    start, goal = np.array([-1.2, 1.1]), np.array([-0.9, -1.3])
    upper, lower = np.array([0.6, 0.6]), np.array([0.6, -0.6])
    expected = np.hypot(*(start - upper)) + 1.2 + np.hypot(*(goal - lower))
    assert maze.lengths(start, goal) == pytest.approx(expected, abs=1e-12)
    np.testing.assert_allclose(maze.next_bend(start, goal), upper)
    np.testing.assert_allclose(maze.next_bend(goal, start), lower)
    np.testing.assert_array_equal(maze.next_bend(upper + 0.01, np.array([1.3, -1.3])), [1.3, -1.3])
    assert maze.lengths(start, [1.3, 1.3]) == pytest.approx(np.hypot(2.5, 0.2), abs=1e-12)


@pytest.mark.parametrize("maze", [U, TANGLE], ids=["u", "tangle"])
def test_lengths_agree_with_a_search_over_a_fine_grid(maze: list[list[int]]) -> None:
    way = ways(maze, 0.2)
    spots = np.arange(-0.3, 0.31, 0.15)
    local = np.stack(np.meshgrid(spots, spots), axis=-1).reshape(-1, 2)
    # Points between cells as well, so that the grid hangs together.
    offsets = np.concatenate([local, [[0.5, y] for y in spots], [[x, 0.5] for x in spots]])
    nodes = (way.centers()[:, None] + offsets).reshape(-1, 2)
    nodes = nodes[np.abs(way.cleared(nodes) - nodes).max(axis=1) < 1e-9]
    for source in (0, len(nodes) // 2):
        searched = dijkstra(way, nodes, source, reach=0.7)
        exact = way.lengths(nodes[source], nodes)
        assert np.isfinite(searched).all()
        assert (exact <= searched + 1e-9).all()
        assert (exact >= 0.97 * searched - 1e-9).all()


@pytest.mark.parametrize("maze", [U, TANGLE], ids=["u", "tangle"])
def test_lengths_are_a_metric_and_at_least_euclidean(maze: list[list[int]]) -> None:
    way = ways(maze)
    some = points(way, 60)
    length = way.lengths(some[:, None], some[None])
    np.testing.assert_allclose(length, length.T, atol=1e-12)
    assert (np.diag(length) == 0).all()
    assert (length >= np.hypot(*np.moveaxis(some[:, None] - some[None], -1, 0))).all()
    assert (length[:, None] <= length[:, :, None] + length[None] + 1e-9).all()


def test_the_next_bend_is_on_the_shortest_way() -> None:
    way = ways(TANGLE)
    some = points(way, 40, seed=1)
    for start, goal in zip(some[:20], some[20:], strict=True):
        bend = way.next_bend(start, goal)
        assert not blocked(way, start[None], bend[None], 300)[0]
        total = np.hypot(*(bend - start)) + way.lengths(bend, goal)
        assert total == pytest.approx(way.lengths(start, goal), abs=1e-9)


def test_points_in_walls_count_as_beside_them() -> None:
    way = ways(U)
    np.testing.assert_allclose(way.cleared([-1.0, 0.58]), [-1.0, 0.6])  # the ball is pressed into the wall
    np.testing.assert_allclose(way.cleared([1.48, 0.0]), [1.4, 0.0])
    np.testing.assert_allclose(way.cleared([0.58, 0.55]), [0.6, 0.55])  # at a corner, out by the nearer side
    np.testing.assert_allclose(way.cleared([0.55, 0.58]), [0.55, 0.6])
    np.testing.assert_allclose(way.cleared([-1.0, 0.3]), [-1.0, 0.6])  # in the wall: the nearest free cell
    np.testing.assert_allclose(way.cleared([9.0, 9.0]), [1.4, 1.4])
    assert way.lengths([-1.0, 0.58], [-1.0, -0.58]) == pytest.approx(1.6 + 1.2 + 1.6)
    inside = points(way, 50)
    np.testing.assert_array_equal(way.cleared(inside), inside)


def test_lengths_broadcast() -> None:
    way = ways(TANGLE)
    some = points(way, 12).reshape(3, 4, 2)
    many = way.lengths(some[:, None], some[None])
    assert many.shape == (3, 3, 4)
    assert many[1, 2, 3] == way.lengths(some[1, 3], some[2, 3])
    assert way.lengths(some[0, 0], some).shape == (3, 4)


def test_a_turned_maze_has_the_same_ways() -> None:
    """Walls are joined to blocks along the rows or along the columns, whichever are fewer."""
    upright, turned = ways(TANGLE), ways(np.rot90(TANGLE).tolist())
    some = points(upright, 30)
    rotated = np.stack([-some[:, 1], some[:, 0]], axis=-1)  # by 90 degrees, as rot90 does
    np.testing.assert_allclose(
        upright.lengths(some[:, None], some), turned.lengths(rotated[:, None], rotated), atol=1e-9
    )
