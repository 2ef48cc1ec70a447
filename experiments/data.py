"""Look at a dataset, check it, or convert it from and to other formats.

Example:
    worldmodel data info data/two_room
    worldmodel data check data/two_room
    worldmodel data convert recordings/arm to=data/arm codec=jpeg:95 size=64
"""

from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from worldmodel.data.episode_check import Finding, check_episodes, check_rest, describe_store
from worldmodel.data.episodes import EpisodeStore
from worldmodel.data.formats import ImportOptions, detect, open_reader, open_writer
from worldmodel.data.formats.convert import Converted, convert

#: `worldmodel data info PATH` stands for `worldmodel data action=info data=PATH`.
POSITIONAL = ("action", "data")
SHOWN = 20  # findings that are listed; there may be more


@dataclass
class Config:
    """What is to be done, with which dataset."""

    #: info (a table), check (every file and number) or convert.
    action: str = "info"
    #: The dataset, in any of the formats.
    data: str = "???"
    #: What convert makes: a folder, or a file for HDF5.
    to: str = ""
    #: Format of it: episodes (our own), lerobot, minari, robomimic, columns or folder.
    format: str = "episodes"
    #: How its frames are stored: raw, jpeg:QUALITY, mp4:CRF:GOP; empty: as usual for the format.
    codec: str = ""
    #: What becomes of a dataset that is there: create (fail), resume, append or overwrite.
    mode: str = "resume"
    #: Cut pictures to the square in their middle, of this side; 0: as they are.
    size: int = 0
    #: Episodes with fewer steps are an error.
    min_steps: int = 1
    #: Leave out episodes that cannot be read or are too short, instead of failing.
    skip_bad: bool = False
    #: Format that is read; empty: detected.
    read_as: str = ""
    #: Key of the pictures, where there are several.
    camera: str = ""
    #: Key of the actions, if it is not the usual one; of CSV columns, what they begin with.
    action_key: str = ""
    #: Keys that are joined to the proprioception, if not the usual ones.
    proprio: list[str] = field(default_factory=list)
    #: Which row, from a frame's own, holds the action that leads on from that frame.
    action_shift: int = 0
    #: Frames per second, if the recording does not say, or is wrong.
    fps: float = 0.0
    #: Name of the environment or robot, if the recording does not say.
    env_id: str = ""
    #: Bounds of the actions, if the recording does not say.
    action_low: list[float] = field(default_factory=list)
    #: The other bounds.
    action_high: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.action not in ("info", "check", "convert"):
            raise ValueError(f"action={self.action} is unknown; choose info, check or convert")
        if (self.action == "convert") != bool(self.to):
            raise ValueError("give to=PATH with convert, and only then")
        if self.size < 0 or self.min_steps < 1:
            raise ValueError(f"size={self.size} and min_steps={self.min_steps} must be at least 0 and 1")


def run(config: Config) -> str:
    """Do it, and return what is to be said of it."""
    if config.action == "convert":
        return _convert(config)
    name = config.read_as or detect(config.data)
    if name != "episodes":
        if config.action == "check":
            raise ValueError(f"{config.data} is of format {name}; convert it to check it")
        reader = open_reader(config.data, _options(config), name)
        rows = [("recording", config.data), ("format", name), ("episodes", str(len(reader)))]
        rows += [(key, str(value)) for key, value in reader.meta.items()]
        return table(rows)
    store = EpisodeStore(config.data)
    return table(describe_store(store)) if config.action == "info" else _check(store)


def table(rows: list[tuple[str, str]]) -> str:
    """Rows of names and values, aligned."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _check(store: EpisodeStore) -> str:
    found: list[Finding] = []
    for findings in tqdm(
        check_episodes(store), total=len(store), desc="check", unit="episode", disable=None, leave=False
    ):
        found += findings
    found += check_rest(store)
    if found:
        print("\n".join(map(str, found[:SHOWN])))
        bad = len({finding.episode for finding in found})
        raise ValueError(
            f"{store.path}: {len(found)} things are wrong, in {bad} places; the first {SHOWN} are above"
        )
    frames = int((store.steps + 1).sum())
    return f"{len(store)} episodes, {frames} frames: every file, length, bound and number is as it should be"


def _convert(config: Config) -> str:
    if Path(config.to).expanduser().resolve() == Path(config.data).expanduser().resolve():
        raise ValueError(f"to={config.to} is the dataset itself; choose another path")
    reader = open_reader(config.data, _options(config), config.read_as)
    meta = dict(reader.meta)
    if config.size:
        meta["frame_shape"] = [3, config.size, config.size]
    codecs = {"frames": config.codec} if config.codec else None
    writer = open_writer(config.to, meta, config.format, config.mode, codecs)
    done = Converted()
    steps = convert(reader, writer, config.size, config.min_steps, config.skip_bad, done)
    for _ in tqdm(steps, total=len(reader), desc="convert", unit="episode", disable=None, leave=False):
        pass
    left_out = f", {len(done.skipped)} left out" if done.skipped else ""
    return f"{done.episodes} episodes, {done.frames} frames written{left_out}: {config.format} in {config.to}"


def _options(config: Config) -> ImportOptions:
    return ImportOptions(
        camera=config.camera,
        action=config.action_key,
        proprio=tuple(config.proprio),
        action_shift=config.action_shift,
        fps=config.fps,
        env_id=config.env_id,
        action_low=tuple(config.action_low),
        action_high=tuple(config.action_high),
    )


def outcome(said: str) -> str:
    """What the command says at its end."""
    return said


if __name__ == "__main__":
    from experiments.cli import main_for

    raise SystemExit(main_for("data"))
