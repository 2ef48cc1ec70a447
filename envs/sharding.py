"""Shards: the same work split over machines, by the index of each piece.

A shard "i/n" works on the indices congruent to i modulo n. No shard needs to know of the others, and no index is
worked on twice. What a piece of work makes depends on its index alone, so merged shards equal the unsharded work.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

Shard = tuple[int, int]


def parse_shard(text: str, environ: Mapping[str, str] | None = None) -> Shard | None:
    """Read the setting `shard`: (i, n) with 0 <= i < n, or None for all of the work.

    Args:
        text: "" for all of the work; "i/n", such as "0/3"; or "auto", which asks the launcher: `RANK` and
            `WORLD_SIZE` of torchrun where `WORLD_SIZE` exceeds 1, else `SLURM_ARRAY_TASK_ID`, counted from
            `SLURM_ARRAY_TASK_MIN`, and `SLURM_ARRAY_TASK_COUNT` of a Slurm array.
        environ: the environment's variables; those of this process by default.

    Raises:
        ValueError: the text is none of these, or "auto" without a launcher that says which shard this is.
    """
    text = text.strip()
    if not text:
        return None
    if text == "auto":
        return _from_launcher(os.environ if environ is None else environ)
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not int(match[1]) < int(match[2]):
        raise ValueError(
            f"shard={text} is none; write i/n with 0 <= i < n, such as shard=0/3 for the first of three, or shard=auto"
        )
    return int(match[1]), int(match[2])


def shard_indices(count: int, shard: Shard | None) -> range:
    """The indices out of range(count) that belong to the shard; all of them for None."""
    index, shards = shard or (0, 1)
    return range(index, count, shards)


def shard_name(shard: Shard) -> str:
    """The name of a shard's directory, "i-of-n"."""
    return f"{shard[0]}-of-{shard[1]}"


def _from_launcher(environ: Mapping[str, str]) -> Shard:
    if _number(environ, "WORLD_SIZE", 1) > 1:
        names = ("RANK", "WORLD_SIZE")
        shard = _number(environ, "RANK", -1), _number(environ, "WORLD_SIZE", 1)
    elif "SLURM_ARRAY_TASK_ID" in environ:
        names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT")
        task, count = _number(environ, names[0], -1), _number(environ, names[1], 0)
        step = max(1, _number(environ, "SLURM_ARRAY_TASK_STEP", 1))
        shard = (task - _number(environ, "SLURM_ARRAY_TASK_MIN", 0)) // step, count
    else:
        raise ValueError(
            "shard=auto finds no launcher: neither WORLD_SIZE > 1 (torchrun) nor SLURM_ARRAY_TASK_ID (a Slurm array) "
            "is set; write shard=i/n"
        )
    if not 0 <= shard[0] < shard[1]:
        # An array with gaps (--array=0,2,5) has numbers beyond its count.
        said = ", ".join(f"{name}={environ.get(name, 'unset')}" for name in names)
        raise ValueError(
            f"shard=auto finds {said}, which is no shard i of n; number them 0 to n-1, or write shard=i/n"
        )
    return shard


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name, "").strip()
    if text and not re.fullmatch(r"\d+", text):
        raise ValueError(
            f"{name}={text} in the environment is no number; shard=auto needs it: write shard=i/n"
        )
    return int(text) if text else default
