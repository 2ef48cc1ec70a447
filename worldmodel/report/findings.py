"""Plain sentences computed from the numbers."""

from __future__ import annotations

from math import comb
from typing import Any

from worldmodel.report.artefacts import paired

Results = dict[str, Any]


def overlap(a: Results, b: Results) -> bool:
    """Whether the 95% intervals of two success rates overlap."""
    return bool(a["interval"][0] <= b["interval"][1] and b["interval"][0] <= a["interval"][1])


def headline(results: dict[str, Results]) -> list[str]:
    """What the success rates say, in a few sentences; ``results`` by policy, any may be missing."""
    ours = results.get("vjepa")
    if ours is None:
        return ["The V-JEPA agent has not been evaluated yet."]
    floors = [results[name] for name in ("random", "noop") if name in results]
    floor = max(floors, key=lambda found: found["interval"][1]) if floors else None
    sentences = [_level(ours, floor)]
    if "untrained_encoder" in results:
        sentences.append(_pretraining(ours, results["untrained_encoder"], floor))
    return sentences


def _level(ours: Results, floor: Results | None) -> str:
    """How many goals are reached, against the better policy that does not plan."""
    text = f"The V-JEPA agent reaches {_count(ours)} held-out goals, from pixels alone"
    if floor is None:
        return text + "."
    without = f"acting without a plan reaches {_count(floor)}"
    if overlap(ours, floor):
        return f"{text}; {without}, so it is not clearly better than chance."
    return f"{text}; {without}."


def _pretraining(ours: Results, control: Results, floor: Results | None) -> str:
    """Whether the pretrained encoder helps against one with random weights."""
    text = f"With an encoder that was never trained, the same agent reaches {_count(control)}"
    if floor is not None and overlap(ours, floor) and overlap(control, floor):
        return f"{text}, which is not clearly better than chance either, so nothing can be said about pretraining."
    counts = paired(ours, control)
    if counts:
        p = sign_test(*counts)
        reason, shown = f"paired sign test: p {_p_value(p)}", p < 0.05
        better = counts[0] > counts[1]
    else:
        shown = not overlap(ours, control)
        reason = f"the 95% intervals {'do not ' if shown else ''}overlap"
        better = ours["successes"] > control["successes"]
    if not shown:
        return f"{text}: on these tasks no difference is shown ({reason}), so here pretraining is not needed."
    if better:
        return f"{text}: pretraining clearly helps here ({reason})."
    return f"{text}: the pretrained encoder is clearly worse here ({reason})."


def comparisons(results: dict[str, Results]) -> list[str]:
    """Further sentences for the results section: paired counts and where the failures come from."""
    ours = results.get("vjepa")
    if ours is None:
        return []
    sentences = []
    for name, label in (
        ("untrained_encoder", "the untrained encoder"),
        ("end_to_end", "the end-to-end model"),
    ):
        counts = paired(ours, results[name]) if name in results else None
        if counts:
            only_ours, only_other = counts
            sentences.append(
                f"Task by task against {label}: {only_ours} solved only by V-JEPA, {only_other} only by {label} "
                f"(exact sign test: p {_p_value(sign_test(only_ours, only_other))})."
            )
    if "simulator" in results:
        sentences.append(_search(ours, results["simulator"]))
    return sentences


def _search(ours: Results, simulator: Results) -> str:
    text = f"A smaller search with the true simulator and the true distance reaches {_count(simulator)}"
    if overlap(ours, simulator):
        return f"{text}; the 95% intervals overlap, so these tasks do not tell the two apart."
    if simulator["interval"][0] > ours["interval"][1]:
        return f"{text}, so a search can solve them: what fails lies in the latents, their prediction, or their cost."
    return f"{text}, clearly fewer than the V-JEPA agent."


def sign_test(a: int, b: int) -> float:
    """Two-sided exact p-value that ``a`` against ``b`` untied pairs come from a fair coin."""
    n = a + b
    tail = sum(comb(n, i) for i in range(min(a, b) + 1)) / 2**n
    return min(1.0, 2 * tail)


def _p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.2f}" if p >= 0.01 else f"= {p:.3f}"


def _count(found: Results) -> str:
    return f"{found['successes']} of {found['episodes']}"
