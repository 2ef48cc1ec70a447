"""What official V-JEPA files hold, and reading them without running anything of theirs."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worldmodel.interop.tensors import LoadReport

#: Names that only V-JEPA 2.1 has.
NEW = ("norms_block.", "patch_embed_img.", "mod_embed", "predictor_proj_context")


@dataclass(frozen=True)
class ACPredictorWeights:
    """The action-conditioned predictor of V-JEPA 2-AC (2506.09985, section 3): checked tensors, not yet a module.

    A dynamics model of this architecture can load them as they are; this toolkit has none so far.

    Attributes:
        tensors: By their official names without prefixes: ``predictor_embed``, ``action_encoder``, ``state_encoder``,
            ``extrinsics_encoder`` (allocated and, in the release, unused), ``predictor_blocks.i``, ``predictor_norm``
            and ``predictor_proj``.
        encoder_width: Features per token that go in and come out.
        width: Its own.
        depth: Blocks.
        heads: 16 in the release; cannot be read off shapes.
        mlp_hidden: Hidden features of a block's MLP.
        action_dim: Numbers per action, and per state (7 in the release).
    """

    tensors: dict[str, Tensor]
    encoder_width: int
    width: int
    depth: int
    heads: int
    mlp_hidden: int
    action_dim: int


def read_file(path: Path) -> dict[str, Any]:
    """The dictionary in a file that ``torch.save`` wrote; only tensors and plain values are built.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged, or wants to build something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}; nothing is downloaded, fetch it first")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        reason = " ".join(str(error).split())
        wanted = re.search(r"GLOBAL (\S+)", reason)
        what = f"wants to build a {wanted.group(1)}" if wanted else "is damaged or no file of torch.save"
        raise ValueError(f"{path} {what}; only tensors and plain values are read") from error
    except (RuntimeError, EOFError, KeyError) as error:
        raise ValueError(
            f"{path} is damaged ({' '.join(str(error).split())[:200]}); fetch it again"
        ) from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}, not the dictionary of a V-JEPA file")
    return found


def weights_of(
    found: Mapping[str, Any], weights: str, name: str
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The encoder's tensors without prefixes, and what was assumed.

    Raises:
        ValueError: The file has no such encoder, or something in it is no tensor.
    """
    key = {"ema": "target_encoder", "student": "encoder"}[weights]
    notes: tuple[str, ...] = ()
    if not isinstance(found.get(key), dict):
        other = "student" if weights == "ema" else "ema"
        holds = ", ".join(sorted(map(str, found))[:8]) or "nothing"
        if not isinstance(found.get("encoder"), dict):
            raise ValueError(f"{name} has no {key} (it holds {holds}); is it a V-JEPA file?")
        if not is_ac(part(found, "predictor", name)):
            raise ValueError(f"{name} has no {key}; it holds {holds}. Choose weights={other}")
        key, notes = "encoder", ("V-JEPA 2-AC: one frozen encoder, neither EMA nor student",)
    return part(found, key, name), notes


def part(found: Mapping[str, Any], key: str, name: str) -> dict[str, Tensor]:
    """The tensors of one part, without the prefixes that DDP and wrappers gave them; empty if there is no such part.

    Raises:
        ValueError: Something in it is no tensor.
    """
    values = found.get(key) or {}
    if not isinstance(values, dict) or not all(isinstance(value, Tensor) for value in values.values()):
        raise ValueError(f"{name}: {key} is no dictionary of tensors")
    return {re.sub(r"^(module\.)?(backbone\.)?", "", entry): value for entry, value in values.items()}


def refuse_2_1(tensors: Mapping[str, Tensor], name: str) -> None:
    """Say what is supported where the file is of V-JEPA 2.1.

    Raises:
        ValueError: It is.
    """
    signs = sorted(key for key in tensors if any(sign in key for sign in NEW))
    if signs:
        raise ValueError(
            f"{name} is a V-JEPA 2.1 file ({signs[0]}): its encoder has four norms and a branch for "
            "images, its predictor works on all four. Neither is supported; V-JEPA, V-JEPA 2 and V-JEPA 2-AC files are"
        )


def is_ac(narrow: Mapping[str, Tensor]) -> bool:
    """Whether a predictor is V-JEPA 2-AC's."""
    return "action_encoder.weight" in narrow


def count_blocks(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """How many blocks there are: the highest number in names like ``blocks.11.norm1.weight``, plus one."""
    numbers = (re.match(rf"{re.escape(prefix)}(\d+)\.", name) for name in tensors)
    return 1 + max((int(found.group(1)) for found in numbers if found), default=-1)


def check_table(ours: Tensor | None, theirs: Tensor | None, name: str) -> None:
    """Compare a file's sin-cos table with ours: they are fixed, so another one means another layout.

    Raises:
        ValueError: It is missing, or another one.
    """
    if ours is None or theirs is None:
        raise ValueError(f"{name} has no position table, which V-JEPA files have; is it family=vjepa2?")
    if theirs.numel() != ours.numel() or not torch.allclose(
        theirs.float().reshape(ours.shape), ours, atol=1e-4
    ):
        raise ValueError(
            f"{name}: its position table {tuple(theirs.shape)} is not the sin-cos table of a {tuple(ours.shape)} grid; "
            "give image_size and frames, or family=vjepa2 if its model is rotary"
        )


def ac_predictor(
    narrow: Mapping[str, Tensor], encoder_width: int, name: str
) -> tuple[ACPredictorWeights, LoadReport]:
    """V-JEPA 2-AC's predictor: every tensor's name and shape checked.

    Raises:
        ValueError: The tensors that give its sizes are missing.
    """
    embed, action = narrow.get("predictor_embed.weight"), narrow.get("action_encoder.weight")
    hidden = narrow.get("predictor_blocks.0.mlp.fc1.weight")
    if embed is None or action is None or hidden is None:
        raise ValueError(
            f"{name}: V-JEPA 2-AC's predictor needs predictor_embed.weight, action_encoder.weight and "
            "predictor_blocks.0.mlp.fc1.weight"
        )
    width, action_dim = action.shape
    depth, mlp = count_blocks(narrow, "predictor_blocks."), hidden.shape[0]
    linear = {
        "predictor_embed": (width, encoder_width),
        "action_encoder": (width, action_dim),
        "state_encoder": (width, action_dim),
        "extrinsics_encoder": (width, action_dim - 1),
        "predictor_proj": (encoder_width, width),
    }
    norms = ["predictor_norm"]
    for i in range(depth):
        block = f"predictor_blocks.{i}."
        norms += [f"{block}norm1", f"{block}norm2"]
        linear |= {
            f"{block}attn.qkv": (3 * width, width),
            f"{block}attn.proj": (width, width),
            f"{block}mlp.fc1": (mlp, width),
            f"{block}mlp.fc2": (width, mlp),
        }
    wanted: dict[str, tuple[int, ...]] = {}
    for layer, shape in linear.items():
        wanted |= {f"{layer}.weight": shape, f"{layer}.bias": shape[:1]}
    for norm in norms:
        wanted |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    report = LoadReport(
        name,
        missing=tuple(f"predictor.{key}" for key in wanted if key not in narrow),
        unexpected=tuple(f"predictor.{key}" for key in narrow if key not in wanted),
        misshapen=tuple(
            f"predictor.{key} {tuple(narrow[key].shape)} instead of {shape}"
            for key, shape in wanted.items()
            if key in narrow and tuple(narrow[key].shape) != shape
        ),
    )
    # Copies, so that the file may go: what was read is a view of it.
    tensors = {key: narrow[key].clone() for key in wanted if key in narrow}
    sizes = {"encoder_width": encoder_width, "width": width, "depth": depth, "mlp_hidden": mlp}
    return ACPredictorWeights(tensors, heads=16, action_dim=action_dim, **sizes), report
