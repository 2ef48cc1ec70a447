"""Compare self-supervised objectives: same data, encoder, steps and probes; one row for each system of the lineage.

A row is a pretraining, probes of frozen features, and measures of them; for some, planning with the learned encoder.
By default data are collected in a small world. Every stage is a command of its own; an interrupted comparison goes on.

Example:
    worldmodel compare_objectives
    worldmodel compare_objectives comparison=ablations
    worldmodel compare_objectives 'rows=[vjepa,byol,untrained]'
    worldmodel compare_objectives data=VIDEOS +labels.action=labels.csv 'encoder_settings=["encoder=small64"]'
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from experiments.compare_objectives_data import write_labelled_clips
from experiments.compare_objectives_rows import (
    UNTRAINED,
    frames_of,
    measure,
    read_row,
    table,
    write_untrained,
)
from experiments.stages import Stage, seconds_of
from experiments.step_cost import measure_cost
from worldmodel.atomic import read_json, write_bytes, write_json
from worldmodel.objectives.lineage import SYSTEMS
from worldmodel.report.objectives_picture import objectives_picture
from worldmodel.report.theme import LIGHT

#: Systems that begin with what another row has learned, and the setting that names it.
BEGINS_WITH = {"hybrid": ("objective.teacher", "simclr"), "beit": ("objective.tokenizer", "tokenizer")}
#: Environment steps from one frame of a clip to the next, in a world.
STRIDE = 2
#: What lies beside the rows.
_FOLDERS = {"video", "labelled", "features"}
#: Settings in which the commands that make one comparison may differ: which rows there are, and are wanted.
_MAY_DIFFER = ("out", "systems", "variants", "rows", "plan", "labels")


@dataclass
class Config:
    """Settings of the comparison."""

    #: Directory of all rows.
    out: str = "runs/compare_objectives"
    #: Rows that are a system each: options of objective=, see worldmodel objectives.
    systems: list[str] = field(default_factory=lambda: [row.name for row in SYSTEMS if row.option])
    #: Further rows, with the settings of worldmodel pretrain that make them: +variants.NAME=["objective=vjepa"]
    variants: dict[str, list[str]] = field(default_factory=dict)
    #: Make now only rows whose names match one of these patterns; empty: all. The table has all that are finished.
    rows: list[str] = field(default_factory=list)
    #: Rows, where there are such, whose encoder is planned with in env: the world model learns on it, frozen, from a
    #: few episodes.
    plan: list[str] = field(default_factory=lambda: [UNTRAINED, "vjepa", "byol", "videomae"])
    #: Of data, weights and probes.
    seed: int = 0
    #: Training steps of every row.
    steps: int = 300
    #: What is pretrained on: videos, or a dataset of worldmodel collect. Empty: episodes of env.
    data: str = ""
    #: With data: what is probed, a CSV file path,label[,split] for each name: +labels.NAME=FILE.csv
    labels: dict[str, str] = field(default_factory=dict)
    #: The world whose episodes are collected, and which is planned in.
    env: str = "worldmodel/TwoRoom-v0"
    #: Episodes to collect.
    episodes: int = 900
    #: Episodes more, which no pretraining sees: clips of them are labelled.
    held_out: int = 100
    #: Labelled clips of each of these.
    clips: int = 8
    #: Settings of worldmodel pretrain that all rows share: the encoder,
    encoder_settings: list[str] = field(default_factory=lambda: ["encoder=tiny", "encoder.frames=4"])
    #: and how it is trained.
    pretrain_settings: list[str] = field(default_factory=lambda: ["loop.batch_size=32"])
    #: Of worldmodel probe. One setting of each head, for all rows.
    probe_settings: list[str] = field(
        default_factory=lambda: [
            "probe=all", "probe.linear.lrs=[0.01]", "probe.linear.weight_decays=[0.001]",
            "probe.attentive.standardise=true", "probe.attentive_training.lrs=[0.001]",
            "probe.attentive_training.weight_decays=[0.01]", "probe.attentive_training.epochs=40",
        ]
    )  # fmt: skip
    #: Of worldmodel train, for rows that are planned with: with many episodes, all reach nearly all goals.
    train_settings: list[str] = field(
        default_factory=lambda: [
            "episodes=20",
            "method=lewm_cpu",
            "window=5",
            "loop.batch_size=32",
            "loop.steps=1200",
        ]
    )
    #: Of worldmodel plan.
    plan_settings: list[str] = field(default_factory=lambda: ["tasks=100", "mpc.execute=2"])

    def __post_init__(self) -> None:
        known = [row.name for row in SYSTEMS if row.option]
        if unknown := [name for name in self.systems if name not in known]:
            raise ValueError(
                f"systems has no {', '.join(unknown)}; choose from {', '.join(known)}, or name settings in variants"
            )
        if twice := {UNTRAINED, *self.systems} & self.variants.keys():
            raise ValueError(
                f"variants {', '.join(sorted(twice))} are rows already; call them something else"
            )
        names = [UNTRAINED, *self.systems, *self.variants]
        if taken := _FOLDERS & self.variants.keys():
            raise ValueError(
                f"variants {', '.join(sorted(taken))} are folders of out=...; call them something else"
            )
        if bool(self.data) != bool(self.labels):
            raise ValueError("data=... and +labels.NAME=FILE.csv go together; without both, env is collected")
        if self.data:
            self.plan = []  # there is no world to plan in
        if unknown := [name for name in self.plan if name not in {*names, *known}]:
            raise ValueError(f"plan={unknown} are no rows; choose from {', '.join(names)}")
        if self.rows and not any(fnmatch(name, pattern) for name in names for pattern in self.rows):
            raise ValueError(f"rows={self.rows} matches no row; the rows are {', '.join(names)}")
        if min(self.steps, self.episodes, self.clips) < 1 or self.held_out < 2:
            raise ValueError("steps, episodes and clips must be at least 1, held_out at least 2")

    @property
    def settings(self) -> dict[str, list[str]]:
        """What tells rows apart, in the table's order."""
        systems = {name: [f"objective={name}"] for name in self.systems}
        return {UNTRAINED: [], **systems, **self.variants}

    @property
    def share(self) -> str:
        """The setting that holds out as many of all episodes."""
        return f"held_out={self.held_out / (self.episodes + self.held_out):.9g}"


def pretraining(config: Config, name: str) -> Stage:
    """How the encoder of a row is made. What is typed comes last."""
    data = (
        [f"data={config.data}"]
        if config.data
        else [f"data={config.out}/video", config.share, f"stride={STRIDE}"]
    )
    own = config.settings.get(name, [f"objective={name}"])
    if name in BEGINS_WITH:
        key, row = BEGINS_WITH[name]
        own = [*own, f"{key}={config.out}/{row}/pretrain/model"]
    overrides = [
        *data, f"loop.steps={config.steps}", *config.encoder_settings, "report=false", *own, *config.pretrain_settings,
        f"seed={config.seed}", f"out={config.out}/{name}/pretrain",
    ]  # fmt: skip
    return Stage(f"{name}/pretrain", "learns", "pretrain", overrides)


def probing(config: Config, name: str) -> Iterator[Stage]:
    """A probe for each kind of label."""
    for label, file in labels_of(config).items():
        views = [] if config.data else ["views.resize=1", f"views.stride={STRIDE}"]
        overrides = [
            f"model={config.out}/{name}/pretrain/model", f"data={file}", *views, *config.probe_settings,
            f"seed={config.seed}", f"features={config.out}/features", f"out={config.out}/{name}/probe_{label}",
        ]  # fmt: skip
        yield Stage(f"{name}/probe_{label}", f"probes of {label}", "probe", overrides)


def planning(config: Config, name: str) -> Iterator[Stage]:
    """A world model on the frozen encoder, and held-out tasks."""
    out, seed = f"{config.out}/{name}", f"seed={config.seed}"
    learned = [
        f"data={config.out}/video",
        config.share,
        "variant=frozen",
        f"encoder_from={out}/pretrain/model",
        "encoder_weights=auto",
    ]
    yield Stage(
        f"{name}/train",
        "head and dynamics",
        "train",
        [*learned, *config.train_settings, seed, f"out={out}/train"],
    )
    played = [f"model={out}/train/model", f"env={config.env}"]
    yield Stage(
        f"{name}/plan", "held-out tasks", "plan", [*played, *config.plan_settings, seed, f"out={out}/plan"]
    )


def labels_of(config: Config) -> dict[str, str]:
    """The labelled lists by name."""
    return config.labels or {name: f"{config.out}/labelled/{name}.csv" for name in ("place", "motion")}


def run(config: Config) -> dict[str, Any]:
    """Make the rows that are wanted and not there yet; write summary.json and objectives.png of all that are there."""
    out = Path(config.out).expanduser()
    out.mkdir(parents=True, exist_ok=True)
    check_shared(config, out)
    if not config.data:
        overrides = [
            f"env={config.env}",
            f"episodes={config.episodes + config.held_out}",
            f"seed={config.seed}",
        ]
        Stage("video", "episodes", "collect", [*overrides, f"out={config.out}/video"]).run()
        length = STRIDE * (frames_of(pretraining(config, "vjepa")) - 1) + 1
        write_labelled_clips(
            out / "labelled", out / "video", config.held_out, config.clips, length, config.seed
        )
    names = list(config.settings)
    wanted = [name for name in names if any(fnmatch(name, pattern) for pattern in config.rows or ["*"])]
    making = list(dict.fromkeys([UNTRAINED, *wanted]))
    for position, name in enumerate(making, start=1):
        make_row(config, out, name)
        spent = sum(seconds_of(path) for path in (out / name).iterdir() if path.is_dir())
        print(f"{position:3} of {len(making)}   {name:24} {spent:6.1f} s", flush=True)
    finished = [name for name in names if is_finished(config, out, name)]
    rows = [read_row(out, name, labels_of(config)) for name in finished]
    commands = {name: pretraining(config, name).command for name in finished if name != UNTRAINED}
    labels = list(labels_of(config))
    summary = {"rows": rows, "labels": labels, "steps": config.steps, "commands": commands}
    write_json(out / "summary.json", summary)
    write_bytes(out / "objectives.png", objectives_picture(rows, labels, LIGHT))
    return {**summary, "out": str(out)}


def check_shared(config: Config, out: Path) -> None:
    """See that all rows in ``out`` are made alike: what they share is written down with the first ones.

    Else rows of other lengths would stand side by side, or clips that are labelled already be trained on.

    Raises:
        ValueError: A setting has another value than for the rows that are there.
    """
    shared = {key: value for key, value in asdict(config).items() if key not in _MAY_DIFFER}
    file = out / "shared.json"
    if not file.exists():
        write_json(file, shared)
    there = read_json(file)
    for key, value in shared.items():
        if there.get(key) != value:
            raise ValueError(
                f"{out} has rows with {key}={there.get(key)}, not {value}; choose another out=... or delete it"
            )


def is_finished(config: Config, out: Path, name: str) -> bool:
    """Whether a row can stand in the table: it is measured, and all labels are probed."""
    probed = (out / name / f"probe_{label}" / "done.json" for label in labels_of(config))
    return (out / name / "measures.json").exists() and all(file.exists() for file in probed)


def make_row(config: Config, out: Path, name: str) -> None:
    """All stages of a row; what is there is not made again."""
    if name in BEGINS_WITH:
        pretraining(config, BEGINS_WITH[name][1]).run()
    if name == UNTRAINED:
        write_untrained(pretraining(config, "vjepa"), out / name / "pretrain" / "model")
    else:
        training = pretraining(config, name)
        training.run()
        measure_cost(training, out / name / "cost.json")
    for stage in probing(config, name):
        stage.run()
    measure(out / name, next(probing(config, name)))
    for stage in planning(config, name) if name in config.plan else ():
        stage.run()


def outcome(summary: dict[str, Any]) -> str:
    """What the command says at its end."""
    out = summary["out"]
    return f"{table(summary['rows'], summary['labels'])}\n\n{out}/summary.json and {out}/objectives.png"


if __name__ == "__main__":
    from experiments.cli import main_for

    raise SystemExit(main_for("compare_objectives"))
