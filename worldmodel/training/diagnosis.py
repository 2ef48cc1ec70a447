"""Reading the monitors of a run: what looks wrong, and what to try.

Thresholds come from small runs that were made to collapse (gradients through the targets, much too high learning
rates, targets that never move) and from healthy ones; ``tests/worldmodel/training/test_diagnosis.py`` makes them again.
Most compare with the run's own beginning, since what is normal depends on the data: clips of little variety have a low
rank in any representation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

#: Monitored rows before anything is said: at the beginning, spread and rank fall in healthy runs too.
SETTLED = 4
#: Monitored rows, the first one not counted, over which what may be normal for a while must not get better.
PATIENCE = 5

_Config = Mapping[str, Any] | None


def diagnose(history: Sequence[Mapping[str, Any]], config: _Config = None) -> list[str]:
    """Warnings about a run, one sentence or two each; empty where nothing is wrong, or too little is known yet.

    Args:
        history: Rows of ``metrics.jsonl`` from the run's beginning, in order. Rows without monitors are used too.
        config: The run's, so that only settings which its objective has are advised; without it, all are.
    """
    return list(_findings(history, config).values())


class Watch:
    """Reads a run's rows as they come and says what is new, so that nothing is said at every step.

    Args:
        history: Rows that a resumed run finds; what they gave cause to say was said then.
        config: See :func:`diagnose`.
    """

    def __init__(self, history: Sequence[Mapping[str, Any]] = (), config: _Config = None) -> None:
        self._history, self._config = list(history), config
        self._said = set(_findings(self._history, config))

    def see(self, row: Mapping[str, Any]) -> list[str]:
        """The next row; returns the warnings that did not hold before it."""
        self._history.append(row)
        if "token_std" not in row and "latent_rank" not in row:
            return []
        found = _findings(self._history, self._config)
        new = [text for name, text in found.items() if name not in self._said]
        self._said = set(found)
        return new


def _findings(history: Sequence[Mapping[str, Any]], config: _Config) -> dict[str, str]:
    """Warnings by name, at the last row with monitors."""
    if any("latent_rank" in row for row in history):
        return _world_model_findings([row for row in history if "latent_rank" in row])
    monitored = [row for row in history if "token_std" in row]
    if len(monitored) < SETTLED:
        return {}
    first, before, last = monitored[0], monitored[-2], monitored[-1]
    found = {
        "finite": _not_finite(last),
        "spread": _spread(first, last, config),
        "rank": _rank(first, last, config),
        "clips": _clips(first, last, config),
        "baseline": _baseline(monitored, config),
        "gap": _gap(monitored),
        "idle": _idle_encoder(before, last),
        "jump": _jump(history),
    }
    return {name: f"step {last['step']}: {text}" for name, text in found.items() if text}


def _world_model_findings(monitored: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Warnings about a world model's training, at its last row with monitors."""
    if len(monitored) < SETTLED:
        return {}
    found = {"finite": _not_finite(monitored[-1]), "order": _order(monitored)}
    return {name: f"step {monitored[-1]['step']}: {text}" for name, text in found.items() if text}


def _order(rows: Sequence[Mapping[str, Any]]) -> str:
    """Runs that plan well rose from 0.70 to 0.89 (true distance); with SIGReg 1.0 it fell to 0.74 of the first."""
    for name, what in (
        ("plannability_true", "true distance"),
        ("plannability_steps", "steps between moments"),
    ):
        if name in rows[0] and name in rows[-2] and name in rows[-1]:
            first = rows[0][name]
            if not (first > 0.2 and max(rows[-2][name], rows[-1][name]) < 0.8 * first):
                return ""
            return (
                f"latent distance orders moments less well than before training: its rank correlation with the {what} "
                f"fell from {first:.2f} to {rows[-1][name]:.2f} ({name}). Try a lower objective.sigreg, or "
                "objective.inverse_dynamics=1"
            )
    return ""


def _not_finite(last: Mapping[str, Any]) -> str:
    names = [name for name, value in last.items() if isinstance(value, float) and not math.isfinite(value)]
    return f"not finite: {', '.join(names)}. Try loop.precision=fp32, then a lower loop.lr" if names else ""


def _has(config: _Config, setting: str) -> bool:
    return config is None or setting in config.get("objective", {})


def _calm(config: _Config) -> str:
    average = " or a higher objective.ema_start" if _has(config, "ema_start") else ""
    return f"Try a lower loop.lr, a longer loop.warmup{average}"


def _spread(first: Mapping[str, Any], last: Mapping[str, Any], config: _Config) -> str:
    """Healthy runs kept 0.37 of the first spread, or 0.20 with centred targets, which let positions go; others 0.17."""
    if not last["token_std"] < 0.18 * first["token_std"]:
        return ""
    norm = "; with objective.target_norm=none, use layer or centred" if _has(config, "target_norm") else ""
    return (
        f"features are collapsing: token_std fell from {first['token_std']:.2g} to {last['token_std']:.2g}. "
        f"{_calm(config)}{norm}"
    )


def _rank(first: Mapping[str, Any], last: Mapping[str, Any], config: _Config) -> str:
    """Healthy runs kept at least 0.38 of the first rank, runs with much too high rates below 0.2."""
    if not last["token_rank"] < 0.2 * first["token_rank"]:
        return ""
    hide = ", or hide more (mask ratio)" if config is None or config.get("mask") else ""
    return (
        f"features use few directions: token_rank fell from {first['token_rank']:.3g} to {last['token_rank']:.2g}. "
        f"{_calm(config)}{hide}"
    )


def _clips(first: Mapping[str, Any], last: Mapping[str, Any], config: _Config) -> str:
    """Features that tell positions only have a clip_rank of 1; healthy runs kept 0.7 of the first."""
    if not last["clip_rank"] < max(1.2, 0.3 * first["clip_rank"]) or first["clip_rank"] < 1.5:
        return ""
    centred = "objective.target_norm=centred, or " if _has(config, "target_norm") else ""
    return (
        f"features tell positions, but hardly one clip from another: clip_rank fell from {first['clip_rank']:.3g} to "
        f"{last['clip_rank']:.2g}. Try {centred}a lower loop.lr; see that the clips differ"
    )


def _baseline(rows: Sequence[Mapping[str, Any]], config: _Config) -> str:
    """Healthy runs begin above the baselines and end below; a bad sign is to come no nearer in five rows."""
    loss = rows[-1]["loss"]
    if rows[-1].get("lr", 0.0) > rows[-2].get("lr", 0.0):
        return ""  # warming up
    if _stuck_above(rows, "predict_mean_loss"):
        return (
            f"predictions are no better than the mean target: loss {loss:.3g}, always saying the mean gives "
            f"{rows[-1]['predict_mean_loss']:.3g}. Try another loop.lr (lower if token_std falls), hide less (mask "
            "ratio), or train longer"
        )
    if _stuck_above(rows, "position_mean_loss"):
        centred = "objective.target_norm=centred, or " if _has(config, "target_norm") else ""
        return (
            f"predictions are no better than each position's mean: loss {loss:.3g}, saying the mean of other clips "
            f"there gives {rows[-1]['position_mean_loss']:.3g}. Where little moves before a fixed camera, this can be "
            f"so for long. Try {centred}clips that differ more (frames further apart)"
        )
    return ""


def _stuck_above(rows: Sequence[Mapping[str, Any]], baseline: str) -> bool:
    if len(rows) <= PATIENCE or baseline not in rows[-1]:
        return False
    before, *_, previous, now = (row["loss"] / max(row.get(baseline, 0.0), 1e-30) for row in rows[-PATIENCE:])
    return min(previous, now) > max(0.97, 0.9 * before)


def _gap(rows: Sequence[Mapping[str, Any]]) -> str:
    """Above 1 for a while in healthy runs, 0.2 late; 1.2 to 1.3 to the end with a target that never moved."""
    gaps = [row.get("ema_output_gap", 0.0) for row in rows[-PATIENCE:]]
    if len(rows) <= PATIENCE or not (min(gaps) > 1.0 and gaps[-1] > 0.9 * gaps[0]):
        return ""
    return (
        f"the target encoder does not follow: its outputs differ from the student's by {gaps[-1]:.2g} of their spread "
        "(ema_output_gap). Try a lower objective.ema_start, or a lower loop.lr"
    )


def _idle_encoder(before: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    """Its share of the gradient is 0.001 and more in healthy runs, once settled; 1e-5 in collapsed ones."""
    for row in (before, last):
        total = math.hypot(*(v for name, v in row.items() if name.startswith("grad_norm_")), 0.0)
        if not 0 <= row.get("grad_norm_encoder", math.inf) < 1e-4 * total:
            return ""
    return (
        f"hardly any gradient reaches the encoder (grad_norm_encoder {last['grad_norm_encoder']:.2g}): the predictor "
        "does without it. Try a lower loop.lr, a narrower predictor, or a higher mask ratio"
    )


def _jump(history: Sequence[Mapping[str, Any]]) -> str:
    """A gradient far above what it has been, in the last two rows; the first tenth of a run has large ones always."""
    norms = [row["grad_norm"] for row in history if "grad_norm" in row]
    settled = norms[len(norms) // 10 + 1 :]
    if len(settled) < 10:
        return ""
    usual = sorted(settled[:-2])[(len(settled) - 2) // 2]
    if not min(settled[-2:]) > 10 * usual > 0:
        return ""
    return (
        f"gradients jumped: grad_norm {settled[-1]:.3g}, usually {usual:.2g}. Try a lower loop.lr or a lower "
        "loop.clip_norm, and look at the samples of these steps"
    )
