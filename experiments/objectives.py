"""List the systems of self-supervised learning that this toolkit trains: year, paper, what each consists of, command.

Example:
    worldmodel objectives
    worldmodel objectives name=byol
    worldmodel objectives json=true
"""

import json
import shutil
from dataclasses import asdict, dataclass, fields

from experiments.describe import table
from worldmodel.objectives.lineage import SYSTEMS, System

#: What the list shows of a system; all of it with name=... or json=true.
COLUMNS = ("name", "year", "paper", "target", "distance", "collapse", "run")
HEADINGS = {"collapse": "against collapse", "run": "command", "gradient": "gradient to target"}


@dataclass
class Config:
    """Settings of the list."""

    #: Only this system, with all that is known of it.
    name: str = ""
    #: Print JSON instead of a table.
    json: bool = False

    def __post_init__(self) -> None:
        names = [system.name for system in SYSTEMS]
        if self.name and self.name not in names:
            raise ValueError(f"name={self.name!r} is unknown; choose one of {', '.join(names)}")


def run(config: Config) -> list[System]:
    """The systems, in the order of their years."""
    found = [system for system in SYSTEMS if config.name in ("", system.name)]
    if config.json:
        print(json.dumps([asdict(system) | {"command": system.run} for system in found], indent=2))
    elif config.name:
        print(table(_described(found[0]), _width(), indent=""))
    else:
        rows = [[str(getattr(system, column)) for column in COLUMNS] for system in found]
        print(table([[HEADINGS.get(name, name) for name in COLUMNS], *rows], _width(), indent=""))
    return found


def _described(system: System) -> list[list[str]]:
    names = [field.name for field in fields(System) if field.name != "command"]
    rows = [[HEADINGS.get(name, name), str(getattr(system, name))] for name in names]
    return [*rows, ["command", system.run]]


def _width() -> int:
    return max(80, shutil.get_terminal_size().columns)


if __name__ == "__main__":
    from experiments.cli import main_for

    raise SystemExit(main_for("objectives"))
