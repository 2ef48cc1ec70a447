"""Training state for resuming one's own run: one safetensors file, written atomically, and nothing is unpickled."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from worldmodel.atomic import write_atomic
from worldmodel.weights import load_tensors

FORMAT_VERSION = 1


def save_training_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write weights, buffers, optimiser state and the number of finished steps.

    Raises:
        OSError: The disk is full; the previous state stays.
    """
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    names = _parameter_names(model)
    for parameter, state in optimizer.state.items():
        tensors |= {f"optimizer.{names[parameter]}.{key}": value for key, value in state.items()}
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    meta = {"state": json.dumps({"step": step, "format_version": FORMAT_VERSION})}
    write_atomic(path, lambda temporary: save_file(tensors, temporary, metadata=meta))


def load_training_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Restore what ``save_training_state`` wrote; returns the number of finished steps.

    Raises:
        ValueError: The file is damaged or of another model; the message names the first tensor that differs.
    """
    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads(file.metadata()["state"])
            if state["format_version"] != FORMAT_VERSION:
                raise ValueError(
                    f"format_version {state['format_version']}, this version reads {FORMAT_VERSION}"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"training state {path} is damaged ({error}); delete it to begin again") from error
    model_state = {name[6:]: value for name, value in tensors.items() if name.startswith("model.")}
    load_tensors(model, model_state, str(path))
    for parameter, name in _parameter_names(model).items():
        prefix = f"optimizer.{name}."
        found = {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
        if found:
            # A fused AdamW keeps its step counter on the parameter's device too.
            optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in found.items()}
    return int(state["step"])


def _parameter_names(model: nn.Module) -> dict[Tensor, str]:
    return {parameter: name for name, parameter in model.named_parameters()}
