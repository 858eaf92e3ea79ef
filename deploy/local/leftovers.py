"""Finds processes that a killed supervisor left behind, and ends them.

A process is only touched when its own environment or command line names the state directory: a pid file alone proves
nothing after a reboot or a pid's reuse.
"""

import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from deploy.local.state import StateDir

_PROC = Path("/proc")
_GRACE_SECONDS = 5.0
_POLL_SECONDS = 0.05


def belongs(pid: int, state: StateDir, proc: Path = _PROC) -> bool:
    """Whether a running process is one of this copy's."""
    name, value = state.marker
    if f"{name}={value}".encode() in _parts(proc / str(pid) / "environ"):
        return True
    words = _parts(proc / str(pid) / "cmdline")
    return any(value.encode() == word or value.encode() + b"/" in word for word in words)


def _parts(file: Path) -> list[bytes]:
    # Of a process that ended meanwhile, or that another user runs, nothing can be read: it is none of ours.
    try:
        return file.read_bytes().split(b"\0")
    except OSError:
        return []


def marked_pids(state: StateDir) -> list[int]:
    """Every process that carries this copy's marker, without the one that asks and its parent."""
    name, value = state.marker
    mark = f"{name}={value}".encode()
    own = {os.getpid(), os.getppid()}
    pids = (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())
    return [pid for pid in pids if pid not in own and mark in _parts(_PROC / str(pid) / "environ")]


def clear(state: StateDir) -> list[str]:
    """Ends everything left of a copy that nobody supervises, removes its pid files, and names what it ended."""
    named = {pid: name for name, pid in state.named_pids().items() if name != "supervisor"}
    pids = {pid for pid in named if belongs(pid, state)} | set(marked_pids(state))
    # All at once: the order of a good end died with the supervisor, and the stores recover by themselves.
    _end(pids, signal.SIGTERM, _GRACE_SECONDS)
    _end({pid for pid in pids if _alive(pid)}, signal.SIGKILL, _GRACE_SECONDS)
    for name in state.named_pids():
        state.forget_pid(name)
    return sorted(named.get(pid, str(pid)) for pid in pids)


def _end(pids: Iterable[int], number: signal.Signals, seconds: float) -> None:
    waiting = set(pids)
    for pid in waiting:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
            os.kill(pid, number)
    deadline = time.monotonic() + seconds
    while waiting and time.monotonic() < deadline:
        waiting = {pid for pid in waiting if _alive(pid)}
        time.sleep(_POLL_SECONDS)


def _alive(pid: int) -> bool:
    try:
        stat = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    # The state follows the name, which stands in parentheses and may hold anything. A zombie has ended.
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}
