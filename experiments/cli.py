"""The command line: `worldmodel <job> [key=value ...]`.

A job is a module `experiments/<job>.py` with a docstring, a dataclass `Config` and `run(config)`. Its
settings come from `configs/<job>.yaml` and the command line through Hydra. Importing this module is cheap:
jobs, Hydra and torch are imported only once a job has been named, so `worldmodel --help` answers at once.
"""

from __future__ import annotations

import ast
import difflib
import errno
import importlib
import importlib.util
import logging
import os
import shutil
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

JOBS: Mapping[str, str] = {
    "demo": "experiments.demo",
    "index": "experiments.index",
    "reencode": "experiments.reencode",
    "masks": "experiments.masks",
    "collect": "experiments.collect",
    "data": "experiments.data",
    "import": "experiments.import_model",
    "objectives": "experiments.objectives",
    "pretrain": "experiments.pretrain",
    "probe": "experiments.probe",
    "energy": "experiments.energy",
    "example": "experiments.example",
    "reacher": "experiments.reacher",
    "reproduce": "experiments.reproduce",
    "hierarchy": "experiments.hierarchy",
    "compare_objectives": "experiments.compare_objectives",
    "label_efficiency": "experiments.label_efficiency",
    "train": "experiments.train",
    "train_value": "experiments.train_value",
    "train_slow": "experiments.train_slow",
    "evaluate": "experiments.evaluate",
    "plan": "experiments.plan",
    "compare": "experiments.compare",
    "benchmark": "experiments.benchmark",
    "report": "experiments.report",
    "slurm": "experiments.slurm",
    "doctor": "experiments.doctor",
    "bench": "experiments.bench",
}

PACKAGES = ("worldmodel", "envs", "planners", "configs")
TRACEBACK = "WORLDMODEL_TRACEBACK"
USAGE = "usage: worldmodel <job> [--help | --cfg] [key=value ...]"


def main(
    argv: Sequence[str] | None = None, *, jobs: Mapping[str, str] = JOBS, config_module: str = "configs"
) -> int:
    """Run one job and return the exit code: 0, 2 for an error of the user, 130 when interrupted.

    Args:
        argv: The command line without the program's name; by default the process's own.
        jobs: Names of jobs and the modules that hold them.
        config_module: The package with a `<job>.yaml` for each of them.

    Raises:
        Exception: what a job raised other than ValueError and OSError: a bug, which keeps its traceback.
    """
    # OpenMP threads that spin while they wait make torch ten times slower beside another busy process (measured on
    # two cores); a short spin costs nothing measurable on an idle machine. Read when torch is loaded, so set before.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    args = list(sys.argv[1:] if argv is None else argv)
    job, rest = (args[0], args[1:]) if args else ("--help", [])
    try:
        if job in ("-h", "--help", "help"):
            print(_overview(jobs))
        elif job == "--version":
            print(_version())
        else:
            _run_job(job, rest, jobs, config_module)
        sys.stdout.flush()
        return _leave(0)
    except KeyboardInterrupt:
        if _rank() == 0:
            print("interrupted; run the same command again to continue", file=sys.stderr)
        return _leave(130)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            return 1
        if type(error).__name__ == "PeerFailed":  # another process says why
            time.sleep(2)  # before torchrun, which ends all processes as soon as the first has left
            return _leave(1)
        message = _user_message(error)
        if message is None:
            if _launched() == 1:
                raise
            traceback.print_exc()
            return _leave(1)
        if os.environ.get(TRACEBACK):
            traceback.print_exc()
        prefix = f"worldmodel {job}" if job in jobs else "worldmodel"
        which = f" (process {_rank()} of {_launched()})" if _launched() > 1 else ""
        print(f"{prefix}: error: {message}{which}", file=sys.stderr)
        return _leave(2)


def main_for(job: str) -> int:
    """The command line of one job, for `python -m experiments.<job>`."""
    return main([job, *sys.argv[1:]])


class UsageError(ValueError):
    """The command line or the installation is at fault: one line says all, a traceback would add nothing."""


def _run_job(job: str, args: list[str], jobs: Mapping[str, str], config_module: str) -> None:
    if job not in jobs:
        close = difflib.get_close_matches(job, jobs, n=1)
        hint = f", did you mean {close[0]}?" if close else ""
        raise UsageError(f"unknown job {job!r}{hint}; jobs are {', '.join(jobs)}")
    check_shadowing()
    module = _load(jobs[job])
    with _processes(job, module, args):
        _run_module(job, module, args, config_module)


def _run_module(job: str, module: ModuleType, args: list[str], config_module: str) -> None:
    compose_settings = _load("experiments.settings").compose_settings
    flags = [arg for arg in args if arg in ("-h", "--help", "--cfg")]
    overrides = _named([arg for arg in args if arg not in flags], getattr(module, "POSITIONAL", ()))
    schemas = getattr(module, "SCHEMAS", None)
    settings = compose_settings(job, module.Config, overrides, schemas=schemas, config_module=config_module)
    if "--cfg" in flags:
        print(settings.to_yaml(), end="")
    elif flags:
        job_help = _load("experiments.describe").job_help
        print(job_help(job, module.__doc__ or "", settings.config, settings.groups, _width()))
    else:
        _show_log()
        with _plain_warnings():
            result = module.run(settings.to_object())
        outcome = getattr(module, "outcome", None)
        if outcome is not None and _rank() == 0:
            print(outcome(result))


def _named(args: list[str], names: Sequence[str]) -> list[str]:
    """Leading bare words as the settings that a job names for them: `info data/x` is `action=info data=data/x`."""
    bare = 0
    while (
        bare < min(len(names), len(args))
        and "=" not in args[bare]
        and not args[bare].startswith(("-", "~", "+"))
    ):
        bare += 1
    return [*(f"{name}={word}" for name, word in zip(names, args[:bare], strict=False)), *args[bare:]]


def _processes(job: str, module: ModuleType, args: Sequence[str]) -> AbstractContextManager[Any]:
    """Join the processes that torchrun started, if it did; with `shard=auto` each works for itself."""
    if _launched() == 1:
        return nullcontext()
    if getattr(module, "SHARDED", False):
        if "shard=auto" in args:
            return nullcontext()
        raise UsageError(f"{job} runs in one process; start it without torchrun, or with shard=auto")
    if not getattr(module, "DISTRIBUTED", False):
        raise UsageError(f"{job} runs in one process; start it without torchrun")
    return _load("worldmodel.training.distributed").processes()


def _launched() -> int:
    return int(os.environ.get("WORLD_SIZE") or 1)


def _rank() -> int:
    return int(os.environ.get("RANK") or 0) if _launched() > 1 else 0


def _leave(code: int) -> int:
    """Return a code, or end at once where torchrun started several processes.

    Python would tidy up the connections to the others, which may wait for them, or abort (gloo's threads, now and then,
    even after the process group was destroyed in good order).
    """
    if _launched() > 1:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


class _Log(logging.Handler):
    """Lines of the libraries' logs on stderr, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        warning = "warning: " if record.levelno >= logging.WARNING else ""
        tqdm.write(f"{warning}{record.getMessage()}", file=sys.stderr)


def _show_log() -> None:
    """Show what the libraries log: progress of the first process, warnings of all."""
    logger = logging.getLogger("worldmodel")
    logger.setLevel(logging.INFO if _rank() == 0 else logging.WARNING)
    if not any(isinstance(handler, _Log) for handler in logger.handlers):
        logger.addHandler(_Log())


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show warnings of our own as lines of the log: what is wrong, without the place in our code that noticed it."""
    with warnings.catch_warnings():
        others = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if category.__module__.partition(".")[0] in PACKAGES:
                logging.getLogger("worldmodel").warning("%s", message)
            else:
                others(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        yield


def _load(name: str) -> ModuleType:
    """Import a module, and say what is to be done where a library that it needs is missing."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing == name:
            raise UsageError(f"this installation has no module {name}") from error
        if missing.partition(".")[0] in (*PACKAGES, "experiments"):
            raise  # one of our own modules: a bug, not something to install
        raise UsageError(
            f"{missing} is not installed; `make install` or `pip install -e .` does it"
        ) from error


def check_shadowing(packages: Sequence[str] = PACKAGES) -> None:
    """See that our packages are the ones that an import would find.

    Raises:
        UsageError: another package of the same name comes first, such as `envs/` in the user's working directory.
    """
    home = Path(__file__).resolve().parent.parent
    for name in packages:
        spec = importlib.util.find_spec(name)
        places = [Path(place).resolve() for place in (spec.submodule_search_locations or ())] if spec else []
        if spec and spec.origin and not places:  # a single file, envs.py
            places = [Path(spec.origin).resolve()]
        if places and places[0] != home / name:
            raise UsageError(
                f"{places[0]} would be imported instead of worldmodel's own package {home / name}; "
                "rename it, or run from another directory"
            )


def _reader_is_gone() -> bool:
    """Whether it is stdout's pipe that broke (`| head`), and not the one to a worker that died."""
    try:
        print(flush=True)  # an empty line: without a buffer, only writing shows it
    except BrokenPipeError:
        # What is still buffered must not raise again when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def _user_message(error: Exception) -> str | None:
    """One line for an error that the user can mend; None for a bug."""
    seen: BaseException | None = error
    while seen is not None:
        # Libraries wrap a full disk in errors of their own (safetensors: "Os { code: 28, ... }").
        full = isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or "No space left on device" in str(seen):
            where = f" for {seen.filename}" if isinstance(seen, OSError) and seen.filename else ""
            return f"no space left{where}; free some, then run the same command again"
        seen = seen.__cause__ or seen.__context__
    if isinstance(error, OSError) and error.strerror:
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        return ": ".join([*names, error.strerror])
    if isinstance(error, ValueError | OSError):
        return " ".join(str(error).split()) or type(error).__name__
    return None


def _overview(jobs: Mapping[str, str]) -> str:
    lines = [USAGE, "", "Video -> encoder -> world model -> plan. Jobs:", ""]
    size = max(map(len, jobs))
    lines += [f"  {job:<{size}}  {_summary(module)}".rstrip() for job, module in jobs.items()]
    lines += [
        "",
        "`worldmodel <job> --help` shows what a job does and its settings, --cfg the settings it would run with.",
        "Start with `worldmodel demo`. `worldmodel doctor` says what this machine has and lacks.",
    ]
    return "\n".join(lines)


def _summary(name: str) -> str:
    """The first line of a module's docstring, without importing it (that would import torch)."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        return "(not in this installation)"
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"worldmodel {version('worldmodel')}"
    except PackageNotFoundError:
        return "worldmodel (not installed)"


def _width() -> int:
    return max(40, min(120, shutil.get_terminal_size((100, 24)).columns))
