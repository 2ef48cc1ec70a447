"""Measure speed on this machine: frames collected, clips pretrained, plans, windows loaded, latents cached.

Example:
    worldmodel bench
    worldmodel bench what=[plan] threads=1
    worldmodel bench what=[plan] plan.predictor=lewm planner.samples=300 planner.iterations=10 planner.horizon=5
    worldmodel bench what=[collect,load] against=[stable-worldmodel] peer_python=other/venv/bin/python
    worldmodel bench what=[cache] batch_size=128
    worldmodel bench what=[search] search.suites=[reacher] threads=1
    worldmodel bench what=[decide] decide.world=reacher decide.model=runs/reproduce/reacher/train_seed0/model
    worldmodel bench what=[step] encoder=vit_large predictor=vjepa2 batch_size=24 precision=bf16 device=cuda
    worldmodel bench what=[upstream] upstream=vjepa2 encoder=vit_tiny predictor=small batch_size=2
"""

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import MISSING

from envs.world import describe
from experiments import bench_collect, bench_decide, bench_load, bench_plan, bench_pretrain, bench_search
from experiments.agents import latent_agent
from experiments.bench_collect import CollectBench, store_episodes
from experiments.bench_decide import DecideBench
from experiments.bench_load import CODECS, PEER_FORMATS, PEERS, LoadBench
from experiments.bench_plan import PlanBench, median_seconds
from experiments.bench_search import SearchBench
from experiments.bench_step import StepBench, measure
from experiments.bench_upstream import compare
from planners.costs import GoalCostConfig
from planners.mpc import MPCConfig
from planners.registry import PLANNERS
from worldmodel.atomic import write_json
from worldmodel.data.episodes import EpisodeStore
from worldmodel.models.masked_predictor import MaskedPredictorConfig
from worldmodel.models.video_encoder import VideoEncoderConfig
from worldmodel.models.world_model import ActionSpec, WorldModel, WorldModelConfig
from worldmodel.training.machine import choose_device

SCHEMAS = {f"planner/{kind}": found[0] for kind, found in PLANNERS.items()}


@dataclass
class Config:
    """Settings of a benchmark."""

    #: Which of collect, pretrain, plan, load (windows of episodes), cache (a frozen encoder's tokens), step (training
    #: steps: memory, utilisation), upstream, search (what parts of a search bring) and decide (seconds per decision
    #: beside goals reached) to measure.
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
    #: Other libraries to measure in the same run: for collect and load stable-worldmodel, for plan also torch-world,
    #: for decide torch-world alone.
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
    decide: DecideBench = field(default_factory=DecideBench)

    def __post_init__(self) -> None:
        if set(self.what) - set(_BENCHES) or not self.what:
            raise ValueError(f"what={self.what}: choose some of {', '.join(_BENCHES)}")
        if "upstream" in self.what and not self.upstream:
            raise ValueError("what=[upstream] needs a checkout of facebookresearch/vjepa2: upstream=PATH")
        peers = {"plan": bench_plan.PEERS, "decide": bench_decide.PEERS}.get("".join(self.what), PEERS)
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
    out = _out_file(config.out)
    results: dict[str, Any] = {"threads": torch.get_num_threads(), "torch": torch.__version__}
    for name in config.what:
        for row, value in _BENCHES[name](config).items():
            results[row] = value
            if name != "search":  # its table has been printed as it came
                print(f"{row:64} {_figure(value):>10}", flush=True)
    if out:
        write_json(out, results)
    return results


def bench_collecting(config: Config) -> dict[str, float]:
    """Frames per second that end up in an episode store; see `experiments.bench_collect`."""
    return bench_collect.measure(
        CollectBench(config.env, config.episodes, config.workers, tuple(config.against), config.peer_python)
    )


def bench_pretraining(config: Config) -> dict[str, float]:
    """Clips per second of whole V-JEPA training steps; see `experiments.bench_pretrain`."""
    return bench_pretrain.measure(
        config.encoder, config.predictor, config.batch_size, config.device, config.repeats
    )


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
        seconds = median_seconds(lambda agent=agent, count=count: agent.act(frames[:count]), config.repeats)  # type: ignore[misc]
        figures[f"plan: ms per decision, {count} environments"] = 1000 * seconds / count
    return figures | bench_plan.measure(config.plan, config.planner, config.repeats, config.device)


def bench_deciding(config: Config) -> dict[str, float]:
    """Seconds per decision where goals are reached; see `experiments.bench_decide`."""
    return bench_decide.measure(config.decide, config.against, config.peer_python)


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


def _out_file(out: str) -> Path | None:
    """Where the results go, in a directory that exists then: what fails would otherwise fail after minutes of work."""
    if not out:
        return None
    path = Path(out).expanduser()
    if path.is_dir():
        raise ValueError(f"out={out} is a directory; name a file in it: out={path / 'bench.json'}")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _figure(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.3g}"


_BENCHES = {
    "collect": bench_collecting,
    "pretrain": bench_pretraining,
    "plan": bench_planning,
    "load": bench_loading,
    "cache": bench_cache,
    "step": bench_step,
    "upstream": bench_upstream,
    "search": lambda config: bench_search.measure(config.search),
    "decide": bench_deciding,
}

if __name__ == "__main__":
    from experiments.cli import main_for

    raise SystemExit(main_for("bench"))
