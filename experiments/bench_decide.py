"""Seconds per decision at equal success: our search with its own model, beside a LeWM under torch-world's CEM.

Part of `worldmodel bench what=[decide]`. Both sides play the same held-out tasks from pixels, in turns, one task after
the other. Ours is what `worldmodel reproduce` plans with: the recipe of a world, and a model that it made. The other is
a model of `worldmodel train method=lewm`, whose predictor torch-world's CEM plans with, in a Python of its own and at
its published settings: from one frame, without bounds (what is carried out is clipped to them), and the whole plan is
carried out before the next is made. The times of both include encoding.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from envs.evaluate import Goals, Observation, Policy, TaskResult, evaluate
from envs.task import TaskSuite
from experiments import plan, reproduce
from experiments.settings import compose_settings
from worldmodel.models.dynamics import AdaLNDynamics
from worldmodel.models.world_model import WorldModel

PEERS = ("torch-world",)


@dataclass
class DecideBench:
    """Models, tasks, and the other library's search."""

    #: Recipe of configs/world: it names the suite, and the settings of worldmodel plan for our side.
    world: str = "two_room"
    #: Our side: a model directory that worldmodel reproduce made by this recipe.
    model: str = ""
    #: The other side: a model directory that worldmodel train method=lewm made.
    lewm: str = ""
    #: The first so many tasks of the suite.
    tasks: int = 20
    #: Of torch-world's CEM: candidates per round.
    samples: int = 300
    #: The best ones of them, to which it is refitted.
    elites: int = 30
    #: Rounds.
    iterations: int = 10
    #: Steps of a plan, each a block of actions.
    horizon: int = 5
    #: Steps of a plan that are carried out before it plans again.
    execute: int = 5

    def __post_init__(self) -> None:
        counts = (self.tasks, self.samples, self.elites, self.iterations, self.horizon, self.execute)
        if min(counts) < 1 or self.elites > self.samples or self.execute > self.horizon:
            raise ValueError(
                "decide: counts must be at least 1, elites at most samples, and execute at most horizon"
            )


def measure(bench: DecideBench, against: list[str], python: str) -> dict[str, float]:
    """Rows of goals reached and of times, of our side and of another library's.

    Args:
        bench: Models and sizes.
        against: Other libraries, of ``PEERS``.
        python: The Python that has them; empty: this one.

    Raises:
        ValueError: A model is missing or of another kind, or the library is missing.
    """
    if not bench.model or (against and not bench.lewm):
        raise ValueError(
            "what=[decide] needs decide.model=MODEL, which worldmodel reproduce makes, and with against=[torch-world] "
            "also decide.lewm=MODEL, which worldmodel train method=lewm makes"
        )
    suite, policy = _ours(bench)
    figures: dict[str, float] = {}
    with ExitStack() as stack:
        sides = {"ours": _Timed(policy)}
        if against:
            answer = stack.enter_context(peer(bench, suite.env_id, python))
            figures["decide: largest difference of predictions, torch-world"] = answer.apart
            sides["lewm, torch-world"] = _Timed(answer)
        played = play_in_turns(suite, sides)
    for name, results in played.items():
        steps = sum(result.steps for result in results)
        side = sides[name]
        reached = sum(result.success for result in results)
        figures[f"decide: goals reached of {len(suite)}, {name}"] = reached
        figures[f"decide: s per solve, {name}"] = side.clock / side.solves
        figures[f"decide: s per environment step, {name}"] = side.clock / steps
        figures[f"decide: processor s per environment step, {name}"] = side.processor / steps
    for unit in ("s", "processor s") if against else ():
        theirs, ours = (figures[f"decide: {unit} per environment step, {name}"] for name in reversed(played))
        figures[f"decide: {unit} per environment step, of ours"] = theirs / ours
    return figures


def play_in_turns(suite: TaskSuite, sides: dict[str, Any]) -> dict[str, list[TaskResult]]:
    """Results of each side, which play one task each after the other, so that both see the machine equally busy."""
    played: dict[str, list[TaskResult]] = {name: [] for name in sides}
    for task in tqdm(suite, desc="decide", unit="task", disable=None, leave=False):
        others = {other.id for other in suite} - {task.id}
        for name, side in sides.items():
            played[name] += evaluate(suite, side, 1, done=others)
    return played


def _ours(bench: DecideBench) -> tuple[TaskSuite, Policy]:
    """The tasks, and the agent that the recipe plans with."""
    world = compose_settings("reproduce", reproduce.Config, [f"world={bench.world}"]).to_object().world
    settings = [f"suite={world.suite}", f"tasks={bench.tasks}", f"model={bench.model}", *world.plan]
    config = compose_settings("plan", plan.Config, settings, schemas=plan.SCHEMAS).to_object()
    suite = plan.load_tasks(config)
    return suite, plan.load_policy(config, suite)("cpu")


class _Timed:
    """A policy, and what its decisions took in all: by the clock, and of the processor."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.privileged = policy, policy.privileged
        self.clock = self.processor = 0.0
        self.solves = 0

    def reset(self, goals: Goals, seeds: np.ndarray) -> None:
        self.policy.reset(goals, seeds)

    def act(self, observation: Observation, active: np.ndarray) -> np.ndarray:
        clock, processor = time.perf_counter(), time.process_time()
        actions = self.policy.act(observation, active)
        self.clock += time.perf_counter() - clock
        self.processor += time.process_time() - processor + getattr(self.policy, "elsewhere", 0.0)
        self.solves += 1
        return actions


class PeerPolicy:
    """Encodes one frame by a LeWM, and has another process plan with its predictor; for one environment.

    Attributes:
        apart: The largest difference of their predictions and ours, of the range of ours.
        elsewhere: Processor seconds of the latest plan in the other process.
    """

    privileged = False

    def __init__(self, process: "subprocess.Popen[str]", model: WorldModel, execute: int, who: str) -> None:
        self._process, self._model, self._who = process, model, who
        self._low, self._high = np.array([model.config.actions.low, model.config.actions.high], np.float32)
        self._steps = execute * model.config.actions.per_step
        self.elsewhere = 0.0
        self.apart = float(self._read()["apart"])

    def reset(self, goals: Goals, seeds: np.ndarray) -> None:
        self._goal, self._random = self._encode(goals.frames), np.random.default_rng(seeds[0])

    def act(self, observation: Observation, active: np.ndarray) -> np.ndarray:
        asked = {
            "now": self._encode(observation.frames),
            "goal": self._goal,
            "seed": int(self._random.integers(2**31)),
        }
        assert self._process.stdin is not None
        with suppress(OSError):  # if it has ended, what it said before is the error
            print(json.dumps(asked), file=self._process.stdin, flush=True)
        answer = self._read()
        self.elsewhere = answer["processor"]
        actions = np.array(answer["actions"], np.float32)[None, : self._steps]
        return np.clip(actions, self._low, self._high)

    def _encode(self, frames: np.ndarray) -> list[float]:
        latent: list[float] = self._model.encode(torch.from_numpy(frames)).flatten().tolist()
        return latent

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ValueError(f"{self._who} ended, see its last lines above; install torch-world and safetensors there, "
                             "or name another Python: peer_python=PATH")  # fmt: skip
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def peer(bench: DecideBench, env_id: str, python: str) -> Iterator[PeerPolicy]:
    """The other side, whose process lives as long as the context.

    Raises:
        ValueError: The model is no LeWM or of another environment, or the Python cannot be run or lacks the library.
    """
    model = WorldModel.load(bench.lewm)
    check_lewm(model, bench.lewm, env_id)
    python = python or sys.executable
    settings = {**asdict(bench), "threads": torch.get_num_threads()}
    command = [python, str(Path(__file__).with_name("bench_decide_peer.py")), json.dumps(settings)]
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    except OSError as error:
        raise ValueError(f"peer_python={python} cannot be run ({error.strerror})") from error
    try:
        yield PeerPolicy(process, model, bench.execute, f"torch-world's planner in {python}")
    finally:
        process.kill()
        process.communicate()


def check_lewm(model: WorldModel, path: str, env_id: str) -> None:
    """See that torch-world's LeWM is the same function as the model's predictor.

    Raises:
        ValueError: It is not, or the model was trained elsewhere.
    """
    if model.config.env_id != env_id:
        raise ValueError(
            f"decide.lewm={path} was trained in {model.config.env_id}, and the tasks are {env_id}'s"
        )
    dynamics, actions = model.dynamics, model.config.actions
    if not (
        isinstance(dynamics, AdaLNDynamics)
        and dynamics.tokens == model.config.window == 1
        and dynamics.width == dynamics.config.width
        and dynamics.config.positions == "learned"
        and dynamics.config.projection_norm == "batch"
        and dynamics.config.action_width in (0, actions.per_step * actions.dim)
    ):
        raise ValueError(
            f"decide.lewm={path} is no LeWM; train one with method=lewm, which sets head and dynamics, and "
            f"dynamics.action_width={actions.per_step * actions.dim} for these actions"
        )
