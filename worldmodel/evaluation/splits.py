"""How labelled samples are split into a part to fit on, one to choose hyper-parameters by, and the test.

Splits are keyed by each sample's name, so that they do not depend on the order of a file, and one more sample does
not shuffle the others.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worldmodel.evaluation.labelled import Sample


def divide(
    samples: Sequence[Sample], rows: Sequence[int], share: float, stream: str, seed: int, classes: bool = True
) -> tuple[list[int], list[int]]:
    """Part off a share of samples, class by class, groups kept whole.

    Args:
        samples: All samples.
        rows: Positions of those to divide.
        share: Of each class that is parted off: at least one sample of a class that has two.
        stream, seed: What the draw is for; another draw has another key.
        classes: Whether labels are classes; numbers are drawn from all together.

    Returns:
        Positions that stay, and those parted off, both in the order of ``rows``.
    """
    units: dict[str, list[int]] = {}
    for row in rows:
        # Clips of one file that was cut up belong together even if no group says so.
        units.setdefault(samples[row].group or samples[row].path, []).append(row)
    strata: dict[str, list[str]] = {}
    for name, members in units.items():
        labels = {samples[row].label for row in members}
        strata.setdefault(labels.pop() if classes and len(labels) == 1 else "", []).append(name)
    away: set[int] = set()
    for names in strata.values():
        ranked = sorted(names, key=lambda name: _rank(samples[units[name][0]].key, stream, seed))
        count = min(len(names) - 1, max(1, round(share * len(names))))
        for name in ranked[:count]:
            away.update(units[name])
    return [row for row in rows if row not in away], [row for row in rows if row in away]


def few_shots(
    samples: Sequence[Sample], rows: Sequence[int], amount: float, draw: int, seed: int
) -> list[int]:
    """A low-shot training set: ``amount`` samples of each class, or, below 1, that share of each class (at least one).

    Raises:
        ValueError: A class has fewer samples.
    """
    classes: dict[str, list[int]] = {}
    for row in rows:
        classes.setdefault(samples[row].label, []).append(row)
    chosen: list[int] = []
    for label, members in classes.items():
        count = max(1, round(amount * len(members))) if amount < 1 else int(amount)
        if count > len(members):
            raise ValueError(
                f"shots={amount:g}, but class {label!r} has only {len(members)} training samples"
            )
        ranked = sorted(members, key=lambda row: _rank(samples[row].key, f"shots {draw}", seed))
        chosen += ranked[:count]
    return sorted(chosen)


def _rank(key: str, stream: str, seed: int) -> bytes:
    return hashlib.sha256(f"{stream}|{seed}|{key}".encode()).digest()


@dataclass(frozen=True)
class Splits:
    """Positions of the samples that a probe is fitted on, that choose its hyper-parameters, and that test it."""

    fit: list[int]
    select: list[int]
    test: list[int]

    @property
    def train(self) -> list[int]:
        """All but the test."""
        return sorted(self.fit + self.select)


def make_splits(
    samples: Sequence[Sample], test_share: float, select_share: float, seed: int, classes: bool = True
) -> Splits:
    """The splits that the list gives, completed by keyed draws where it gives none.

    Raises:
        ValueError: Some samples have a split and others none, or there is no test or no training part.
    """
    named = {sample.split for sample in samples}
    if "" in named and len(named) > 1:
        bare = next(sample.name for sample in samples if not sample.split)
        raise ValueError(f"{bare} has no split, but others have; give each sample one, or none")
    rows = list(range(len(samples)))
    if named == {""}:
        train, test = divide(samples, rows, test_share, "test", seed, classes)
        fit, select = divide(samples, train, select_share, "select", seed, classes)
        return Splits(fit, select, test)
    by_split = {
        split: [row for row in rows if samples[row].split == split] for split in ("train", "val", "test")
    }
    if not by_split["train"] or not by_split["test"]:
        lacking = "test" if by_split["train"] else "train"
        raise ValueError(
            f"no sample is in the split {lacking}; name the part to report on test, the part to train on train "
            "(val is only for choosing hyper-parameters)"
        )
    fit, select = by_split["train"], by_split["val"]
    if not select:
        fit, select = divide(samples, fit, select_share, "select", seed, classes)
    return Splits(fit, select, by_split["test"])


@dataclass
class Labelled:
    """A labelled set: its samples, how they are split, and what the labels are.

    Attributes:
        classes: Names of the classes, of the training part; empty where labels are numbers.
    """

    samples: list[Sample]
    splits: Splits
    classes: list[str]

    @property
    def hash(self) -> str:
        """Names the samples, their labels and splits."""
        lines = [f"{sample.key}|{sample.label}" for sample in self.samples]
        return hashlib.sha256("\n".join([*lines, repr(self.splits)]).encode()).hexdigest()

    def targets(self, rows: Sequence[int]) -> Tensor:
        """Classes ``(n,)`` int64, or numbers ``(n, 1)`` float32."""
        labels = [self.samples[row].label for row in rows]
        if self.classes:
            numbers = {name: number for number, name in enumerate(self.classes)}
            return torch.tensor([numbers[label] for label in labels], dtype=torch.int64)
        return torch.tensor([[float(label)] for label in labels])

    def groups(self, rows: Sequence[int]) -> np.ndarray:
        """Which samples belong together ``(n,)``: those of a group, or else of a file."""
        names = [self.samples[row].group or self.samples[row].path for row in rows]
        return np.unique(names, return_inverse=True)[1]


def make_labelled(
    samples: list[Sample], target: str, test_share: float, select_share: float, seed: int
) -> Labelled:
    """Split samples, and read their labels.

    Args:
        target: ``class``, or ``number``.
        test_share, select_share: Used where the samples have no splits of their own.

    Raises:
        ValueError: Labels are no numbers, of one class only, or of a class that only the test has; or a split is empty.
    """
    classes = target == "class"
    splits = make_splits(samples, test_share, select_share, seed, classes)
    for part, rows in (("training", splits.fit), ("test", splits.test)):
        if not rows:
            raise ValueError(
                f"{len(samples)} samples are too few: none is left for the {part} part; give more"
            )
    if not classes:
        for sample in samples:
            if not _is_number(sample.label):
                raise ValueError(f"{sample.name}: label {sample.label!r} is not a number; use target=class")
        return Labelled(samples, splits, [])
    names = _in_order({samples[row].label for row in splits.train})
    if len(names) < 2:
        raise ValueError(
            f"all training samples have the label {names[0]!r}; a probe needs at least two classes"
        )
    unknown = sorted({samples[row].label for row in splits.test} - set(names))
    if unknown:
        raise ValueError(
            f"class {unknown[0]!r} is in the test, but not in the training part; remove it, or train on it"
        )
    return Labelled(samples, splits, names)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _in_order(labels: set[str]) -> list[str]:
    """Classes in alphabetical order, numbered ones by number."""
    return sorted(labels, key=int) if all(label.isdecimal() for label in labels) else sorted(labels)
