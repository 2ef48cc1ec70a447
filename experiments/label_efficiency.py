"""What is V-JEPA pretraining good for? Success and few-label probes against the number of action-labelled episodes.

Video is plentiful, actions are not: an encoder may look at all episodes, a world model only at the first so many with
their actions. Each row is three commands of its own (pretrain, train, plan) on held-out tasks that are the same for all
rows; an interrupted experiment continues when run again.

Example:
    worldmodel label_efficiency
    worldmodel label_efficiency worlds=[worldmodel/TwoRoom-Noise-v0] methods=[vjepa,untrained] labels=[10,40]
    worldmodel label_efficiency 'rows=["*Noise*/vjepa_10"]'
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from experiments.label_probes import probe_row
from experiments.label_summary import comparisons_of, controls, pooled, table
from experiments.stages import Stage, seconds_of
from worldmodel.atomic import write_bytes, write_json
from worldmodel.report.label_picture import METHODS, label_picture
from worldmodel.report.theme import LIGHT

#: Whether the encoder is trained together with the rest, from pixels.
FROM_PIXELS = {"vjepa": False, "vjepa_tuned": True, "untrained": False, "end_to_end": True, "transfer": False}


@dataclass
class Config:
    """Settings of the experiment."""

    #: Directory of all rows.
    out: str = "runs/label_efficiency"
    #: Gymnasium ids: by default a world that is clean, and the same one in noise that is new in every frame.
    worlds: list[str] = field(
        default_factory=lambda: ["worldmodel/TwoRoom-v0", "worldmodel/TwoRoom-Noise-v0"]
    )
    #: vjepa, vjepa_tuned, untrained, end_to_end, transfer.
    methods: list[str] = field(default_factory=lambda: ["vjepa", "vjepa_tuned", "untrained", "end_to_end"])
    #: Episodes whose actions a world model sees, the first ones of the video.
    labels: list[int] = field(default_factory=lambda: [10, 20, 100, 1000])
    #: Of data, weights and planning. The held-out tasks are the same for every seed.
    seeds: list[int] = field(default_factory=lambda: [0])
    #: Make now only rows whose names match one of these patterns, such as "TwoRoom-v0/seed_0/vjepa_*"; empty: all. The
    #: table has all rows of the other settings that are finished.
    rows: list[str] = field(default_factory=list)
    #: Episodes of video, without their actions, that pretraining sees.
    episodes: int = 1000
    #: Episodes more, which no training sees, for probes.
    held_out: int = 50
    #: Held-out tasks.
    tasks: int = 100
    #: Frames with known states that a probe is fitted to.
    probe_frames: int = 200
    #: Training steps of V-JEPA.
    pretrain_steps: int = 600
    #: Training steps of head and dynamics on a frozen encoder.
    frozen_steps: int = 1200
    #: Training steps where the encoder is trained with them.
    pixel_steps: int = 400
    #: Peak learning rate of vjepa_tuned.
    tuned_lr: float = 3e-4
    #: For transfer: a model directory that worldmodel pretrain or import made, or the id of another world, whose video
    #: is collected and pretrained on like the world's own.
    transfer_from: str = ""
    #: Settings of the encoder, for pretraining and for encoders that begin with random weights.
    encoder_settings: list[str] = field(default_factory=lambda: ["encoder=tiny"])
    #: Further settings of worldmodel collect, the same for all rows.
    collect: list[str] = field(default_factory=list)
    #: Of worldmodel pretrain: another recipe than its defaults.
    pretrain: list[str] = field(default_factory=list)
    #: Of worldmodel train.
    train: list[str] = field(default_factory=lambda: ["method=lewm_cpu", "window=5", "loop.batch_size=32"])
    #: Of worldmodel plan: two actions of each plan, which takes half as long.
    plan: list[str] = field(default_factory=lambda: ["mpc.execute=2"])

    def __post_init__(self) -> None:
        if unknown := [name for name in self.methods if name not in METHODS]:
            raise ValueError(f"methods has no {', '.join(unknown)}; choose from {', '.join(METHODS)}")
        if ("transfer" in self.methods) != bool(self.transfer_from):
            raise ValueError(
                "methods=[transfer] needs transfer_from=MODEL_DIRECTORY or another world's id, and nothing else does"
            )
        if self.transfer_from and not (
            is_model(self.transfer_from) or re.search(r"-v\d+$", self.transfer_from)
        ):
            raise ValueError(
                f"transfer_from={self.transfer_from} is neither a model directory, which worldmodel pretrain makes, "
                "nor the id of an environment"
            )
        if not (self.worlds and self.methods and self.labels and self.seeds):
            raise ValueError("worlds, methods, labels and seeds need one entry at least")
        if min(self.labels) < 1 or max(self.labels) > self.episodes:
            raise ValueError(
                f"labels={self.labels} must be from 1 to episodes={self.episodes}, the video there is"
            )
        if self.held_out < 2 or self.probe_frames < 2 or self.tasks < 1:
            raise ValueError("held_out and probe_frames must be at least 2, and tasks at least 1")
        if self.rows and not any(wanted(row, self) for row in rows_of(self)):
            names = ", ".join(row.name for row in rows_of(self))
            raise ValueError(f"rows={self.rows} matches no row; the rows are {names}")

    @property
    def share(self) -> str:
        """The setting that holds out as many of all episodes."""
        return f"held_out={self.held_out / (self.episodes + self.held_out):.9g}"


class Row(NamedTuple):
    """One model: where it lives, how its encoder was made, how many actions it saw."""

    world: str
    seed: int
    method: str
    labels: int

    @property
    def name(self) -> str:
        """Its directory below the experiment's."""
        return f"{place_of(self.world, self.seed)}/{self.method}_{self.labels}"


def is_model(path: str) -> bool:
    """Whether a path is a model directory; otherwise it names a world."""
    return (Path(path).expanduser() / "config.json").is_file()


def place_of(world: str, seed: int) -> str:
    """Directory of a world's video and rows below the experiment's."""
    return f"{world.rpartition('/')[2]}/seed_{seed}"


def rows_of(config: Config) -> Iterator[Row]:
    """All rows, the cheap ones of each world and seed first."""
    for world in config.worlds:
        for seed in config.seeds:
            for count in config.labels:
                yield from (Row(world, seed, method, count) for method in config.methods)


def wanted(row: Row, config: Config) -> bool:
    """Whether a row is to be made now."""
    return not config.rows or any(fnmatch(row.name, pattern) for pattern in config.rows)


def stages(config: Config, row: Row) -> list[Stage]:
    """The commands of a row, in order; rows share the first ones."""
    place = place_of(row.world, row.seed)
    found = [collect(config, row.world, row.seed)]
    encoder = ""
    if row.method.startswith("vjepa"):
        found.append(pretrain(config, row.world, row.seed))
        encoder = f"{config.out}/{place}/pretrain/model"
    elif row.method == "transfer":
        encoder = config.transfer_from
        if not is_model(encoder):
            found += [job(config, encoder, row.seed) for job in (collect, pretrain)]
            encoder = f"{config.out}/{place_of(encoder, row.seed)}/pretrain/model"
    # What is typed comes last.
    overrides = [
        f"data={config.out}/{place}/video", f"episodes={row.labels}", config.share,
        *training(config, row.method, encoder), *config.train, f"seed={row.seed}", f"out={config.out}/{row.name}/train",
    ]  # fmt: skip
    plan = play(config, row.world, row.seed, f"{row.name}/plan", f"model={config.out}/{row.name}/train/model")
    what = f"{METHODS[row.method]}: head and dynamics learn from {row.labels} episodes."
    return [*found, Stage(f"{row.name}/train", what, "train", overrides), plan]


def training(config: Config, method: str, encoder: str) -> list[str]:
    """Settings of worldmodel train in which methods differ."""
    if not FROM_PIXELS[method]:
        begin = (
            ["variant=frozen", f"encoder_from={encoder}"]
            if encoder
            else ["variant=untrained", *config.encoder_settings]
        )
        return [*begin, f"loop.steps={config.frozen_steps}"]
    tuned = [f"encoder_from={encoder}", f"loop.lr={config.tuned_lr}"] if encoder else config.encoder_settings
    return ["variant=end_to_end", *tuned, f"loop.steps={config.pixel_steps}"]


def collect(config: Config, world: str, seed: int) -> Stage:
    """A world's video, with what is held out at its end."""
    name, count = f"{place_of(world, seed)}/video", config.episodes + config.held_out
    overrides = [
        f"env={world}",
        f"episodes={count}",
        *config.collect,
        f"seed={seed}",
        f"out={config.out}/{name}",
    ]
    return Stage(name, f"{count} episodes of {world}.", "collect", overrides)


def pretrain(config: Config, world: str, seed: int) -> Stage:
    """V-JEPA on a world's video; it looks at no action."""
    place = place_of(world, seed)
    overrides = [
        f"data={config.out}/{place}/video", config.share, f"loop.steps={config.pretrain_steps}",
        *config.encoder_settings, "report=false", *config.pretrain, f"seed={seed}",
        f"out={config.out}/{place}/pretrain",
    ]  # fmt: skip
    return Stage(f"{place}/pretrain", "V-JEPA learns from the video.", "pretrain", overrides)


def play(config: Config, world: str, seed: int, name: str, agent: str) -> Stage:
    """The held-out tasks."""
    overrides = [agent, f"env={world}", f"tasks={config.tasks}", f"seed={seed}", f"out={config.out}/{name}"]
    return Stage(
        name, "Held-out tasks.", "plan", [*overrides, *(config.plan if agent != "agent=random" else [])]
    )


def run(config: Config) -> dict[str, Any]:
    """Make the rows that are wanted and not there yet, then write summary.json and labels.png of all that are there."""
    out = Path(config.out).expanduser()
    out.mkdir(parents=True, exist_ok=True)
    ran: dict[str, Stage] = {}

    def make(stage: Stage) -> None:
        if stage.name not in ran:
            stage.run()
            ran[stage.name] = stage
            print(f"{stage.name:52} {seconds_of(out / stage.name):6.1f} s", flush=True)

    for row in filter(lambda row: wanted(row, config), rows_of(config)):
        for stage in stages(config, row):
            make(stage)
        make(
            play(
                config,
                row.world,
                config.seeds[0],
                f"{place_of(row.world, config.seeds[0])}/random",
                "agent=random",
            )
        )
        probe_row(
            out / row.name,
            out / place_of(row.world, row.seed) / "video",
            config.held_out,
            config.probe_frames,
        )
    summary = summarise(config, out)
    summary["stages"] = [
        {"name": name, "command": stage.command, "seconds": seconds_of(out / name)}
        for name, stage in ran.items()
    ]
    write_json(out / "summary.json", summary)
    write_bytes(out / "labels.png", label_picture(summary["rows"], summary["worlds"], LIGHT))
    return {**summary, "out": str(out)}


def summarise(config: Config, out: Path) -> dict[str, Any]:
    """Rows that are finished, pooled over seeds, what each world's controls do, and pairs of rows task by task."""
    finished = [row for row in rows_of(config) if (out / row.name / "probe.json").exists()]
    groups: dict[tuple[str, str, int], list[Row]] = {}
    for row in finished:
        groups.setdefault((row.world, row.method, row.labels), []).append(row)
    rows = [
        {
            "world": world,
            "method": method,
            "labels": labels,
            **pooled({row.seed: out / row.name for row in group}),
        }
        for (world, method, labels), group in groups.items()
    ]
    worlds = {}
    for world in dict.fromkeys(row.world for row in finished):
        runs = [out / row.name for row in finished if row.world == world]
        worlds[world] = controls(out / place_of(world, config.seeds[0]) / "random", runs)
    return {"worlds": worlds, "rows": rows, "comparisons": comparisons_of(rows)}


def outcome(summary: dict[str, Any]) -> str:
    """What the command says at its end."""
    out = summary["out"]
    return f"{table(summary)}\n\n{out}/summary.json and {out}/labels.png"


if __name__ == "__main__":
    from experiments.cli import main_for

    raise SystemExit(main_for("label_efficiency"))
