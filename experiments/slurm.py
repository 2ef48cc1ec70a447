"""Run a job on a Slurm cluster, and again from its last training state whenever it is preempted or out of time.

Example:
    worldmodel slurm nodes=2 gpus_per_node=8 hours=24 partition=gpu command="pretrain data=videos out=runs/large"
"""

import importlib
import os
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from omegaconf import MISSING

from experiments.cli import JOBS, UsageError
from experiments.settings import compose_settings


@dataclass
class Config:
    """Settings of a submission."""

    #: What would follow `worldmodel` on the command line, in quotes.
    command: str = MISSING
    #: Directory of Slurm's logs and submitit's files; must be seen from all nodes.
    logs: str = "runs/slurm"
    #: Machines.
    nodes: int = 1
    #: GPUs of each, and as many processes; 0: one process without a GPU.
    gpus_per_node: int = 1
    #: Processes on each machine; 0: one for each GPU.
    tasks_per_node: int = 0
    #: CPU cores for each process, data workers included.
    cpus_per_task: int = 8
    #: Memory of each machine in GiB; 0: the cluster's default.
    memory_gib: int = 0
    #: Time limit of one attempt.
    hours: float = 24.0
    #: How often a job that ran out of time is queued again. Preemptions do not count.
    restarts: int = 20
    #: Seconds before the limit at which the job is told to save its state.
    notice_seconds: int = 120
    #: Slurm's partition; empty: the cluster's default.
    partition: str = ""
    #: Slurm's account; empty: the cluster's default.
    account: str = ""
    #: Further #SBATCH settings, such as {constraint: a100}.
    sbatch: dict[str, Any] = field(default_factory=dict)
    #: slurm, or local: the same processes on this machine, to try it out.
    cluster: str = "slurm"

    def __post_init__(self) -> None:
        if self.cluster not in ("slurm", "local"):
            raise ValueError(f"cluster={self.cluster!r} is unknown; choose slurm or local")
        if min(self.nodes, self.cpus_per_task) < 1 or min(self.gpus_per_node, self.tasks_per_node) < 0:
            raise ValueError(
                "nodes and cpus_per_task must be positive, gpus_per_node and tasks_per_node not negative"
            )
        if self.hours <= 0 or min(self.restarts, self.notice_seconds, self.memory_gib) < 0:
            raise ValueError(
                "hours must be positive; restarts, notice_seconds and memory_gib must not be negative"
            )


def run(config: Config) -> Any:
    """Check the command, then submit it; returns submitit's job."""
    try:
        import submitit
    except ImportError as error:
        raise UsageError(
            "submitit is not installed; pip install submitit, or: pip install 'worldmodel[slurm]'"
        ) from error
    command = shlex.split(config.command)
    tasks = config.tasks_per_node or max(1, config.gpus_per_node)
    check(command, tasks * config.nodes)
    try:
        executor = submitit.AutoExecutor(
            config.logs, cluster=config.cluster, slurm_max_num_timeout=config.restarts
        )
    except RuntimeError as error:  # no sbatch on this machine
        raise UsageError(f"{error}; submit from a login node, or try cluster=local") from error
    executor.update_parameters(
        name=command[0],
        nodes=config.nodes,
        tasks_per_node=tasks,
        gpus_per_node=config.gpus_per_node,
        cpus_per_task=config.cpus_per_task,
        timeout_min=max(1, round(60 * config.hours)),
        slurm_signal_delay_s=config.notice_seconds,
        slurm_additional_parameters=dict(config.sbatch),
        **{f"slurm_{key}": value for key, value in _given(config).items()},
    )
    return executor.submit(Attempt(command))


def outcome(job: Any) -> str:
    """What the command says at its end."""
    return f"job {job.job_id}; its log: {job.paths.stdout}"


def check(command: list[str], processes: int) -> None:
    """See that a command would be accepted, before it waits in a queue.

    Raises:
        UsageError: It would not.
    """
    job, *settings = command or [""]
    if job not in JOBS or job == "slurm":
        raise UsageError(f'command={job!r} is no job; write command="pretrain data=... out=..."')
    module = importlib.import_module(JOBS[job])
    if processes > 1 and not getattr(module, "DISTRIBUTED", False):
        raise UsageError(f"{job} runs in one process; use nodes=1 tasks_per_node=1")
    compose_settings(job, module.Config, settings, schemas=getattr(module, "SCHEMAS", None)).to_object()


class Attempt:
    """What each of the job's processes does on its node: the command, as one of several processes.

    A notice (preemption, or little time left) goes on to the command, which saves its state and ends with code 130.
    Only then is the job queued again; the next attempt continues from the state.
    """

    def __init__(self, command: list[str]) -> None:
        self.command = command

    def __call__(self) -> None:
        import submitit

        submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
        notice = submitit.JobEnvironment()._usr_sig()
        queue_again = signal.getsignal(notice)
        noticed = []
        job, *settings = self.command
        child = subprocess.Popen([sys.executable, "-m", JOBS[job], *settings])

        def forward(number: int, _: FrameType | None) -> None:
            noticed.append(number)
            child.send_signal(number)

        for number in (notice, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, forward)
        code = child.wait()
        if notice in noticed and code in (130, -notice):  # -notice: it had not yet begun to train
            signal.signal(notice, queue_again)
            os.kill(os.getpid(), notice)  # submitit's own handler, which ends this process
        elif code:
            raise RuntimeError(
                f"`worldmodel {shlex.join(self.command)}` ended with code {code}; see the log above"
            )

    def checkpoint(self) -> Any:
        """What to queue again: the same, which finds its own state."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def _given(config: Config) -> dict[str, Any]:
    """Slurm's settings that have a value."""
    memory = f"{config.memory_gib}GB" if config.memory_gib else ""
    wanted = {"partition": config.partition, "account": config.account, "mem": memory}
    return {key: value for key, value in wanted.items() if value}


if __name__ == "__main__":
    from experiments.cli import main_for

    raise SystemExit(main_for("slurm"))
