"""Moving tensors between our modules and others' names and layouts; whatever does not fit is reported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Rule:
    """Where one of our tensors comes from.

    Attributes:
        own: Our name.
        theirs: Their names; several are stacked along the first dimension.
        shape: The shape of each of theirs.
        swap: Their patches are ordered (channel, time, row, column), ours (time, channel, row, column).
    """

    own: str
    theirs: tuple[str, ...]
    shape: tuple[int, ...]
    swap: bool = False

    def read(self, tensors: Mapping[str, Tensor], shape: torch.Size) -> Tensor:
        """Our tensor, made of theirs."""
        parts = [tensors[name] for name in self.theirs]
        joined = parts[0] if len(parts) == 1 else torch.cat(parts)
        return (joined.transpose(1, 2) if self.swap else joined).reshape(shape)

    def write(self, own: Tensor) -> dict[str, Tensor]:
        """Their tensors, made of ours: the exact inverse of :meth:`read`."""
        if self.swap:
            out, channels, tubelet, *patch = self.shape
            own = own.reshape(out, tubelet, channels, *patch).transpose(1, 2)
        parts = own.reshape(len(self.theirs) * self.shape[0], *self.shape[1:]).split(self.shape[0])
        return {name: part.contiguous() for name, part in zip(self.theirs, parts, strict=True)}


@dataclass(frozen=True)
class LoadReport:
    """How a foreign file fits one of our modules.

    Attributes:
        source: What was read.
        missing: Names that should be there.
        unexpected: Names that no part of the module takes.
        misshapen: Name, found and wanted shape, in words.
        left_out: Names that are known and not needed here, such as position tables that rotary models ignore.
        notes: What was assumed, in words.
    """

    source: str
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshapen: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether every tensor found its place."""
        return not (self.missing or self.unexpected or self.misshapen)

    def __str__(self) -> str:
        kinds = (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("of another shape", self.misshapen),
        )
        found = "; ".join(f"{len(names)} {kind}: {_some(names)}" for kind, names in kinds if names)
        return f"{self.source}: {found or 'every tensor fits'}"

    def __add__(self, other: LoadReport) -> LoadReport:
        return LoadReport(
            self.source,
            self.missing + other.missing,
            self.unexpected + other.unexpected,
            self.misshapen + other.misshapen,
            self.left_out + other.left_out,
            self.notes + other.notes,
        )

    def check(self) -> None:
        """Refuse what does not fit.

        Raises:
            ValueError: A tensor is missing, unexpected or of another shape.
        """
        if not self.fits:
            raise ValueError(f"{self}. Nothing was loaded; strict=False loads what fits")


def fill(
    module: nn.Module, rules: list[Rule], tensors: Mapping[str, Tensor], source: str, prefix: str = ""
) -> LoadReport:
    """Copy into ``module`` what fits, and report the rest. Names in the report begin with ``prefix``."""
    own = module.state_dict()
    assert {rule.own for rule in rules} == set(own), "a rule for each of our tensors"
    misshapen, missing = [], []
    with torch.no_grad():
        for rule in rules:
            lost = [name for name in rule.theirs if name not in tensors]
            bent = [
                f"{prefix}{name} {tuple(tensors[name].shape)} instead of {rule.shape}"
                for name in rule.theirs
                if name in tensors and tuple(tensors[name].shape) != rule.shape
            ]
            missing += [prefix + name for name in lost]
            misshapen += bent
            if not lost and not bent:
                own[rule.own].copy_(rule.read(tensors, own[rule.own].shape))
    known = {name for rule in rules for name in rule.theirs}
    unexpected = tuple(prefix + name for name in tensors if name not in known)
    return LoadReport(source, tuple(missing), unexpected, tuple(misshapen))


def write_all(module: nn.Module, rules: list[Rule]) -> dict[str, Tensor]:
    """The module's tensors by their names and in their layout."""
    own = module.state_dict()
    return {name: part for rule in rules for name, part in rule.write(own[rule.own].detach()).items()}


def plain_rules(module: nn.Module, renamed: Mapping[str, str]) -> Iterator[Rule]:
    """Rules for tensors whose layout is the same; ``renamed`` maps beginnings of our names to theirs."""
    for name, tensor in module.state_dict().items():
        for ours, theirs in renamed.items():
            if name.startswith(ours):
                yield Rule(name, (theirs + name.removeprefix(ours),), tuple(tensor.shape))
                break


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more
