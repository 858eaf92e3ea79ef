"""Keeps started processes running: whoever ends unasked is started again, later and later while it keeps failing."""

import asyncio
import ctypes
import os
import time
from collections.abc import Iterable
from contextlib import suppress

import psutil

from deploy.local.child import Child
from deploy.local.console import Console
from deploy.local.mesh import Process
from deploy.local.problems import Problem
from deploy.local.stores.store import Store

_LOOK_EVERY_SECONDS = 0.1
_REAP_EVERY_SECONDS = 1.0
_FIRST_DELAY_SECONDS = 0.5
_LONGEST_DELAY_SECONDS = 15.0
# Whoever lived this long failed for a new reason.
_FORGIVEN_AFTER_SECONDS = 60.0
_PR_SET_CHILD_SUBREAPER = 36


def next_delay(last_seconds: float, lived_seconds: float) -> float:
    """How long to wait before a restart, given the last wait (0: none yet) and how long the process lived."""
    if last_seconds == 0 or lived_seconds >= _FORGIVEN_AFTER_SECONDS:
        return _FIRST_DELAY_SECONDS
    return min(last_seconds * 2, _LONGEST_DELAY_SECONDS)


async def keep_alive(unit: Process | Store, console: Console) -> None:
    """Restarts a unit for ever."""
    delay, since = 0.0, time.monotonic()
    while True:
        await asyncio.sleep(_LOOK_EVERY_SECONDS)
        dead = [child for child in unit.children if not child.alive]
        if not dead:
            continue
        delay = next_delay(delay, time.monotonic() - since)
        names = ", ".join(f"{child.name} ended with code {child.exit_code}" for child in dead)
        console.say(f"{names}; restarting in {delay:g} s")
        await asyncio.sleep(delay)
        since = time.monotonic()
        try:
            await asyncio.to_thread(unit.start)
        except Problem as problem:
            console.say(str(problem))


def adopt_orphans() -> None:
    """Makes this process the parent of every descendant whose own parent ends, so that none escapes."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


async def reap_orphans(children: Iterable[Child]) -> None:
    """Collects adopted processes that ended, for ever. Our own are collected by those who started them."""
    known = tuple(children)
    seen: set[int] = set()
    while True:
        await asyncio.sleep(_REAP_EVERY_SECONDS)
        ended = _ended_orphans(known)
        # Only at second sight: one of our own may have ended before its pid was written down.
        for pid in ended & seen:
            _collect(pid)
        seen = ended


def _ended_orphans(known: tuple[Child, ...]) -> set[int]:
    session = os.getsid(0)
    ended = set()
    for process in psutil.Process().children():
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            # What this process runs and waits for shares its session; an orphan brings another one.
            if process.status() == psutil.STATUS_ZOMBIE and os.getsid(process.pid) != session:
                ended.add(process.pid)
    return ended - {child.pid for child in known if child.started}


def _collect(pid: int) -> None:
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
