"""Where metrics go besides ``metrics.jsonl``, which is always written: Weights & Biases, if it is wanted."""

import logging
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldmodel.atomic import read_json, write_json

logger = logging.getLogger(__name__)

_WANDB = {
    "false": "off",
    "none": "off",
    "off": "off",
    "true": "offline",
    "offline": "offline",
    "online": "online",
}


@dataclass
class LogConfig:
    """Where metrics go besides metrics.jsonl."""

    #: Weights & Biases: off, offline (also: true; files in the run's directory, `wandb sync` sends them) or online.
    wandb: str = "off"
    #: Project in Weights & Biases.
    project: str = "worldmodel"
    #: Name of the run in Weights & Biases; empty: the run directory's.
    name: str = ""

    def __post_init__(self) -> None:
        mode = _WANDB.get(str(self.wandb).lower())
        if mode is None:
            raise ValueError(f"log.wandb={self.wandb!r} is unknown; choose off, offline (or true) or online")
        self.wandb = mode


class WandbSink:
    """A run in Weights & Biases, which a resumed training continues. Whatever fails in it never stops a training.

    Args:
        config: Mode, project and name.
        directory: The run's directory; holds the files, and the run's id in ``wandb.json``.
        settings: The run's configuration.
    """

    def __init__(self, config: LogConfig, directory: Path, settings: dict[str, Any]) -> None:
        self._run: Any = None
        if config.wandb == "off":
            return
        try:
            import wandb

            self._run = wandb.init(
                project=config.project,
                name=config.name or directory.name,
                dir=str(directory),
                id=_run_id(directory / "wandb.json"),
                resume="allow",
                mode=config.wandb,  # type: ignore[arg-type]
                config=settings,
                settings=wandb.Settings(console="off", silent=True, init_timeout=60.0),
            )
        # Without a login or a network it raises what it likes, SystemExit included.
        except (Exception, SystemExit) as error:
            self._give_up(error)

    def log(self, row: dict[str, Any]) -> None:
        """Send a row of metrics; it has a ``step``."""
        if self._run is None:
            return
        try:
            self._run.log({key: value for key, value in row.items() if key != "step"}, step=row["step"])
        except Exception as error:
            self._give_up(error)

    def close(self, failed: bool = False) -> None:
        """Finish the files; a run that was interrupted or failed is marked so."""
        if self._run is None:
            return
        try:
            self._run.finish(exit_code=int(failed))
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: BaseException) -> None:
        self._run = None
        reason = " ".join(str(error).split()) or type(error).__name__
        logger.warning("no more metrics go to wandb: %s; metrics.jsonl has them all", reason)


def _run_id(file: Path) -> str:
    if not file.exists():
        write_json(file, {"id": uuid.uuid4().hex[:8]})
    return str(read_json(file)["id"])
