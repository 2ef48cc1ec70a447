"""Pretrain a small encoder on real videos in minutes on a CPU, and see what it has learnt.

`make pretrain-example` fetches packages that ship short videos, and runs this on them; any folder of videos will do.
Each stage is a command of its own. An interrupted example continues when run again.

Example:
    worldmodel example videos=data/example_videos
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.stages import Stage, seconds_of
from worldmodel.atomic import read_json, write_json


@dataclass
class Config:
    """Settings of the example."""

    #: Folder of videos; `make pretrain-example` fills it.
    videos: str = "data/example_videos"
    #: Directory of all stages.
    out: str = "runs/example"
    #: Seed of data, weights and probes.
    seed: int = 0
    #: Training steps; 0: those of configs/recipe/cpu.yaml.
    steps: int = 0


def stages(config: Config) -> list[Stage]:
    """The example's commands, in order."""
    out, seed = config.out, f"seed={config.seed}"
    data = f"data={out}/videos/videos.csv"
    steps = [f"loop.steps={config.steps}"] if config.steps else []
    return [
        Stage("reencode", "Small copies, from which random clips are read fast.", "reencode",
              [f"data={config.videos}", f"out={out}/videos", "height=96"]),
        Stage("index", "What is there, and whether it can be read.", "index", [data, f"out={out}/index"]),
        Stage("pretrain", "V-JEPA, on the first half of each video.", "pretrain",
              [data, "recipe=cpu", *steps, seed, f"out={out}/pretrain"]),
        Stage("energy", "On the second half: whose future follows? Beside the same networks untrained.", "energy",
              [data, f"model={out}/pretrain/model", "control=true", seed, f"out={out}/pretrain/probe-energy"]),
        Stage("probe", "On the second half: how fast is it played? What k-NN and a linear probe read from features.",
              "probe", [data, f"model={out}/pretrain/model", "task=speed", "control=true", seed,
                        f"features={out}/features", f"out={out}/pretrain/probe-speed"]),
        Stage("report", "Curves, features, nearest clips, and the probes.", "report", [f"run={out}/pretrain"]),
    ]  # fmt: skip


def run(config: Config) -> dict[str, Any]:
    """Run the stages that are not done yet; prints a line for each, and returns the probes' results."""
    if not Path(config.videos).expanduser().is_dir():
        raise FileNotFoundError(
            f"no folder {config.videos}; `make pretrain-example` fetches videos, or name your own: videos=FOLDER"
        )
    out = Path(config.out).expanduser()
    rows: list[dict[str, Any]] = []
    for stage in stages(config):
        began = time.monotonic()
        stage.run()
        seconds = seconds_of(out / stage.name) or time.monotonic() - began
        rows.append(
            {"name": stage.name, "what": stage.what, "command": stage.command, "seconds": round(seconds, 1)}
        )
        print(f"{stage.name:10} {seconds:6.1f} s   {stage.what}", flush=True)
    found = {
        stage: read_json(out / "pretrain" / f"probe-{stage}" / "results.json")
        for stage in ("energy", "speed")
    }
    summary = {
        "stages": rows,
        "seconds": sum(row["seconds"] for row in rows),
        "probes": {stage: results["probes"] for stage, results in found.items()},
    }
    write_json(out / "summary.json", summary)
    return {**summary, "results": found, "page": str(out / "pretrain" / "report.html")}


def outcome(result: dict[str, Any]) -> str:
    """What the command says at its end."""
    from worldmodel.evaluation import energy_study, probe_results

    energy = energy_study.table(result["results"]["energy"]["probes"])
    speed = probe_results.table(result["results"]["speed"])
    minutes = result["seconds"] / 60
    return f"\n{energy}\n\n{speed}\n\n{minutes:.1f} minutes in all. Open {result['page']}"


if __name__ == "__main__":
    from experiments.cli import main_for

    raise SystemExit(main_for("example"))
