"""The data job: what it prints, its exit codes, and the forms of its command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.cli import main
from tests.worldmodel.data.recordings import make_store
from worldmodel.data.episodes import EpisodeStore


def test_a_dataset_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = make_store(tmp_path / "my data", 3, "jpeg:80")
    for command in (["info", str(store.path)], [f"data={store.path}"], ["action=info", f"data={store.path}"]):
        assert main(["data", *command]) == 0
        said = capsys.readouterr().out
        assert (
            "test/Arm-v0" in said
            and "3, of 3 to 7 steps" in said
            and "jpeg:80" in said
            and store.hash in said
        )
        assert "action 1     y -2 to 2 m/s" in said


def test_a_check_finds_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = make_store(tmp_path / "data", 3)
    assert main(["data", "check", str(store.path)]) == 0
    assert "3 episodes, 18 frames: every file" in capsys.readouterr().out
    path = store.path / store.entries[1]["file"]
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert main(["data", "check", str(store.path)]) == 2
    out, error = capsys.readouterr()
    assert "episode 1, episodes/000001.safetensors: its content is not what was written" in out
    assert "1 things are wrong, in 1 places" in error and len(error.splitlines()) == 1


def test_a_conversion_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = make_store(tmp_path / "data", 3)
    away = ["data", "convert", str(store.path), f"to={tmp_path}/demos.hdf5", "format=robomimic"]
    assert main(away) == 0
    assert "3 episodes, 18 frames written" in capsys.readouterr().out
    assert main(away) == 0
    assert "0 episodes, 0 frames written" in capsys.readouterr().out
    assert main(["data", "info", f"{tmp_path}/demos.hdf5"]) == 0
    assert "robomimic" in capsys.readouterr().out
    assert main(["data", "convert", f"{tmp_path}/demos.hdf5", f"to={tmp_path}/back"]) == 0
    assert EpisodeStore(tmp_path / "back").hash == store.hash
    more = ["data", "convert", f"{tmp_path}/demos.hdf5", f"to={tmp_path}/back", "mode=append"]
    assert main(more) == 0 and len(EpisodeStore(tmp_path / "back")) == 6
    anew = [*more[:-1], "mode=overwrite", "codec=mp4", "size=16"]
    assert main(anew) == 0 and len(EpisodeStore(tmp_path / "back")) == 3
    assert EpisodeStore(tmp_path / "back")[0]["frames"].shape == (4, 3, 16, 16)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ([], "give a value to data"),
        (["info", "nothing"], "no dataset at nothing"),
        (["look", "data"], "action=look is unknown; choose info, check or convert"),
        (["convert", "data"], "give to=PATH with convert"),
        (["info", "data", "to=x"], "give to=PATH with convert, and only then"),
        (["convert", "data", "to=data"], "to=data is the dataset itself"),
        (["convert", "data", "to=x", "codec=gif"], "codec 'gif' is unknown"),
        (["convert", "data", "to=x", "format=zarr"], "format 'zarr' is unknown; choose episodes, lerobot"),
        (["convert", "data", "to=x", "min_steps=9"], "episode 0 of data has 3 steps, at least 9 are needed"),
        (["convert", "data", "to=x", "action_shift=1"], "its actions are as they should be"),
        (["convert", "data", "to=notes", "mode=overwrite"], "notes is not a dataset"),
        (["info", "data", "words"], "cannot read 'words': settings are written key=value"),
    ],
)
def test_mistakes_are_one_line(
    command: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    make_store(tmp_path / "data", 2)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("x")
    assert main(["data", *command]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1
    assert (tmp_path / "notes" / "thesis.txt").exists()
