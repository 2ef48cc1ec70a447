"""The command line: settings reach the job, and every mistake of the user is one clear line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.cli import JOBS, UsageError, check_shadowing, main

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., int]


def baked() -> object:
    return sys.modules["bakery"].baked[-1]


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr, with nothing on stdout."""
    out, err = capsys.readouterr()
    assert out.strip() == ""
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    return err


def test_job_gets_its_dataclass_from_yaml_groups_and_command_line(bake: Run) -> None:
    assert bake("flour=rye", "oven=hot", "fuel=wood", "oven.degrees=230", "crust=thick", "seeds=[3]") == 0
    config = baked()
    module = sys.modules["bakery"]
    assert type(config) is module.Config
    assert (config.flour, config.minutes, config.seeds, config.salt) == ("rye", 45, [3], None)
    assert config.oven == module.Oven(degrees=230.0, fan=True)
    assert config.fuel == module.Wood(logs=6)
    assert config.crust is module.Crust.thick


@pytest.mark.parametrize(
    "value",
    ["my flour (fine).mp4", "a=b", "~/flour", "it's", "C:\\flour\\", "x[0].mp4", "100%", "ü", "a:b", "#1"],
)
def test_values_that_hydra_cannot_parse_are_taken_as_they_stand(bake: Run, value: str) -> None:
    assert bake(f"flour={value}") == 0
    assert baked().flour == value


def test_free_dictionaries_can_be_added_to(bake: Run) -> None:
    assert bake("flour=rye", "+extra.poppy=2") == 0
    assert baked().extra == {"poppy": 2}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["minuts=3"], ["minuts", "did you mean minutes?", "allowed", "salt"]),
        (["degrees=3"], ["degrees", "did you mean oven.degrees?"]),
        (["oven.degree=3"], ["oven.degree", "did you mean oven.degrees?", "allowed in oven: degrees, fan"]),
        (["fuel=wood", "fuel.pressure=3"], ["fuel.pressure", "allowed in fuel: logs"]),
        (["minutes.x=3"], ["minutes.x", "minutes is a single value"]),
        (["+minuts=3"], ["minuts", "did you mean minutes?"]),
        (["~minutes"], ["minutes", "give it a value"]),
        (["minutes=long"], ["minutes=long", "expected int"]),
        (["minutes=1.5"], ["minutes=1.5", "expected int"]),
        (["salt=much"], ["salt=much", "expected float or null"]),
        (["oven.fan=maybe"], ["oven.fan=maybe", "expected bool"]),
        (["crust=none"], ["crust=none", "expected thin|thick"]),
        (["seeds=[a]"], ["seeds=[a]", "expected list[int]"]),
        (["oven=hott"], ["oven=hott", "did you mean hot?", "oven is one of hot, warm"]),
        (["fuel=gas_schema"], ["fuel=gas_schema", "fuel is one of gas, wood"]),
        (["ovn=hot"], ["ovn", "did you mean oven?"]),
        (["minutes"], ["'minutes'", "key=value"]),
        (["--minutes=3"], ["--minutes=3", "no dashes: minutes=3"]),
        (["--minutes", "3"], ["--minutes", "no dashes: minutes=VALUE"]),
        (["minutes=1,2"], ["minutes=1,2", "run once for each"]),
        (["seeds=[1"], ["seeds=[1"]),
        ([], ["flour (name of the flour)", "flour=..."]),
        (["flour=rye", "minutes=-3"], ["minutes=-3 is negative; give a time to bake"]),
    ],
)
def test_bad_settings_are_one_line(
    bake: Run, capsys: pytest.CaptureFixture[str], args: list[str], words: list[str]
) -> None:
    assert bake(*args) == 2
    line = error_of(capsys)
    assert line.startswith("worldmodel bake: error: ")
    for word in words:
        assert word in line
    assert not sys.modules["bakery"].baked


@pytest.mark.parametrize(
    ("flour", "line"),
    [
        (
            "burnt",
            "the loaf is burnt; bake for less than 50 minutes",
        ),
        ("lost", "data/flour: No such file or directory"),
        ("worker", "Broken pipe"),
        ("full", "no space left for runs/loaf; free some"),
        ("wrapped", "no space left; free some"),
    ],
)
def test_errors_that_a_user_can_mend_are_one_line(
    bake: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, flour: str, line: str
) -> None:
    monkeypatch.delenv("WORLDMODEL_TRACEBACK", raising=False)
    assert bake(f"flour={flour}") == 2
    assert error_of(capsys).startswith(f"worldmodel bake: error: {line}")


def test_traceback_on_request(
    bake: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLDMODEL_TRACEBACK", "1")
    assert bake("flour=burnt") == 2
    assert "Traceback" in capsys.readouterr().err


def test_bug_keeps_its_traceback(bake: Run) -> None:
    with pytest.raises(KeyError, match="yeast"):
        bake("flour=bug")


def test_interrupt(bake: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert bake("flour=stopped") == 130
    assert error_of(capsys) == "interrupted; run the same command again to continue\n"


def test_help_of_a_job(bake: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert bake("--help", "oven=hot") == 0
    text = capsys.readouterr().out
    assert text.startswith("Bake a loaf.\n\nExample:\n    worldmodel bake oven=hot\n")
    rows = {line.split("=")[0].strip(): line for line in text.splitlines() if "=" in line}
    for key, words in {
        "flour": ["(required)", "str", "name of the flour"],
        "minutes": ["=45", "int", "How long, in minutes."],
        "crust": ["=thin", "thin|thick"],
        "salt": ["=null", "float or null"],
        "seeds": ["=[1, 2]", "list[int]", "which seeds go in"],
        "oven.degrees": ["=250", "float", "heat of the oven"],
        "oven.fan": ["=true", "bool"],
        "fuel.pressure": ["=3", "int"],
        "oven": ["=hot", "hot | warm"],
        "fuel": ["=gas", "gas | wood"],
    }.items():
        for word in words:
            assert word in rows[key]
    assert "schema" not in text
    assert not sys.modules["bakery"].baked


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_help_fits_the_terminal(
    bake: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert bake("--help") == 0
    assert "name of the flour" in " ".join(capsys.readouterr().out.split())


def test_cfg_prints_yaml_that_reads_back(bake: Run, capsys: pytest.CaptureFixture[str]) -> None:
    from omegaconf import OmegaConf

    assert bake("--cfg", "oven=hot") == 0
    values = OmegaConf.create(capsys.readouterr().out)
    assert (values.minutes, values.oven.degrees, values.fuel.pressure) == (45, 250.0, 3)
    assert OmegaConf.is_missing(values, "flour")
    assert not sys.modules["bakery"].baked


def test_overview_names_every_job(capsys: pytest.CaptureFixture[str]) -> None:
    for args in ([], ["--help"], ["-h"]):
        assert main(args) == 0
        text = capsys.readouterr().out
        for job in JOBS:
            assert f"\n  {job}" in text


@pytest.mark.parametrize(("job", "near"), [("bak", "did you mean bake?"), ("xyz", "jobs are bake")])
def test_unknown_job(bake: Run, capsys: pytest.CaptureFixture[str], job: str, near: str) -> None:
    assert bake(job=job) == 2
    line = error_of(capsys)
    assert repr(job) in line
    assert near in line


def test_job_whose_library_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "needy.py").write_text("import library_of_nobody\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["needy"], jobs={"needy": "needy"}) == 2
    assert "library_of_nobody is not installed" in error_of(capsys)
    assert main(["gone"], jobs={"gone": "experiments.gone"}) == 2
    assert "no module experiments.gone" in error_of(capsys)


def test_settings_of_one_job_do_not_leak_into_the_next(bake: Run) -> None:
    assert bake("flour=rye", "minutes=10", "oven=hot") == 0
    assert bake("flour=oat") == 0
    assert (baked().minutes, baked().oven.degrees) == (45, 180.0)


def test_overview_and_version_are_fast_because_they_import_no_library() -> None:
    code = (
        "import sys; from experiments.cli import main; main(['--help']); main(['--version']);"
        "print([name for name in ('torch', 'hydra', 'omegaconf', 'numpy', 'mujoco') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "[]"


def test_every_job_runs_as_a_module_too() -> None:
    out = subprocess.run(
        [sys.executable, "-m", "experiments.doctor", "--cfg", "json=true"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "json: true" in out.stdout


@pytest.mark.parametrize("shadow", ["envs/__init__.py", "configs.py"])
def test_package_of_the_user_that_shadows_ours(tmp_path: Path, shadow: str) -> None:
    theirs = tmp_path / shadow
    theirs.parent.mkdir(exist_ok=True)
    theirs.touch()
    # The order of a user who runs `python -m experiments.doctor` in a directory of their own.
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-c", "from experiments.cli import main; raise SystemExit(main(['doctor']))"]
    out = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert out.returncode == 2
    assert out.stderr.count("\n") == 1
    shown = theirs.parent if theirs.name == "__init__.py" else theirs
    assert f"{shown.resolve()} would be imported instead of" in out.stderr


def test_folder_that_is_no_package_does_not_shadow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    try:
        check_shadowing(["configs"])
    except UsageError as error:  # pragma: no cover
        pytest.fail(str(error))


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_reader_that_goes_away_is_no_error(unbuffered: str) -> None:
    command = f"'{sys.executable}' -c 'from experiments.cli import main; raise SystemExit(main([]))' | true"
    environ = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    out = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )
    assert out.stderr == ""
