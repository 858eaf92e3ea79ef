"""Ends a copy from outside: its supervisor first, which ends the rest in order, then whatever is left."""

import os
import signal
import time
from contextlib import suppress

from deploy.local.leftovers import clear
from deploy.local.state import StateDir

# Three rounds of services and then the stores, each up to its own deadline.
_DEADLINE_SECONDS = 90.0
_LOOK_EVERY_SECONDS = 0.1


def end_copy(state: StateDir) -> tuple[bool, list[str]]:
    """Whether a supervisor was running, and the names of processes that had to be ended without one."""
    pid = state.read_pid("supervisor")
    running = state.supervised() and pid is not None
    if running and pid is not None:
        _end_supervisor(state, pid)
    left = clear(state)
    state.env_file.unlink(missing_ok=True)
    return running, left


def _end_supervisor(state: StateDir, pid: int) -> None:
    deadline = time.monotonic() + _DEADLINE_SECONDS
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        while state.supervised():
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(_LOOK_EVERY_SECONDS)
