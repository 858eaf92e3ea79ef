"""What `make` has started notices that `make` alone was told to end."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local.make import find_make

_WAITING = """
import time
from deploy.local.make import find_make, is_asked_to_end

until = time.monotonic() + 30


def wait(asked):
    while is_asked_to_end(make) is not asked and time.monotonic() < until:
        time.sleep(0.02)


make = find_make()
# While make starts something it blocks signals too.
wait(False)
print("waiting", flush=True)
wait(True)
print("asked" if time.monotonic() < until else "never asked", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_a_make_that_is_told_to_end_is_seen(tmp_path: Path, number: signal.Signals):
    """As a process manager tells it: that process and no other; SIGTERM it hands on by itself."""
    (tmp_path / "waiting.py").write_text(_WAITING, encoding="utf-8")
    (tmp_path / "Makefile").write_text(f"run:\n\t@true && exec {sys.executable} waiting.py\n", encoding="utf-8")
    with subprocess.Popen(
        # Not as a part of the make that runs the tests.
        ["env", "--default-signal", "--unset=MAKEFLAGS", "--unset=MAKELEVEL", "make", "run"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        start_new_session=True,
        stdout=subprocess.PIPE,
        text=True,
    ) as make:
        assert make.stdout is not None
        assert make.stdout.readline() == "waiting\n"
        os.kill(make.pid, number)
        assert make.stdout.readline() == "asked\n"


def test_without_make_there_is_nothing_to_look_at(monkeypatch: pytest.MonkeyPatch):
    """As when this was started by hand."""
    monkeypatch.setattr(os, "getppid", os.getpid)
    assert find_make() is None
