"""Rules of the house: who imports whom, what a tracked file must not say, that every configuration composes."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from experiments.cli import JOBS
from experiments.settings import compose_settings

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("worldmodel", "envs", "planners", "configs", "experiments")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
WRITTEN_JOBS = [job for job, module in JOBS.items() if importlib.util.find_spec(module)]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tracked() -> list[Path]:
    """Text files under version control; the test is skipped where there is none (an unpacked archive)."""
    try:
        out = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in out.stdout.split("\0") if name]
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()[:8192]]


def test_import_rules() -> None:
    # In a process of its own: the command configures logging, which silenced every logger that existed before.
    lint = "raise SystemExit(lint_imports(config_filename='setup.cfg', no_cache=True))"
    code = f"from importlinter.cli import lint_imports; {lint}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("envs", "torch"),
        ("envs.collect", "torch"),
        ("worldmodel", "torch"),
        ("worldmodel.data.episodes", "torch"),
        ("planners.mpc", "mujoco"),
        ("experiments.cli", "hydra"),
    ],
)
def test_what_an_import_brings_along(module: str, forbidden: str) -> None:
    code = f"import sys, {module}; raise SystemExit({forbidden!r} in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr or f"import {module} also imports {forbidden}"


def test_no_tracked_file_names_a_place_on_one_machine() -> None:
    places = {str(Path.home()), str(ROOT), str(ROOT.parent)} - {"/", tempfile.gettempdir()}
    pattern = re.compile(
        r"/(?:home|Users)/\w+/|" + "|".join(rf"{re.escape(place)}/" for place in sorted(places))
    )
    found = []
    for path in tracked():
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if pattern.search(line):
                found.append(f"{name_of(path)}:{number}: {line.strip()}")
    assert not found, "\n".join(found)


def test_no_module_is_over_400_lines() -> None:
    files = [*SOURCES, *(ROOT / "tests").rglob("*.py")]
    sizes = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {name: size for name, size in sizes.items() if size > 400} == {}


def test_every_public_module_has_a_docstring() -> None:
    public = [path for path in SOURCES if not path.stem.startswith("_") or path.stem == "__init__"]
    bare = [
        name_of(path) for path in public if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert bare == []


def test_every_package_is_found_and_typed() -> None:
    folders = {path.parent for path in SOURCES}
    assert [name_of(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []
    assert [package for package in PACKAGES if not (ROOT / package / "py.typed").is_file()] == []


def test_every_job_has_its_configuration() -> None:
    assert {path.stem for path in CONFIGS if path.parent.name == "configs"} == set(WRITTEN_JOBS)


@pytest.mark.parametrize("job", WRITTEN_JOBS)
def test_every_job_shows_how_it_is_run(job: str) -> None:
    module = importlib.import_module(JOBS[job])
    assert f"worldmodel {job}" in (module.__doc__ or ""), "the docstring shows how it is run"
    assert callable(module.run)


def options() -> Iterator[str]:
    """Every file in a group's folder, as `group=option`."""
    for path in CONFIGS:
        group, _, option = path.relative_to(ROOT / "configs").with_suffix("").as_posix().rpartition("/")
        if group:
            yield f"{group}={option}"


@pytest.mark.parametrize("job", WRITTEN_JOBS)
def test_every_configuration_composes(job: str) -> None:
    module = importlib.import_module(JOBS[job])
    schemas = getattr(module, "SCHEMAS", None)
    base = compose_settings(job, module.Config, [], schemas=schemas)
    assert base.to_yaml()
    assert OmegaConf.get_type(base.config) is module.Config, f"configs/{job}.yaml begins with {job}_schema"
    for choice in options():
        if choice.partition("=")[0] in base.groups:
            compose_settings(job, module.Config, [choice], schemas=schemas)


def test_every_group_is_used_by_a_job() -> None:
    used: set[str] = set()
    for job in WRITTEN_JOBS:
        module = importlib.import_module(JOBS[job])
        used.update(compose_settings(job, module.Config, [], schemas=getattr(module, "SCHEMAS", None)).groups)
    assert {choice.partition("=")[0] for choice in options()} - {
        name.partition("@")[0] for name in used
    } == set()
