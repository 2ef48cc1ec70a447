"""Probe directories: a fitted probe with all that is needed to use it on another video.

``config.json`` says what the probe is, which encoder it reads and how; ``probe.safetensors`` holds its weights. A
fine-tuned encoder lies beside it as ``encoder.safetensors``. Nothing is unpickled.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from worldmodel.models.files import from_dict, load_part, read_config, save_parts
from worldmodel.models.probes import AttentiveProbe, AttentiveProbeConfig, KNNProbe, LinearProbe, Probe

KIND = "probe"


def save_probe(
    path: str | Path, probe: Probe, about: dict[str, Any], encoder: nn.Module | None = None
) -> None:
    """Write a probe directory.

    Args:
        path: The directory.
        probe: The probe.
        about: JSON values that go into ``config.json``: ``classes``, the ``encoder`` that it reads, its clips.
        encoder: The encoder's weights, where they were fine-tuned.

    Raises:
        OSError: The disk is full or not writable.
    """
    parts: dict[str, nn.Module] = {"probe": probe} | ({"encoder": encoder} if encoder is not None else {})
    title = f"{describe(probe)['type']} probe"
    save_parts(
        Path(path), KIND, {"probe": describe(probe), **about}, parts, f"{title} of {about.get('encoder')}.\n"
    )


def describe(probe: Probe) -> dict[str, Any]:
    """What a probe is, as JSON values; ``build`` makes an empty one of it."""
    if isinstance(probe, KNNProbe):
        size, features = probe.bank.shape
        return {"type": "knn", "features": features, "outputs": probe.outputs, "samples": size}
    if isinstance(probe, LinearProbe):
        return {"type": "linear", "features": len(probe.mean), "outputs": probe.linear.out_features}
    config = asdict(probe.config)
    return {
        "type": "attentive",
        "features": probe.linear.in_features,
        "outputs": probe.linear.out_features,
        "size": config,
    }


def build(description: dict[str, Any], source: str) -> Probe:
    """An empty probe.

    Raises:
        ValueError: The description is of no probe that this version knows.
    """
    try:
        kind, features, outputs = (description[key] for key in ("type", "features", "outputs"))
        if kind == "knn":
            samples = description["samples"]
            labels = torch.zeros(samples, dtype=torch.int64)
            return KNNProbe(torch.zeros(samples, features), labels, outputs, 1, 1.0)
        if kind == "linear":
            return LinearProbe(features, outputs)
        if kind == "attentive":
            size = from_dict(AttentiveProbeConfig, {"standardise": False, **description["size"]}, source)
            return AttentiveProbe(features, outputs, size)
    except KeyError as error:
        raise ValueError(
            f"{source}: the probe's description lacks the key {error}; fit the probe again"
        ) from error
    raise ValueError(f"{source}: probe type {kind!r} is unknown; it is knn, linear or attentive")


def load_probe(path: str | Path) -> tuple[Probe, dict[str, Any]]:
    """A probe in evaluation mode, and what ``save_probe`` was told about it.

    Raises:
        FileNotFoundError: There is no probe.
        ValueError: The directory holds something else, or a file is damaged.
    """
    config = read_config(Path(path), KIND)
    probe = build(config.get("probe", {}), f"{path}/config.json")
    load_part(Path(path), "probe", probe)
    return probe.eval(), config
