"""Measure speed on this machine: frames collected, clips pretrained, plans, windows loaded, latents cached.

Example:
    worldmodel bench
    worldmodel bench what=[plan] threads=1
    worldmodel bench what=[plan] plan.predictor=lewm planner.samples=300 planner.iterations=10 planner.horizon=5
    worldmodel bench what=[collect,load] against=[stable-worldmodel] peer_python=other/venv/bin/python
    worldmodel bench what=[cache] batch_size=128
    worldmodel bench what=[search] search.suites=[reacher] threads=1
    worldmodel bench what=[step] encoder=vit_large predictor=vjepa2 batch_size=24 precision=bf16 device=cuda
    worldmodel bench what=[upstream] upstream=vjepa2 encoder=vit_tiny predictor=small batch_size=2
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import MISSING

from envs.world import describe
from experiments import bench_collect, bench_load, bench_plan, bench_search
from experiments.agents import latent_agent
from experiments.bench_collect import CollectBench, store_episodes
from experiments.bench_load import CODECS, PEER_FORMATS, PEERS, LoadBench
from experiments.bench_plan import PlanBench
from experiments.bench_search import SearchBench
from experiments.bench_step import StepBench, measure
from experiments.bench_upstream import compare
from planners.costs import GoalCostConfig
from planners.mpc import MPCConfig
from planners.registry import PLANNERS
from worldmodel.atomic import write_json
from worldmodel.data.episodes import EpisodeStore
from worldmodel.masks import MaskConfig, draw_masks
from worldmodel.models.masked_predictor import MaskedPredictor, MaskedPredictorConfig
from worldmodel.models.video_encoder import VideoEncoder, VideoEncoderConfig
from worldmodel.models.world_model import ActionSpec, WorldModel, WorldModelConfig
from worldmodel.objectives.base import Batch
from worldmodel.objectives.masked_latent import MaskedLatentConfig, MaskedLatentPrediction
from worldmodel.training.loop import LoopConfig, make_optimizer, train_step
from worldmodel.training.machine import choose_device

SCHEMAS = {f"planner/{kind}": found[0] for kind, found in PLANNERS.items()}


@dataclass
class Config:
    """Settings of a benchmark."""

    #: Which of collect, pretrain, plan, load (windows of episodes), cache (a frozen encoder's tokens), step (training
    #: steps: memory, utilisation), upstream and search (what parts of a search bring) to measure.
    what: list[str] = field(default_factory=lambda: ["collect", "pretrain", "plan"])
    #: Gymnasium id of the environment.
    env: str = "worldmodel/TwoRoom-v0"
    #: Processes that collect; threads that load.
    workers: int = 2
    #: Episodes of 40 steps to collect.
    episodes: int = 300
    #: Clips, or windows, per training step.
    batch_size: int = 32
    #: For load and cache: frames of a window; 0: 16 for load, 5 for cache.
    window_frames: int = 0
    #: For load: which formats, of ours (raw, jpeg, mp4) and of stable-worldmodel (hdf5, lance, folder, video).
    formats: list[str] = field(default_factory=lambda: [*CODECS, *PEER_FORMATS])
    #: Other libraries to measure in the same run: for collect and load stable-worldmodel, for plan also torch-world.
    against: list[str] = field(default_factory=list)
    #: Python of the environment in which those are installed; empty: this one.
    peer_python: str = ""
    #: auto, cpu or cuda.
    device: str = "cpu"
    #: torch threads; 0: as many as torch finds cores.
    threads: int = 0
    #: Repetitions of what is timed; the median counts.
    repeats: int = 20
    #: For upstream, training steps against V-JEPA 2's own modules: a checkout of facebookresearch/vjepa2.
    upstream: str = ""
    #: For step and upstream: fp32 or bf16.
    precision: str = "fp32"
    #: For step: measure with torch.compile as well.
    compile: bool = True
    #: For step: TFLOP/s that utilisation is counted against; 0: the maker's bf16 figure, or a measured matrix product.
    peak_tflops: float = 0.0
    #: JSON file for the results; empty: none.
    out: str = ""
    encoder: VideoEncoderConfig = field(default_factory=VideoEncoderConfig)
    predictor: MaskedPredictorConfig = field(default_factory=MaskedPredictorConfig)
    planner: Any = MISSING
    plan: PlanBench = field(default_factory=PlanBench)
    search: SearchBench = field(default_factory=SearchBench)

    def __post_init__(self) -> None:
        known = ("collect", "pretrain", "plan", "load", "cache", "step", "upstream", "search")
        if set(self.what) - set(known) or not self.what:
            raise ValueError(f"what={self.what}: choose some of {', '.join(known)}")
        if "upstream" in self.what and not self.upstream:
            raise ValueError("what=[upstream] needs a checkout of facebookresearch/vjepa2: upstream=PATH")
        peers = bench_plan.PEERS if self.what == ["plan"] else PEERS
        if set(self.against) - set(peers):
            raise ValueError(
                f"against={self.against}: for what={self.what} choose some of {', '.join(peers)}"
            )
        if set(self.formats) - {*CODECS, *PEER_FORMATS}:
            raise ValueError(f"formats={self.formats}: choose some of {', '.join((*CODECS, *PEER_FORMATS))}")
        if self.window_frames < 0 or self.window_frames == 1:
            raise ValueError(
                f"window_frames={self.window_frames} must be at least 2, or 0 for the usual ones"
            )
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"precision={self.precision!r} is unknown; choose fp32 or bf16")
        if min(self.batch_size, self.repeats) < 1 or self.peak_tflops < 0:
            raise ValueError("batch_size and repeats must be at least 1, and peak_tflops not negative")


def run(config: Config) -> dict[str, Any]:
    """Measure, print a table, and return the figures."""
    config = replace(config, device=choose_device(config.device))
    if config.threads:
        torch.set_num_threads(config.threads)
    benches = {
        "collect": bench_collecting,
        "pretrain": bench_pretrain,
        "plan": bench_planning,
        "load": bench_loading,
        "cache": bench_cache,
        "step": bench_step,
        "upstream": bench_upstream,
        "search": lambda config: bench_search.measure(config.search),
    }
    results: dict[str, Any] = {"threads": torch.get_num_threads(), "torch": torch.__version__}
    for name in config.what:
        for row, value in benches[name](config).items():
            results[row] = value
            if name != "search":  # its table has been printed as it came
                print(f"{row:64} {_figure(value):>10}", flush=True)
    if config.out:
        write_json(Path(config.out), results)
    return results


def bench_collecting(config: Config) -> dict[str, float]:
    """Frames per second that end up in an episode store; see `experiments.bench_collect`."""
    return bench_collect.measure(
        CollectBench(config.env, config.episodes, config.workers, tuple(config.against), config.peer_python)
    )


def bench_pretrain(config: Config) -> dict[str, float]:
    """Clips per second of whole V-JEPA training steps."""
    size = config.encoder
    torch.manual_seed(0)
    clip = torch.randint(
        0, 256, (config.batch_size, size.frames, 3, size.image_size, size.image_size), dtype=torch.uint8
    )
    masks = draw_masks({"random_tube": MaskConfig()}, size.grid, 0, range(config.batch_size))
    batch = Batch(0, range(config.batch_size), (clip,), masks).to(config.device)
    figures = {}
    for precision in ("fp32", "bf16"):
        encoder = VideoEncoder(size)
        predictor = MaskedPredictor(config.predictor, encoder.grid, encoder.width)
        objective = MaskedLatentPrediction(encoder, predictor, MaskedLatentConfig()).to(config.device)
        loop = LoopConfig(precision=precision)
        optimizer = make_optimizer(objective, loop)

        def step(objective=objective, optimizer=optimizer, loop=loop) -> None:  # type: ignore[no-untyped-def]
            train_step(objective, optimizer, batch, loop)

        figures[f"pretrain: clips/s, {precision}"] = config.batch_size / _median_seconds(step, config.repeats)
    return figures


def bench_planning(config: Config) -> dict[str, float]:
    """Milliseconds per decision of the latent MPC agent: encode a frame, plan, one environment's share; and solves.

    Of the latter, and of other libraries', see `experiments.bench_plan`.
    """
    figures: dict[str, float] = {}
    for peer in config.against:
        figures |= bench_plan.measure_peer(
            peer, config.peer_python, config.plan, config.planner, config.repeats
        )
    if figures:
        return figures
    spec = describe(config.env)
    model = _world_model(config).eval()
    frames = torch.randint(0, 256, (8, *spec["frame_shape"]), dtype=torch.uint8)
    for count in (1, 8):
        agent = latent_agent(model, config.planner, GoalCostConfig(), MPCConfig(), config.device)
        agent.reset(frames[:count], range(count))
        seconds = _median_seconds(lambda agent=agent, count=count: agent.act(frames[:count]), config.repeats)  # type: ignore[misc]
        figures[f"plan: ms per decision, {count} environments"] = 1000 * seconds / count
    return figures | bench_plan.measure(config.plan, config.planner, config.repeats, config.device)


def bench_loading(config: Config) -> dict[str, float]:
    """Windows of episodes loaded per second; see `experiments.bench_load`."""
    with tempfile.TemporaryDirectory() as folder:
        bench = LoadBench(
            config.window_frames or 16,
            config.batch_size,
            config.workers,
            config.repeats,
            tuple(config.formats),
            tuple(config.against),
            config.peer_python,
        )
        return bench_load.measure(_collect(config, folder), bench, Path(folder))


def bench_cache(config: Config) -> dict[str, float]:
    """Epochs of a world model's training with and without cached tokens; see `experiments.bench_load`."""
    with tempfile.TemporaryDirectory() as folder:
        store = _collect(config, folder)
        torch.manual_seed(0)
        window = (config.window_frames or 5) - 1
        return bench_load.measure_cache(
            _world_model(config),
            store,
            window,
            config.batch_size,
            config.repeats,
            config.device,
            Path(folder),
        )


def bench_step(config: Config) -> dict[str, float]:
    """Training steps with memory and utilisation; see `experiments.bench_step`."""
    return measure(
        StepBench(
            config.encoder,
            config.predictor,
            config.batch_size,
            config.device,
            config.precision,
            config.repeats,
            config.compile,
            config.peak_tflops,
        )
    )


def bench_upstream(config: Config) -> dict[str, float]:
    """Training steps against V-JEPA 2's own modules; see `experiments.bench_upstream`."""
    return compare(
        config.upstream,
        config.encoder,
        config.predictor,
        config.batch_size,
        config.device,
        config.precision,
        config.repeats,
    )


def _collect(config: Config, folder: str) -> EpisodeStore:
    return store_episodes(Path(folder) / "data", config.env, config.episodes, config.workers)


def _world_model(config: Config) -> WorldModel:
    spec = describe(config.env)
    ones = [1.0] * len(spec["action_low"])
    actions = ActionSpec(
        spec["action_low"], spec["action_high"], config.planner.action_block, [0.0] * len(ones), ones
    )
    return WorldModel(WorldModelConfig(encoder=config.encoder, actions=actions))


def _figure(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def _median_seconds(work: Callable[[], Any], repeats: int) -> float:
    times = []
    for _ in range(repeats + 3):
        began = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return sorted(times[3:])[repeats // 2]


if __name__ == "__main__":
    from experiments.cli import main_for

    raise SystemExit(main_for("bench"))
