"""Training state for resuming one's own run, at any number of processes. Written atomically; nothing is unpickled.

One process, or DDP: one safetensors file, ``state.safetensors``. FSDP: a directory ``state/step-<finished steps>`` with
a file per process, which holds its rows of every tensor, and an ``index.json`` that is written last. Either is read by
any number of processes, each taking the rows that it needs.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from worldmodel.atomic import read_json, write_atomic, write_json
from worldmodel.training.distributed import World, current_world
from worldmodel.training.parallel import local

FORMAT_VERSION = 1
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def save_training_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write weights, buffers, optimiser state and the number of finished steps; replaces the previous state.

    Every process calls it. ``path`` is the single file; shares go to ``state/`` beside it.

    Raises:
        OSError: The disk is full; the previous state stays.
    """
    world = current_world()
    tensors = {f"model.{name}": value.detach() for name, value in model.state_dict().items()}
    without = []
    for name, parameter in _trainable(model).items():
        state = optimizer.state.get(parameter, {})
        tensors |= {f"optimizer.{name}.{key}": value for key, value in state.items()}
        if not state:
            without.append(name)
    meta: dict[str, Any] = {"step": step, "format_version": FORMAT_VERSION}
    if without:  # parameters that have had no gradient yet
        meta["without_state"] = without
    if any(_is_sharded(value) for value in tensors.values()):
        _save_shards(path.parent / "state" / f"step-{step:09d}", tensors, meta, world)
        world.from_first(lambda: _remove_all_but(path, step))
    else:
        # Every process has everything: the first one writes.
        def write() -> None:
            single = {name: value.cpu().contiguous() for name, value in tensors.items()}
            text = {"state": json.dumps(meta)}
            write_atomic(path, lambda temporary: save_file(single, temporary, metadata=text))
            shutil.rmtree(path.parent / "state", ignore_errors=True)

        world.from_first(write)


def load_training_state(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Restore the newest state that ``save_training_state`` wrote, however many processes wrote it.

    Returns the number of finished steps. Every process calls it.

    Raises:
        ValueError: The state is damaged, incomplete or of another model; the message names the first tensor that
            differs.
        FileNotFoundError: There is none.
    """
    found = current_world().from_first(lambda: str(newest_state(path) or ""))
    if not found:
        raise FileNotFoundError(f"there is no training state {path}")
    source = Path(found)
    with _open_state(source) as state:
        own = model.state_dict()
        untouched = set(state.meta.get("without_state", []))
        moments = {
            f"optimizer.{name}.{key}": torch.Size() if key == "step" else parameter.shape
            for name, parameter in _trainable(model).items()
            if name not in untouched
            for key in _MOMENTS
        }
        wanted = {f"model.{name}": value.shape for name, value in own.items()} | moments
        _check(state, wanted, source)
        with torch.no_grad():
            for name, value in own.items():
                local(value).copy_(state.rows(f"model.{name}", value))
            for name, parameter in _trainable(model).items():
                if name not in untouched:
                    optimizer.state[parameter] = _moments(state, name, parameter)
        return int(state.meta["step"])


def newest_state(path: Path) -> Path | None:
    """The single file, or the directory of shares, whichever has more steps; None where there is neither."""
    found = [(_step_of(index.parent), index.parent) for index in path.parent.glob("state/step-*/index.json")]
    if path.exists():
        # A single file removes the shares that it replaces, and these remove it: one of both is only left over.
        with _open_state(path) as state:
            found.append((int(state.meta["step"]), path))
    return max(found)[1] if found else None


@dataclass(frozen=True)
class _State:
    """An opened state.

    Attributes:
        meta: Finished steps and the like.
        shapes: The whole tensors' shapes.
        rows: ``rows(name, like)``: those rows of a tensor that this process's ``like`` holds.
    """

    meta: dict[str, Any]
    shapes: dict[str, list[int]]
    rows: Callable[[str, Tensor], Tensor]


@contextmanager
def _open_state(source: Path) -> Iterator[_State]:
    """Open a file, or a directory of shares.

    Raises:
        ValueError: It is damaged, also where that shows only while reading.
    """
    try:
        with ExitStack() as stack:
            if source.is_dir():
                index = read_json(source / "index.json")
                meta, layout = index, index["tensors"]
                files = [
                    stack.enter_context(
                        safe_open(source / _shard_name(rank, index["shards"]), framework="pt")
                    )
                    for rank in range(index["shards"])
                ]
            else:
                file = stack.enter_context(safe_open(source, framework="pt"))
                meta, files = json.loads(file.metadata()["state"]), [file]
                layout = {name: {"shape": file.get_slice(name).get_shape()} for name in file.keys()}  # noqa: SIM118
            if meta["format_version"] != FORMAT_VERSION:
                raise ValueError(
                    f"format_version {meta['format_version']}, this version reads {FORMAT_VERSION}"
                )

            def rows(name: str, like: Tensor) -> Tensor:
                parts = layout[name].get("rows")
                if parts is None:  # in the first file, whole
                    first, last = row_range(like)
                    return files[0].get_slice(name)[first:last] if like.ndim else files[0].get_tensor(name)
                found = _read_rows(files, name, parts, row_range(like))
                return found if found is not None else torch.empty(0, *layout[name]["shape"][1:])

            yield _State(meta, {name: entry["shape"] for name, entry in layout.items()}, rows)
    except (SafetensorError, KeyError, FileNotFoundError, _Damaged) as error:
        raise _damaged(source, error) from error
    except ValueError as error:
        if "does not fit" in str(error):
            raise
        raise _damaged(source, error) from error


class _Damaged(ValueError):
    pass


def _damaged(source: Path, error: Exception) -> ValueError:
    return ValueError(f"training state {source} is damaged ({error}); delete it to begin again")


def _read_rows(files: list[Any], name: str, parts: list[list[int]], wanted: tuple[int, int]) -> Tensor | None:
    """Rows ``wanted[0]`` to ``wanted[1]`` of a tensor whose ``parts`` say which rows each file holds; None for none."""
    first, last = wanted
    pieces = []
    for file, (start, stop) in zip(files, parts, strict=True):
        low, high = max(first, start), min(last, stop)
        if low < high:
            pieces.append(file.get_slice(name)[low - start : high - start])
    if sum(len(piece) for piece in pieces) != last - first:
        raise _Damaged(f"rows {first} to {last} of {name} are missing")
    return torch.cat(pieces) if pieces else None


def _moments(state: _State, name: str, parameter: Tensor) -> dict[str, Tensor]:
    """AdamW's state of one parameter, sharded as the parameter is."""
    moments = {}
    for key in ("exp_avg", "exp_avg_sq"):
        moments[key] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        local(moments[key]).copy_(state.rows(f"optimizer.{name}.{key}", parameter))
    # A fused AdamW keeps its step counter on the parameter's device.
    count = state.rows(f"optimizer.{name}.step", torch.empty(()))
    return {"step": count.to(local(parameter).device), **moments}


def _check(state: _State, wanted: dict[str, torch.Size], source: Path) -> None:
    found = state.shapes
    problems = [f"{name} is missing" for name in wanted if name not in found]
    problems += [f"{name} is unexpected" for name in found if name not in wanted]
    problems += [
        f"{name} has shape {tuple(found[name])} instead of {tuple(shape)}"
        for name, shape in wanted.items()
        if name in found and tuple(found[name]) != tuple(shape)
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(
            f"{source} does not fit this model: {'; '.join(problems[:3])}{more}".replace("model.", "")
            + "; continue with the settings that it was made with, or choose another out=..."
        )


def row_range(tensor: Tensor) -> tuple[int, int]:
    """First row of a tensor that this process holds, and the row after the last; all rows of an ordinary tensor."""
    if not tensor.ndim:
        return 0, 0
    if not _is_sharded(tensor):
        return 0, tensor.shape[0]
    # As torch.chunk divides: all have ceil(rows / processes), the last ones fewer or none.
    mesh: Any = tensor.device_mesh  # type: ignore[attr-defined]
    return _chunk(tensor.shape[0], mesh.get_local_rank(), mesh.size())


def _chunk(rows: int, rank: int, size: int) -> tuple[int, int]:
    share = -(-rows // size)
    return min(rank * share, rows), min((rank + 1) * share, rows)


def _save_shards(directory: Path, tensors: dict[str, Tensor], meta: dict[str, Any], world: World) -> None:
    def prepare() -> None:
        shutil.rmtree(directory, ignore_errors=True)  # what an interrupted attempt left
        directory.mkdir(parents=True)

    def write() -> None:
        own = {
            name: local(value).cpu().contiguous()
            for name, value in tensors.items()
            if (_is_sharded(value) and local(value).numel()) or (not _is_sharded(value) and world.first)
        }
        file = directory / _shard_name(world.rank, world.size)
        write_atomic(file, lambda temporary: save_file(own, temporary))

    world.from_first(prepare)
    try:
        world.together(write)
        layout: dict[str, Any] = {}
        for name, value in tensors.items():
            layout[name] = {"shape": list(value.shape)}
            if _is_sharded(value):
                layout[name]["rows"] = [
                    _chunk(value.shape[0], rank, world.size) for rank in range(world.size)
                ]
        index = {**meta, "shards": world.size, "tensors": layout}
        world.from_first(lambda: write_json(directory / "index.json", index))
    except Exception:
        if world.first:
            shutil.rmtree(directory, ignore_errors=True)
        raise


def _remove_all_but(path: Path, step: int) -> None:
    path.unlink(missing_ok=True)
    for directory in path.parent.glob("state/step-*"):
        if _step_of(directory) != step:
            shutil.rmtree(directory, ignore_errors=True)


def _shard_name(rank: int, count: int) -> str:
    return f"shard-{rank:03d}-of-{count:03d}.safetensors"


def _step_of(directory: Path) -> int:
    return int(directory.name.removeprefix("step-"))


def _is_sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "to_local")


def _trainable(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
