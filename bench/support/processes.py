"""Processes that a benchmark starts, and the CPU they use."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def process(arguments: list[str], environment: Mapping[str, str], *, port: int) -> Iterator[int]:
    """A Python process of the project that listens on `port`; yields its process id and ends it afterwards."""
    child = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=dict(environment))
    try:
        wait_for_port(port)
        yield child.pid
    finally:
        child.terminate()
        child.wait(10)


def wait_for_port(port: int, seconds: float = 15.0) -> None:
    """Returns when somebody listens."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise TimeoutError(f"nobody listens on {port}")


def busy_seconds() -> float:
    """CPU seconds that all processes of the machine have used since it started."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)


class Usage:
    """CPU seconds of named processes, children included, between two moments."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = dict(pids)
        self._before = self._read()

    def seconds(self) -> dict[str, float]:
        """Used since this was made."""
        after = self._read()
        return {name: after[name] - self._before[name] for name in self._before if name in after}

    def _read(self) -> dict[str, float]:
        used = {}
        for name, pid in self._pids.items():
            try:
                one = psutil.Process(pid)
                family = [one, *one.children(recursive=True)]
                # The last two are what children used that have ended and were waited for.
                used[name] = sum(sum(each.cpu_times()[:4]) for each in family)
            except psutil.NoSuchProcess:
                continue
        return used
