"""Many strings in two arrays: a list of a million names would be copied, object by object, into every worker."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np


class Strings(Sequence[str]):
    """An immutable sequence of strings, kept as one run of UTF-8 bytes and the end of each.

    Attributes:
        text: uint8; the bytes of all, one after another. Names that are no UTF-8 survive (``surrogateescape``).
        ends: ``(len,)`` int64; where each one ends.
    """

    def __init__(self, items: Iterable[str]) -> None:
        text, ends = bytearray(), array("q")
        for item in items:
            text += item.encode("utf-8", "surrogateescape")
            ends.append(len(text))
        self.text = np.frombuffer(bytes(text), dtype=np.uint8)
        self.ends = np.array(ends, dtype=np.int64)

    @classmethod
    def from_arrays(cls, text: np.ndarray, ends: np.ndarray) -> Strings:
        """From what another one keeps."""
        strings = cls(())
        strings.text, strings.ends = text, ends
        return strings

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> Strings: ...

    def __getitem__(self, index: int | slice) -> str | Strings:
        if isinstance(index, slice):
            return Strings(self[number] for number in range(*index.indices(len(self))))
        if not 0 <= index < len(self):
            raise IndexError(f"string {index} of {len(self)}")
        start = int(self.ends[index - 1]) if index else 0
        return self.text[start : int(self.ends[index])].tobytes().decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))
