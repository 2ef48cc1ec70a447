"""Training on the first episodes only is training on data that have no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.cli import main
from worldmodel.data.episodes import EpisodeStore, EpisodeWriter
from worldmodel.models.files import read_config

SHORT = ["loop.steps=3", "loop.batch_size=4", "loop.precision=fp32", "encoder.width=24", "encoder.depth=1",
         "encoder.heads=2", "threads=1"]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``data`` with 12 episodes, and ``few`` with its first 4 and its last 3."""
    place = tmp_path_factory.mktemp("episodes")
    assert main(["collect", "episodes=12", "steps=8", "workers=0", f"out={place}/data"]) == 0
    store = EpisodeStore(place / "data")
    few = EpisodeWriter(
        place / "few", {key: value for key, value in store.meta.items() if key != "format_version"}
    )
    for position in (0, 1, 2, 3, 9, 10, 11):
        few.write(position, {name: array[:] for name, array in store[position].items()})
    return place


@pytest.mark.parametrize("variant", ["untrained", "end_to_end"])
def test_the_others_have_no_part_in_it(place: Path, tmp_path: Path, variant: str) -> None:
    """Frozen and from pixels: weights, statistics of actions and held-out errors are those of the smaller data."""
    runs = {"data": ["episodes=4", "held_out=0.25"], "few": [f"held_out={3 / 7}"]}
    for name, more in runs.items():
        command = ["train", f"data={place}/{name}", f"variant={variant}", *more, *SHORT]
        assert main([*command, f"out={tmp_path}/{name}"]) == 0
    whole, few = (tmp_path / name / "model" for name in runs)
    for file in whole.glob("*.safetensors"):
        assert file.read_bytes() == (few / file.name).read_bytes(), file.name
    mine, theirs = (read_config(path, "world_model") for path in (whole, few))
    assert mine["actions"] == theirs["actions"]
    assert mine["facts"]["open_loop"] == theirs["facts"]["open_loop"] != {}
    assert mine["facts"]["episodes"] == 4 and mine["facts"]["data"] == EpisodeStore(place / "data").hash
    assert "3 steps on 4 episodes, and 3 held out" in (whole / "README.md").read_text()


@pytest.mark.parametrize(
    ("count", "said"), [(10, "has 9 beside the 3 held out; choose fewer"), (-1, "must not be negative")]
)
def test_more_than_there_are_is_one_line(
    place: Path, tmp_path: Path, count: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command = [
        "train",
        f"data={place}/data",
        "variant=untrained",
        "held_out=0.25",
        f"episodes={count}",
        *SHORT,
    ]
    assert main([*command, f"out={out}"]) == 2
    assert said in capsys.readouterr().err and not out.exists()
