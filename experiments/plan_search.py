"""The pictures of ``worldmodel plan pictures=N``: what an agent searched and imagined, drawn after each episode."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from envs.evaluate import Policy, TaskResult, task_seed
from envs.seeding import keyed_rng
from envs.task import Task, TaskSuite
from envs.world import TaskWorld, channels_first, make_world
from experiments.watch_search import Searched, Watched, WatchedPolicy
from planners.mpc import MPCAgent
from worldmodel.atomic import write_bytes
from worldmodel.data.episodes import EpisodeStore
from worldmodel.models.decoder import PixelDecoder
from worldmodel.models.world_model import WorldModel
from worldmodel.report.search_pictures import PICTURES
from worldmodel.report.search_record import SearchRecord
from worldmodel.report.strips import spread
from worldmodel.report.theme import LIGHT

#: Decisions that are shown closely, iterations of each, and steps of its future.
_DECISIONS, _ROUNDS, _COLUMNS = 3, 4, 6
_POOL, _AT_ONCE = 512, 128
#: Latents ``(L, N, Z)`` to frames ``(L, C, H, W)``.
View = Callable[[Tensor], np.ndarray]


class SearchPictures:
    """Records an agent's searches in the first tasks of a suite, and draws them into ``search/`` of a directory.

    Args:
        suite: The tasks.
        count: How many of them, the first ones.
        seed: The evaluation's.
        model: What imagines, if it is a world model and not the simulator.
        view: How latents of the model are shown, and what to call that.
        side: Points along each side of a cost landscape.
    """

    def __init__(
        self,
        suite: TaskSuite,
        count: int,
        seed: int,
        model: WorldModel | None = None,
        view: tuple[View, str] | None = None,
        side: int = 25,
    ) -> None:
        self.suite, self.model, self.view, self.side = suite, model, view, side
        self._tasks = {task_seed(seed, task.id): task.id for task in suite.tasks[:count]}
        self.policy: WatchedPolicy | None = None

    def watch(self, policy: Policy) -> Policy:
        """The policy to play with.

        Raises:
            ValueError: It does not plan with an ``MPCAgent``.
        """
        agent = getattr(policy, "agent", None)
        if not isinstance(agent, MPCAgent):
            raise ValueError("pictures=N shows searches on one level only; leave it out for this agent")
        self.policy = WatchedPolicy(policy, agent, self._tasks)
        return self.policy

    def draw(self, result: TaskResult, path: Path) -> None:
        """Once a task has finished: write its pictures, if it was watched."""
        assert self.policy is not None
        watched = self.policy.found.pop(result.id, None)
        if watched is None or not watched.decisions:
            return
        path.mkdir(exist_ok=True)
        record = self._record(watched, result)
        for name, picture, _ in PICTURES:
            write_bytes(path / f"{result.id:04d}_{name}.png", picture(record, LIGHT))
        record.save(path / f"{result.id:04d}.npz")

    def _record(self, watched: Watched, result: TaskResult) -> SearchRecord:
        assert self.policy is not None and result.frames is not None and result.goal_frame is not None
        agent, decisions = self.policy.agent, watched.decisions
        block = agent.planner.action_block
        shown = sorted({i * len(decisions) // _DECISIONS for i in range(_DECISIONS)})
        close = [decisions[i] for i in shown]
        picked = [spread(len(one.first), min(_ROUNDS, len(one.first))) for one in close]
        columns = np.unique(np.linspace(0, agent.planner.horizon, _COLUMNS + 1).round().astype(int))
        planned = self._planned(self.suite[result.id], watched.executed, close)[:, columns]
        steps = block * (np.array([one.step for one in close])[:, None] + columns)
        surfaces = [cost_around(agent, one, self.side) for one in close]
        view = self.view
        return SearchRecord(
            step=block * np.array([one.step for one in decisions]),
            best=_stack([one.best for one in decisions]),
            mean=_stack([one.mean for one in decisions]),
            cost=np.array([one.cost for one in decisions]),
            shown=np.array(shown),
            rounds=_stack([np.array(rounds, dtype=float) + 1 for rounds in picked]),
            first=_stack([np.stack([one.first[i] for i in p]) for one, p in zip(close, picked, strict=True)]),
            first_cost=_stack([np.stack([one.first_cost[i] for i in p]) for one, p in zip(close, picked, strict=True)]),
            spread=_stack([np.stack([one.spread[i] for i in p]) for one, p in zip(close, picked, strict=True)]),
            chosen=np.stack([one.plan[0].mean(dim=0).numpy() for one in close]),
            low=agent.bounds.low.cpu().numpy(),
            high=agent.bounds.high.cpu().numpy(),
            dims=surfaces[0][0],
            axes=np.stack([axes for _, axes, _ in surfaces]),
            landscape=np.stack([costs for _, _, costs in surfaces]),
            columns=columns,
            imagined=planned[:0] if view is None else np.stack([view[0](self._imagine(one)[columns]) for one in close]),
            planned=planned,
            came=result.frames[np.minimum(steps, len(result.frames) - 1)],
            came_there=steps < len(result.frames),
            goal=result.goal_frame,
            viewer=np.array("" if view is None else view[1]),
        )  # fmt: skip

    @torch.no_grad()
    def _imagine(self, one: Searched) -> Tensor:
        """Latents ``(L + 1, N, Z)`` of the plan as the model imagined it, the present one first."""
        assert self.model is not None
        real = int(one.history.length[0])
        context = one.history.observations[:, -real:]
        past = one.history.past_actions[:, one.history.past_actions.shape[1] - (real - 1) :]
        plans = one.plan[None, None].to(context.device)
        imagined = self.model.rollout(context, past.to(context.device), plans)[0, 0]
        return torch.cat([context[0, -1:], imagined]).cpu()

    def _planned(self, task: Task, executed: Sequence[np.ndarray], close: Sequence[Searched]) -> np.ndarray:
        """Frames ``(D, L + 1, C, H, W)`` of the plans, executed to their ends in the world."""
        world = make_world(self.suite.env_id)
        plans = {one.step: one.plan.numpy() for one in close}
        films = []
        try:
            world.reset(options={"state": task.start, "goal": task.goal})
            for step, block in enumerate(executed):
                if step in plans:
                    state = world.get_state()
                    films.append(_film(world, plans[step]))
                    world.set_state(state)
                for action in block:
                    world.step(action)
        finally:
            world.close()
        return np.stack(films)


def _film(world: TaskWorld, plan: np.ndarray) -> np.ndarray:
    """Frames ``(L + 1, C, H, W)`` of a plan ``(L, K, A)``, the present one first."""
    frames = [world.render_state(world.get_state())]
    for block in plan:
        for action in block:
            observation = world.step(action)[0]
        frames.append(observation.copy())
    return channels_first(np.stack(frames))


@torch.no_grad()
def cost_around(agent: MPCAgent, one: Searched, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The cost of a plan with its first step's actions all replaced by another one, over a grid.

    Returns:
        The dimensions replaced, ``(2,)`` or ``(1,)``, the first that are free; their values ``(2 or 1, G)``, over the
        bounds, or three initial standard deviations around the chosen action where there are none; and costs
        ``(G, G)`` or ``(1, G)``. The other dimensions stay as they are.
    """
    low, high = agent.bounds.low.cpu(), agent.bounds.high.cpu()
    chosen, reach = one.plan[0].mean(dim=0), 3 * agent.init_std.cpu()
    low = torch.where(low.isfinite(), low, torch.minimum(chosen - reach, high))
    high = torch.where(high.isfinite(), high, torch.maximum(chosen + reach, low))
    dims = ((high > low).nonzero()[:, 0] if (high > low).any() else torch.zeros(1, dtype=torch.int64))[:2]
    axes = torch.stack([torch.linspace(float(low[d]), float(high[d]), side) for d in dims.tolist()])
    grid = (
        torch.cartesian_prod(*axes.flip(0)).reshape(-1, len(dims)).flip(1)
    )  # the first dimension varies fastest
    plans = one.plan.repeat(len(grid), 1, 1, 1)
    plans[:, 0][..., dims] = grid[:, None]
    cost = agent.make_cost(one.history)
    parts = [cost(part[None].to(agent.bounds.device))[0].float().cpu() for part in plans.split(_AT_ONCE)]
    return dims.numpy(), axes.numpy(), torch.cat(parts).reshape(-1, side).numpy()


def viewer(path: Path, model: WorldModel, env_id: str, data: str, device: str) -> tuple[View, str]:
    """How to show a model's latents: by its pixel decoder, else by the nearest among real frames, and its name.

    Args:
        path: The model's directory, in which ``worldmodel evaluate`` leaves a decoder.
        model: The model.
        env_id: The world, whose states are drawn where there is no data.
        data: Episodes; empty: none.
        device: Where the model computes.

    Raises:
        FileNotFoundError: There are no such episodes.
        ValueError: Decoder or episodes are damaged, or the decoder is another model's.
    """
    if (path / "decoder/config.json").is_file() and not data:
        decoder = PixelDecoder.load(path / "decoder", path)
        return (lambda latents: decoder.frames(latents).numpy()), "by the model's pixel decoder"
    if data:
        store = EpisodeStore(data)
        some = spread(len(store), min(len(store), 32))
        frames = np.concatenate([store[i]["frames"][:] for i in some])
        frames, said = (
            frames[spread(len(frames), min(len(frames), 2 * _POOL))],
            f"frames of {Path(data).name}",
        )
    else:
        frames, said = world_frames(env_id), "pictures of the world's random tasks"
    latents = encode(model, frames, device).flatten(1)

    def nearest(wanted: Tensor) -> np.ndarray:
        found: np.ndarray = frames[torch.cdist(wanted.flatten(1), latents).argmin(dim=1).numpy()]
        return found

    return nearest, f"by the nearest of {len(frames)} {said}"


def world_frames(env_id: str) -> np.ndarray:
    """Pictures ``(512, C, H, W)`` of starts and goals that no task of a suite has but by chance."""
    world, rng = make_world(env_id), keyed_rng("pictures", 0)
    try:
        world.reset(seed=0)
        states: Iterable[np.ndarray] = [s for _ in range(_POOL // 2) for s in world.sample_task(rng)[:2]]
        return channels_first(np.stack([world.render_state(state) for state in states]))
    finally:
        world.close()


def encode(model: WorldModel, frames: np.ndarray, device: str) -> Tensor:
    """Latents of frames on the CPU."""
    parts = torch.from_numpy(frames).split(_AT_ONCE)
    return torch.cat([model.encode(part.to(device)).cpu() for part in parts])


def _stack(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Stack arrays of the same rank, filled up with NaN to the size of the largest."""
    shape = np.max([array.shape for array in arrays], axis=0)
    out = np.full((len(arrays), *shape), np.nan)
    for place, array in zip(out, arrays, strict=True):
        place[tuple(slice(size) for size in array.shape)] = array
    return out
