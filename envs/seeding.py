"""Keyed random numbers: what is drawn depends on a name and a few integers, not on what was drawn before."""

from __future__ import annotations

import zlib

import numpy as np


def keyed_rng(stream: str, *key: int) -> np.random.Generator:
    """A generator for one named stream and key, e.g. `keyed_rng("collect", seed, episode_index)`.

    Different streams never share a seed sequence: "collect" makes training episodes and "tasks" makes
    held-out tasks, so no seed that collection can be given reproduces an evaluation task. Use the same
    number of key parts throughout a stream, because numpy treats `[1]` and `[1, 0]` as the same entropy.

    Raises:
        ValueError: a part of the key is negative.
    """
    if any(part < 0 for part in key):
        raise ValueError(f"the key {key} of random stream {stream!r} has a negative part; seeds start at 0")
    return np.random.default_rng([zlib.crc32(stream.encode()), *(int(part) for part in key)])
