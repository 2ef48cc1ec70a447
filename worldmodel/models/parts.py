"""Model directories of what is trained on top of a world model: a value head, a slow level.

Each is a directory of its own, usually beside the world model's parts (``<model>/value``, ``<model>/slow``), and names
the world model whose latents it reads, so that it is never used with another one.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from worldmodel.atomic import write_atomic
from worldmodel.models.dynamics import DYNAMICS, SlowConfig, SlowDynamics, build_slow, kind_of
from worldmodel.models.files import directory_hash, from_dict, load_part, read_config, save_parts
from worldmodel.models.value import ValueConfig, ValueHead

VALUE, SLOW = "value_head", "slow_dynamics"


def save_value(
    path: str | Path, head: ValueHead, model: str, card: str = "", facts: dict[str, Any] | None = None
) -> None:
    """Write a value head's directory.

    Args:
        path: The directory; made if there is none.
        head: The value head.
        model: ``directory_hash`` of the world model whose latents it reads.
        card: Text of its README.md.
        facts: What else is to be known of it (data's hash, results); JSON values.

    Raises:
        OSError: The disk is full or not writable.
    """
    about = {"model": model, "value": asdict(head.config), "width": head.width, "facts": facts or {}}
    save_parts(Path(path), VALUE, about, {"value": head}, card)


def load_value(path: str | Path, model: str | Path | None = None) -> ValueHead:
    """Read a value head's directory, in evaluation mode.

    Args:
        path: The directory.
        model: The world model's directory; if given, the head must have been trained on its latents.

    Raises:
        FileNotFoundError: There is no value head.
        ValueError: It is damaged, of another kind or version, or was trained on another model's latents.
    """
    about = _read(Path(path), VALUE, model, ("value", "width"))
    head = ValueHead(from_dict(ValueConfig, about["value"], f"{path}/config.json: value"), about["width"])
    load_part(Path(path), "value", head)
    return head.eval()


def save_slow(
    path: str | Path,
    slow: SlowDynamics,
    config: object,
    model: str,
    card: str = "",
    facts: dict[str, Any] | None = None,
) -> None:
    """Write a slow level's directory.

    Args:
        path: The directory; made if there is none.
        slow: The slow level.
        config: The settings of its dynamics, of a kind in ``DYNAMICS``.
        model: ``directory_hash`` of the world model whose latents it reads.
        card: Text of its README.md.
        facts: What else is to be known of it (data's hash, results); JSON values.

    Raises:
        OSError: The disk is full or not writable.
    """
    _, per_step, dim = slow.encoder.shape
    about = {
        "model": model,
        "slow": asdict(slow.encoder.config),
        "dynamics": {"kind": kind_of(config), **asdict(config)},  # type: ignore[call-overload]
        "tokens": slow.tokens,
        "width": slow.width,
        "actions_per_step": per_step,
        "action_dim": dim,
        "facts": facts or {},
    }
    parts = {"macro_actions": slow.encoder, "dynamics": slow.dynamics}
    save_parts(Path(path), SLOW, about, parts, card)


def load_slow(path: str | Path, model: str | Path | None = None) -> SlowDynamics:
    """Read a slow level's directory, in evaluation mode.

    Args:
        path: The directory.
        model: The world model's directory; if given, the slow level must have been trained on its latents.

    Raises:
        FileNotFoundError: There is no slow level, or a part of it is missing.
        ValueError: It is damaged, of another kind or version, or was trained on another model's latents.
    """
    sizes = ("tokens", "width", "actions_per_step", "action_dim")
    about = _read(Path(path), SLOW, model, ("slow", "dynamics", *sizes))
    source = f"{path}/config.json"
    settings = dict(about["dynamics"])
    kind = settings.pop("kind", "")
    if kind not in DYNAMICS:
        raise ValueError(f"{source}: dynamics is of kind {kind!r}; this version knows {', '.join(DYNAMICS)}")
    config = from_dict(DYNAMICS[kind][0], settings, f"{source}: dynamics")
    levels = from_dict(SlowConfig, about["slow"], f"{source}: slow")
    slow = build_slow(levels, config, *(about[name] for name in sizes))
    load_part(Path(path), "macro_actions", slow.encoder)
    load_part(Path(path), "dynamics", slow.dynamics)
    return slow.eval()


def copy_part(source: Path, target: Path) -> None:
    """Copy a part's directory, file by file, each of them whole or not at all; ``config.json`` comes last.

    Raises:
        OSError: The part is missing, or the target is not writable.
    """
    target.mkdir(parents=True, exist_ok=True)
    names = ["README.md", *sorted(file.name for file in source.glob("*.safetensors")), "config.json"]
    for name in names:
        write_atomic(target / name, lambda file, name=name: _copy(source / name, file))  # type: ignore[misc]


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


def _read(path: Path, kind: str, model: str | Path | None, keys: tuple[str, ...]) -> dict[str, Any]:
    """The configuration of a part's directory, which has ``keys`` and belongs to ``model``."""
    about = read_config(path, kind)
    missing = [key for key in ("model", *keys) if key not in about]
    if missing:
        raise ValueError(f"{path}/config.json lacks the key {', '.join(missing)}; train it again")
    if model is not None and about["model"] != directory_hash(Path(model).expanduser()):
        raise ValueError(f"{path} was trained on the latents of another model than {model}; train it again")
    return about
