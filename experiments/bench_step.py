"""Whole training steps of V-JEPA, with and without torch.compile: clips/s, peak memory, model-FLOPs utilisation.

Part of `worldmodel bench what=[step]`. A step is the training loop's own: target encoder, then for each of V-JEPA's two
masks context encoder and predictor, loss, backward pass, gradient norm, AdamW, EMA. The clips are random and lie on the
device already, so no data loading is in it.

Model-FLOPs utilisation is clips/s x operations per clip / peak. The operations are those of `training_flops`: matrix
products only, a backward pass as two forward passes, nothing that activation checkpointing computes again. The peak is
the maker's dense bf16 figure where the GPU is known and bf16 is measured, else the rate of a large matrix product that
is measured on the spot.
"""

from __future__ import annotations

import gc
import math
import re
import resource
import sys
import time
from dataclasses import dataclass, replace
from statistics import median

import torch

from experiments.bench_upstream import MASKS, matmul_rate
from worldmodel.masks import draw_masks
from worldmodel.models.flops import training_flops
from worldmodel.models.masked_predictor import MaskedPredictorConfig
from worldmodel.models.video_encoder import VideoEncoder, VideoEncoderConfig
from worldmodel.objectives.base import Batch
from worldmodel.objectives.build import build_objective
from worldmodel.objectives.masked_latent import MaskedLatentConfig
from worldmodel.training.loop import LoopConfig, make_optimizer, train_step
from worldmodel.training.parallel import spread

#: Dense bf16 tensor operations per second, in TFLOP/s, by words in the device's name; the first that fits counts.
#: From the makers' data sheets, which print twice as much, "with sparsity", for most of them.
PEAKS = (
    ("H100 PCIe", 756.0),
    ("H100 NVL", 835.5),
    ("H100", 989.4),
    ("H200 NVL", 835.5),
    ("H200", 989.4),
    ("GH200", 989.4),
    ("B200", 2250.0),
    ("A100", 312.0),
    ("L40S", 362.0),
    ("L4", 121.0),
)
WARM_UP = 3


@dataclass(frozen=True)
class StepBench:
    """What is measured.

    Attributes:
        batch_size: Clips per step.
        device: cpu or cuda.
        precision: fp32, or bf16 (autocast, weights in float32).
        repeats: Timed steps, after a few that warm up.
        compile: Measure with torch.compile as well.
        peak_tflops: The peak that utilisation is counted against; 0: see the module.
    """

    encoder: VideoEncoderConfig
    predictor: MaskedPredictorConfig
    batch_size: int
    device: str
    precision: str
    repeats: int
    compile: bool = True
    peak_tflops: float = 0.0


def measure(bench: StepBench) -> dict[str, float]:
    """Time the steps without, then with compilation.

    Raises:
        ValueError: The batch does not fit into memory, or a loss is not finite.
    """
    try:
        batch = _batch(bench)
        counts = [(mask.context.shape[1], mask.target.shape[1]) for mask in batch.masks]
        flops = training_flops(bench.encoder, bench.predictor, counts)
        peak, source = _peak(bench)
        figures = {"step: GFLOP of the model per clip": flops / 1e9, f"step: peak TFLOP/s, {source}": peak}
        for compiled in (False, True) if bench.compile else (False,):
            figures |= _variant(bench, batch, compiled, flops, peak)
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        raise ValueError(
            f"batch_size={bench.batch_size} does not fit into the memory of {device_name(bench.device)}; choose a "
            "smaller batch_size, or encoder.checkpoint_blocks=true predictor.checkpoint_blocks=true"
        ) from error
    return figures


def stated_peak(name: str) -> float | None:
    """The maker's dense bf16 figure for a device's name, in TFLOP/s; None where it is not known.

    A MIG instance is a part of a GPU, which that figure does not tell of.
    """
    words = re.split(r"[\s-]+", name)
    if "MIG" in words:
        return None
    return next((peak for key, peak in PEAKS if set(key.split()) <= set(words)), None)


def device_name(device: str) -> str:
    """What the device calls itself."""
    if device != "cuda":
        return "this CPU"
    size = torch.cuda.get_device_properties(0).total_memory / 2**30
    return f"{torch.cuda.get_device_name(0)} ({size:.0f} GiB)"


def _batch(bench: StepBench) -> Batch:
    size, ids = bench.encoder, range(bench.batch_size)
    shape = (bench.batch_size, size.frames, 3, size.image_size, size.image_size)
    torch.manual_seed(0)
    clip = torch.randint(0, 256, shape, dtype=torch.uint8, device=bench.device)
    return Batch(0, ids, (clip,), draw_masks(MASKS, size.grid, 0, ids)).to(bench.device)


def _peak(bench: StepBench) -> tuple[float, str]:
    if bench.peak_tflops:
        return bench.peak_tflops, "as given"
    if bench.device == "cuda" and bench.precision == "bf16":
        name = torch.cuda.get_device_name(0)
        stated = stated_peak(name)
        if stated is not None:
            return stated, f"bf16 of {name}"
    grid = bench.encoder.grid
    tokens = bench.batch_size * grid.steps * grid.rows * grid.columns
    rate = matmul_rate(bench.encoder.width, tokens, bench.device, bench.precision)
    return rate / 1e12, f"matmul measured in {bench.precision}"


def _variant(bench: StepBench, batch: Batch, compiled: bool, flops: int, peak: float) -> dict[str, float]:
    gc.collect()  # of the last variant
    if bench.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    first, seconds = _step_seconds(bench, batch, compiled)
    rate = bench.batch_size / median(seconds)
    name = "step, compiled" if compiled else "step, eager"
    kind, memory = _peak_memory(bench.device)
    figures = {
        f"{name}: clips/s": rate,
        f"{name}: seconds per step": median(seconds),
        f"{name}: seconds of the first step": first,
        f"{name}: {kind}, GiB": memory,
        f"{name}: TFLOP/s": rate * flops / 1e12,
        f"{name}: model-FLOPs utilisation, %": 100 * rate * flops / 1e12 / peak,
    }
    return figures


def _step_seconds(bench: StepBench, batch: Batch, compiled: bool) -> tuple[float, list[float]]:
    """Seconds of the first step, and of each of the timed ones.

    On a GPU they lie between events in its stream, which are read in the end: nothing waits but what `train_step`
    itself waits for.
    """
    torch.manual_seed(0)
    objective = build_objective(MaskedLatentConfig(), VideoEncoder(bench.encoder), bench.predictor)
    config = LoopConfig(
        steps=WARM_UP + bench.repeats, batch_size=bench.batch_size, lr=1e-4, precision=bench.precision
    )
    replica = spread(objective.to(bench.device), config.strategy, compiled)
    optimizer = make_optimizer(replica.objective, config)
    replica.objective.train()
    on_gpu = bench.device == "cuda"
    marks: list[float] = []
    events: list[torch.cuda.Event] = []
    began = time.perf_counter()
    first = 0.0
    for step in range(config.steps):
        values = train_step(replica, optimizer, replace(batch, step=step), config)
        if not math.isfinite(values["loss"] + values["grad_norm"]):
            # Then the optimiser is left out, and the step looks faster than it is.
            raise ValueError(f"the loss of random clips is not finite at step {step}: {values}")
        if step == 0:
            if on_gpu:
                torch.cuda.synchronize()
            first = time.perf_counter() - began
        if step >= WARM_UP - 1:
            if on_gpu:
                event = torch.cuda.Event(enable_timing=True)
                event.record()
                events.append(event)
            else:
                marks.append(time.perf_counter())
    if on_gpu:
        torch.cuda.synchronize()
        marks = [events[0].elapsed_time(event) / 1000 for event in events]
    return first, [after - before for before, after in zip(marks, marks[1:], strict=False)]


def _peak_memory(device: str) -> tuple[str, float]:
    """What is measured, and GiB of it. A process's memory on a CPU is its largest ever, of all that it has done."""
    if device == "cuda":
        return "peak of allocated GPU memory", torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return "max RSS of the process", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def _out_of_memory(error: BaseException) -> bool:
    # Compilers and cuBLAS wrap it in errors of their own.
    texts = ("CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "DefaultCPUAllocator")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        text in str(error) for text in texts
    )
