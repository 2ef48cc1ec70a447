"""Model directories: ``config.json`` with a format version, one safetensors file per part, and a model card.

``kind`` in ``config.json`` names an entry of a fixed table, never an import path, and nothing is unpickled: loading a
model from somebody else runs none of their code.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from worldmodel.atomic import read_json, write_atomic, write_bytes, write_json
from worldmodel.weights import load_tensors

FORMAT_VERSION = 1
T = TypeVar("T")


def save_parts(
    path: Path, kind: str, config: dict[str, Any], parts: Mapping[str, nn.Module], card: str
) -> None:
    """Write a model directory. ``config.json`` comes last, so a directory that has it is complete.

    Raises:
        OSError: The disk is full or not writable.
    """
    path.mkdir(parents=True, exist_ok=True)
    for name, module in parts.items():
        tensors = {key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}
        write_atomic(path / f"{name}.safetensors", lambda file, tensors=tensors: save_file(tensors, file))  # type: ignore[misc]
    write_bytes(path / "README.md", card.encode())
    write_json(
        path / "config.json",
        {"format_version": FORMAT_VERSION, "kind": kind, "parts": sorted(parts), **config},
    )


def read_config(path: Path, kind: str) -> dict[str, Any]:
    """The configuration of a model directory.

    Raises:
        FileNotFoundError: There is no model.
        ValueError: It is of another kind or format version.
    """
    file = path / "config.json"
    config = read_json(file) if file.is_file() else {}
    if "kind" not in config:
        raise _no_model(path)
    if config.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{file} has format_version {config.get('format_version')}, this version reads {FORMAT_VERSION}"
        )
    if config.get("kind") != kind:
        raise ValueError(f"{path} holds a {config.get('kind')!r}, but a {kind!r} is needed here")
    return config


def load_part(path: Path, name: str, module: nn.Module) -> None:
    """Fill ``module`` from one part of a model directory.

    Raises:
        FileNotFoundError: The part is missing.
        ValueError: The file is damaged, or a tensor is missing, unexpected or of another shape.
    """
    file = path / f"{name}.safetensors"
    if not file.is_file():
        raise FileNotFoundError(f"{path} has no part {name} ({file.name} is missing)")
    try:
        tensors: dict[str, Tensor] = load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged ({error}); copy or train it again") from error
    load_tensors(module, tensors, str(file))


def from_dict(cls: type[T], values: dict[str, Any], source: str) -> T:
    """Build a configuration dataclass; an unknown or missing key is an error that names ``source``.

    Raises:
        ValueError: The keys do not fit the class.
    """
    names = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(values.keys() - names)
    if unknown:
        raise ValueError(
            f"{source}: {cls.__name__} has no key {', '.join(unknown)}; it has {', '.join(sorted(names))}"
        )
    missing = sorted(names - values.keys())
    if missing:
        raise ValueError(
            f"{source}: {cls.__name__} lacks the key {', '.join(missing)}; copy or train the model again"
        )
    return cls(**values)


def directory_hash(path: Path) -> str:
    """sha256 over the names and contents of a model directory's weights and configuration.

    Raises:
        FileNotFoundError: There is no model.
    """
    if not (path / "config.json").is_file():
        raise _no_model(path)
    digest = hashlib.sha256()
    for file in sorted([*path.glob("*.safetensors"), path / "config.json"]):
        digest.update(file.name.encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _no_model(path: Path) -> FileNotFoundError:
    if (path / "model" / "config.json").is_file():
        return FileNotFoundError(f"{path} is a run, not a model; give {path / 'model'}")
    return FileNotFoundError(
        f"no model at {path} (no config.json of one there); give the directory that training wrote"
    )
