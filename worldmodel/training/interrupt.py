"""Signals that end a training in good order: the step in hand is finished and the state saved."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator

#: Ctrl-C, and what schedulers send before they take a machine away: Slurm what its `--signal` says, often USR1 or USR2.
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)


class Interrupted(KeyboardInterrupt):
    """A training was asked to stop, and has saved its state."""


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that any of ``SIGNALS`` sets, instead of ending the process. Does nothing outside the main thread."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {number: signal.signal(number, lambda *_: stop.set()) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
