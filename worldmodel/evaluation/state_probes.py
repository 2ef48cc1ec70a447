"""How much of the true state can be read from a latent: by a linear map, and by a small MLP."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldmodel.evaluation.linear_maps import fit_linear_map
from worldmodel.evaluation.scores import regression
from worldmodel.evaluation.trajectories import Trajectory, flat
from worldmodel.seeding import KeyedOrder

#: How often in its training an MLP probe is looked at.
MOMENTS = 20


@dataclass
class MLPProbeConfig:
    """The MLP probe, and what is tried for it on the training episodes that are set apart."""

    #: Features of its one hidden layer.
    hidden: int = 256
    #: Learning rates of AdamW that are tried.
    lrs: list[float] = field(default_factory=lambda: [0.003, 0.0005])
    #: Weight decays that are tried.
    weight_decays: list[float] = field(default_factory=lambda: [0.0, 0.1])
    #: Training steps; the best of 20 moments, on the rows set apart, is taken.
    steps: int = 1500
    #: Rows per step.
    batch_size: int = 256


@dataclass(frozen=True)
class Targets:
    """What is read: functions of the true state.

    Attributes:
        names: One for each.
        of: States ``(n, S)`` to ``(n, P)``.
        units: One for each; may be empty.
    """

    names: Sequence[str]
    of: Callable[[np.ndarray], np.ndarray]
    units: Sequence[str] = ()


def varying_targets(episodes: Sequence[Trajectory], names: Sequence[str] = ()) -> Targets:
    """All dimensions of the state that are not the same everywhere; for worlds that say no more about their states.

    Raises:
        ValueError: The episodes have no states, or none that changes.
    """
    states = stacked_states(episodes)
    varying = np.flatnonzero(states.std(axis=0) > 1e-9 * np.maximum(1.0, np.abs(states).max(axis=0))).tolist()
    if not len(varying):
        raise ValueError("no dimension of the states ever changes; there is nothing to probe")
    called = [names[i] if i < len(names) else f"state {i}" for i in varying]
    return Targets(called, lambda states: states[:, varying])


def stacked_states(episodes: Sequence[Trajectory]) -> np.ndarray:
    """States of all steps ``(n, S)``.

    Raises:
        ValueError: An episode has none.
    """
    states = [episode.states for episode in episodes if episode.states is not None]
    if len(states) < len(episodes) or not states:
        raise ValueError("the data have no states (an array that collection stores), which probes need")
    return np.concatenate(states)


def probe_states(
    held_out: Sequence[Trajectory],
    train: Sequence[Trajectory],
    targets: Targets,
    config: MLPProbeConfig,
    seed: int = 0,
    select_share: float = 0.25,
    kinds: Sequence[str] = ("linear", "mlp"),
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Fit probes to training episodes and score them on held-out ones.

    The penalty of the linear map, and learning rate, decay and length of the MLP's training, are chosen on the last
    ``select_share`` of the training episodes. The held-out ones are looked at once.

    Args:
        held_out, train: Episodes with states.
        targets: What is read.
        config: The MLP probe.
        seed: Of its weights and order.
        select_share: Share of the training episodes to choose on.
        kinds: Some of ``linear`` and ``mlp``.

    Returns:
        By kind: ``r2_mean`` (over targets), ``chosen``, and by target ``r2`` with its ``interval`` (bootstrap over
        episodes), ``pearson`` and ``rmse`` in the target's own unit. And answers ``(n, P)`` by kind, with ``truth``.

    Raises:
        ValueError: The episodes have no states, or a target is not finite.
    """
    x, test_x = (flat(torch.cat([e.latents for e in part])) for part in (train, held_out))
    y, test_y = (targets.of(stacked_states(part)) for part in (train, held_out))
    if not (np.isfinite(y).all() and np.isfinite(test_y).all()):
        raise ValueError(
            f"a state is not finite ({', '.join(targets.names)}); were the data collected whole?"
        )
    lengths = [len(e.latents) for e in train]
    apart = len(train) - max(1, round(select_share * len(train)))
    select = torch.from_numpy(np.repeat(np.arange(len(train)) >= apart, lengths)) & (len(train) > 1)
    groups = np.repeat(np.arange(len(held_out)), [len(e.latents) for e in held_out])
    centre, spread = y.mean(axis=0), np.maximum(y.std(axis=0), 1e-12)
    wanted = torch.from_numpy((y - centre) / spread).float()
    answers = {"truth": test_y}
    results: dict[str, Any] = {}
    for kind in kinds:
        if kind == "linear":
            linear = fit_linear_map(x, wanted, select)
            found, chosen = linear(test_x), {"penalty": linear.penalty}
        else:
            found, chosen = _mlp_answers(x, wanted, select, test_x, config, seed)
        answers[kind] = found.double().numpy() * spread + centre
        scores = {
            name: regression(test_y[:, i], answers[kind][:, i], groups)
            for i, name in enumerate(targets.names)
        }
        mean = float(np.mean([score["r2"] for score in scores.values()]))
        results[kind] = {"r2_mean": mean, "chosen": chosen, "targets": scores}
    return results, answers


def _mlp_answers(
    x: Tensor, y: Tensor, select: Tensor, test: Tensor, config: MLPProbeConfig, seed: int
) -> tuple[Tensor, dict[str, float]]:
    """Answers ``(n, P)`` of the candidate, at the epoch, that is best on the rows set apart."""
    mean, scale = x.mean(dim=0), x.std(dim=0).clamp_min(1e-6)
    x, test = (x - mean) / scale, (test - mean) / scale
    best, answer, chosen = float("inf"), torch.zeros(len(test), y.shape[1]), {}
    for lr, decay in itertools.product(config.lrs, config.weight_decays):
        for step, probe in _train(x[~select], y[~select], lr, decay, config, seed):
            with torch.inference_mode():
                error = float(F.mse_loss(probe(x[select]), y[select])) if bool(select.any()) else -float(step)
                if error < best:
                    best, answer = error, probe(test).clone()
                    chosen = {"lr": lr, "weight_decay": decay, "steps": step}
    return answer, chosen


def _train(
    x: Tensor, y: Tensor, lr: float, decay: float, config: MLPProbeConfig, seed: int
) -> Iterator[tuple[int, nn.Module]]:
    """Yields ``(steps done, probe)`` at 20 moments of the training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        probe = nn.Sequential(
            nn.Linear(x.shape[1], config.hidden), nn.GELU(), nn.Linear(config.hidden, y.shape[1])
        )
    optimizer = torch.optim.AdamW(probe.parameters(), lr=lr, weight_decay=decay)
    order = KeyedOrder(len(x), seed)
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 - step / config.steps)
        rows = [order[i] for i in range(step * config.batch_size, (step + 1) * config.batch_size)]
        optimizer.zero_grad()
        F.mse_loss(probe(x[rows]), y[rows]).backward()
        optimizer.step()
        if (step + 1) % max(1, config.steps // MOMENTS) == 0 or step + 1 == config.steps:
            yield step + 1, probe
