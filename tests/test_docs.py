"""The pages are true: their examples run, and the files, names, settings and pages that they mention exist.

How a page is read:

- ```bash and ```python blocks run in order, in a temporary directory; `make ...` lines are checked by `make -n`.
- A line `Needs: [collect](collect.md)` makes the page begin with what the blocks of that page left behind.
- A ```text block right after a block is what that block prints; `...` stands for any text.
- A python or yaml block that begins with `# file: my_worlds.py` is written to that file.
- After `<!-- checked, not run: reason -->` the commands of a block are only composed: jobs, keys and values exist; of a
  python block, that it compiles and that what it imports from here exists.
- Settings in the first column of a table, `loop.steps=1000`, are the defaults of the job that the page is named after.
"""

from __future__ import annotations

import ast
import importlib
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from experiments.cli import JOBS
from experiments.demo import Config, stages
from experiments.describe import rows
from experiments.settings import Settings, compose_settings

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("worldmodel", "envs", "planners", "experiments")
DOCS = ROOT / "docs"
PAGES = [page for page in (ROOT / "README.md", *sorted(DOCS.glob("*.md"))) if page.is_file()]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))

FENCE = re.compile(r"```(\w*)\s*")
NOT_RUN = re.compile(r"<!-- checked, not run: \S.* -->")
FILE = re.compile(r"# file: ([\w/]+\.\w+)")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
SECONDS_PER_BLOCK = 120

# Runs the python blocks of one process, so that later ones see what earlier ones defined; errors name page and line.
PYTHON = r"""
import json, sys
space = {"__name__": "__main__"}
for line, code in json.loads(sys.stdin.read()):
    exec(compile("\n" * line + code, sys.argv[1], "exec"), space)
    print("\x1e", end="", flush=True)
"""


@dataclass(frozen=True)
class Block:
    """A fenced block: the language, the lines between the fences, and the line of the page that it begins at."""

    language: str
    code: str
    line: int
    run: bool
    output: str | None  # what the page says that it prints

    @property
    def file(self) -> str | None:
        found = FILE.match(self.code)
        return found.group(1) if found else None


def blocks(page: Path) -> list[Block]:
    """The blocks of a page in order, each with the output block that follows it."""
    lines = page.read_text(encoding="utf-8").splitlines()
    found: list[Block] = []
    previous = 0  # the line after the last block, if nothing but empty lines has followed
    number = 0
    while number < len(lines):
        opening = FENCE.fullmatch(lines[number])
        if not opening:
            previous = previous if not lines[number].strip() else -1
            number += 1
            continue
        end = number + 1
        while end < len(lines) and lines[end] != "```":
            end += 1
        assert end < len(lines), f"{page.name}:{number + 1}: this block has no end"
        language, code = opening.group(1), "\n".join(lines[number + 1 : end])
        where = f"{page.name}:{number + 1}"
        assert language in ("bash", "python", "yaml", "text"), (
            f"{where}: a block is bash, python, yaml or text"
        )
        if language == "text":
            if previous > 0 and found[-1].output is None and found[-1].run:
                found[-1] = Block(**{**vars(found[-1]), "output": code})
        else:
            run = not (number and NOT_RUN.fullmatch(lines[number - 1].strip()))
            found.append(Block(language, code, number + 1, run, None))
            assert language != "yaml" or found[-1].file, (
                f"{where}: a yaml block begins with `# file: name.yaml`"
            )
        number = previous = end + 1
    return found


def needs(page: Path) -> list[str]:
    """Names of the pages whose results a page begins with."""
    found = re.search(r"^Needs: (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return re.findall(r"\((\w+)\.md\)", found.group(1)) if found else []


# Running


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """`finished(page)` runs a page, once, and returns the directory that it ran in."""

    places: dict[Path, Path | None] = {}  # None: the page failed

    def finish(page: Path) -> Path:
        if page not in places:
            places[page] = None
            place = tmp_path_factory.mktemp(page.stem.lower())
            for name in needs(page):
                shutil.copytree(finish(DOCS / f"{name}.md"), place, dirs_exist_ok=True)
            run_page(page, place)
            places[page] = place
        done = places[page]
        assert done is not None, f"{page.name} is needed, and failed"
        return done

    return finish


@each_page
def test_the_examples_of_a_page_run(page: Path, finished: Callable[[Path], Path]) -> None:
    finished(page)


def run_page(page: Path, place: Path) -> None:
    for language, group in itertools.groupby(
        blocks(page), lambda block: (block.language, block.run, block.file)
    ):
        same_kind = list(group)
        if language[2] is not None:
            for block in same_kind:
                path = place / language[2]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block.code + "\n", encoding="utf-8")
        elif language[:2] == ("python", True):
            run_python(page, same_kind, place)
        elif language[0] == "python":
            for block in same_kind:
                check_python(block.code, f"{page.name}:{block.line}")
        else:
            for block in same_kind:
                run_bash(page, block, place)


def run_python(page: Path, group: list[Block], place: Path) -> None:
    command = [sys.executable, "-c", PYTHON, str(page)]
    done = start(
        command, place, f"{page.name}:{group[0].line}", json.dumps([(b.line, b.code) for b in group])
    )
    assert done.returncode == 0, f"a python block of {page.name} failed\n{done.stdout}{done.stderr}"
    for block, printed in zip(group, done.stdout.split("\x1e"), strict=False):
        compare(page, block, printed)


def check_python(code: str, where: str) -> None:
    """See that code compiles, and that what it imports from this toolkit is there."""
    for node in ast.walk(ast.parse(code, where)):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in PACKAGES:
            module = importlib.import_module(str(node.module))
            missing = [name.name for name in node.names if not hasattr(module, name.name)]
            assert not missing, f"{where}: {node.module} has no {', '.join(missing)}"


def run_bash(page: Path, block: Block, place: Path) -> None:
    where = f"{page.name}:{block.line}"
    lines = block.code.replace("\\\n", " ").splitlines()
    for line in lines:
        if line.startswith("make"):
            # MAKEFLAGS and MAKELEVEL of a `make test` that we run in would change what `make` does here.
            clean = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
            done = subprocess.run(
                [*shlex.split(line, comments=True), "-n"],
                cwd=ROOT,
                env=clean,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{where}: {line}\n{done.stderr}"
        elif not block.run and line.strip() and not line.startswith("#"):
            compose(line, where)
    if not block.run or all(line.startswith("make") for line in lines):
        return
    code = "\n".join("" if line.startswith("make") else line for line in block.code.splitlines())
    done = start(["bash", "-euo", "pipefail", "-c", code], place, where)
    assert done.returncode == 0, (
        f"{where}\n{block.code}\nexit code {done.returncode}\n{done.stdout}{done.stderr}"
    )
    compare(page, block, done.stdout)


def start(command: list[str], place: Path, where: str, text: str = "") -> subprocess.CompletedProcess[str]:
    binaries = Path(sys.executable).parent
    environ = {**os.environ, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    try:
        return subprocess.run(
            command, cwd=place, env=environ, input=text, capture_output=True, text=True, timeout=SECONDS_PER_BLOCK,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        pytest.fail(
            f"{where}: over {SECONDS_PER_BLOCK} s; make it smaller, or mark it `<!-- checked, not run: why -->`"
        )


def compare(page: Path, block: Block, printed: str) -> None:
    """What a block printed, against the text block after it, in which `...` stands for any text."""
    if block.output is not None:
        pattern = re.escape(block.output.strip()).replace(re.escape("..."), ".*?")
        same = re.fullmatch(pattern, printed.strip(), re.DOTALL)
        assert same, f"{page.name}:{block.line} printed\n{printed}\nand not\n{block.output}"


def compose(line: str, where: str) -> None:
    """Check the job, keys and values of a command without running it."""
    words = [word for word in shlex.split(line, comments=True) if not re.fullmatch(r"[A-Z_]+=\S*", word)]
    if words[:1] == ["torchrun"]:  # torchrun ... -m experiments.pretrain key=value
        module = words.index("-m")
        words = ["worldmodel", words[module + 1].removeprefix("experiments."), *words[module + 2 :]]
    assert words[:1] == ["worldmodel"] and words[1] in JOBS, f"{where}: {line} is not a worldmodel command"
    settings(words[1], words[2:]).to_object()


def settings(job: str, overrides: list[str]) -> Settings:
    module = importlib.import_module(JOBS[job])
    return compose_settings(job, module.Config, overrides, schemas=getattr(module, "SCHEMAS", None))


def test_the_demos_sizes_are_the_demos() -> None:
    sizes = ("episodes=", "loop.", "tasks=")
    demo = [
        {word for word in stage.overrides if word.startswith(sizes)} | {stage.job}
        for stage in stages(Config())
    ]
    said = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in re.findall(
            r"<!-- checked, not run: the demo's size -->\n```bash\n(.*?)```", text, re.DOTALL
        ):
            said += [
                {word for word in line.split()[1:] if word.startswith(sizes) or word in JOBS}
                for line in block.splitlines()
            ]
    assert said
    assert [words for words in said if words not in demo] == []


# What the pages mention


def prose(page: Path) -> str:
    """A page's text without its blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    titles = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in LINK.findall(prose(page)):
        target, _, anchor = link.partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        path = (page.parent / target).resolve() if target else page
        inside = path.is_relative_to(ROOT) and path.exists()
        if not inside or (anchor and anchor not in anchors(path)):
            broken.append(link)
    assert broken == [], f"{page.name} links to {', '.join(broken)}"


@each_page
def test_files_and_names_in_backticks_exist(page: Path) -> None:
    packages = "worldmodel|envs|planners|configs|experiments|tests"
    wrong = []
    for word in re.findall(r"`([^`\n]+)`", prose(page)):
        if re.fullmatch(rf"({packages})(/[\w.]+)+/?", word):
            if not (ROOT / word).exists():
                wrong.append(word)
        elif (
            re.fullmatch(rf"({packages})(\.\w+)+", word)
            and not word.startswith("tests")
            and not can_import(word)
        ):
            wrong.append(word)
    assert wrong == [], f"{page.name} mentions {', '.join(wrong)}"


def can_import(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    module, path = name, list[str]()
    while module:
        try:
            found: Any = importlib.import_module(module)
        except ModuleNotFoundError:
            module, _, attribute = module.rpartition(".")
            path.insert(0, attribute)
            continue
        for part in path:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def test_modules_in_the_diagram_exist() -> None:
    names = re.findall(
        r'class="module"[^>]*>([\w.]+)<', (DOCS / "architecture.svg").read_text(encoding="utf-8")
    )
    assert len(names) > 10
    assert [
        name
        for name in names
        if not any(can_import(f"{p}.{name}") for p in ("worldmodel", "envs", "planners"))
    ] == []


@pytest.mark.parametrize("job", [job for job in JOBS if (DOCS / f"{job}.md").is_file()])
def test_settings_in_tables_are_the_defaults(job: str) -> None:
    defaults = settings(job, [])
    known = {row.key: row.value for row in rows(defaults.config)}
    known |= {name: str(group.chosen) for name, group in defaults.groups.items()}
    text = prose(DOCS / f"{job}.md")
    said = [
        cell
        for row in re.findall(r"^\| *(`[^|]*`) *\|", text, re.MULTILINE)
        for cell in re.findall(r"`([^`]+)`", row)
    ]
    wrong = {cell: known.get(cell.partition("=")[0], "no such setting") for cell in said if "=" in cell}
    wrong = {cell: default for cell, default in wrong.items() if cell.partition("=")[2] != default}
    assert wrong == {}, f"docs/{job}.md says otherwise"


def test_the_index_lists_every_page_and_job() -> None:
    index = prose(DOCS / "README.md")
    linked = {link.partition("#")[0] for link in LINK.findall(index)}
    assert {page.name for page in DOCS.glob("*.md")} - linked == {"README.md"}
    # Jobs without a page of their own are at least named.
    assert [job for job in JOBS if f"worldmodel {job}" not in index and f"{job}.md" not in linked] == []
