"""Copies do not see each other, and a killed one leaves nothing that the next does not clear."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import redis

from deploy.local.environment import ROOT
from deploy.local.leftovers import clear, marked_pids
from deploy.local.ports import is_free
from deploy.local.state import StateDir
from deploy.local.stores.redis import Redis


@pytest.mark.redis
def test_two_copies_of_a_store(tmp_path: Path):
    """Each has its own data, password and port; ending one leaves the other."""
    first, second = Redis(StateDir(tmp_path / "a")), Redis(StateDir(tmp_path / "b"))
    try:
        first.start()
        second.start()
        with redis.from_url(first.url) as one, redis.from_url(second.url) as two:
            one.set("key", "one")
            assert two.get("key") is None
            clear(first.state)
            assert two.ping()
        assert marked_pids(first.state) == []
        assert is_free(first.port)
    finally:
        first.kill()
        second.kill()


@pytest.mark.redis
def test_an_owner_that_is_killed_leaves_nothing_behind(tmp_path: Path):
    """The guard ends the stores of a process that had no time to."""
    script = f"""
        import os, pathlib, signal
        from deploy.local.guard import start_guard
        from deploy.local.state import StateDir
        from deploy.local.stores.redis import Redis
        state = StateDir(pathlib.Path({str(tmp_path)!r}))
        guard = start_guard(state)
        Redis(state).start()
        print(guard.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode < 0
    # It reads end of file at once, and ends when it has done its work.
    guard = Path(f"/proc/{int(done.stdout)}")
    subprocess.run(["tail", f"--pid={guard.name}", "-f", "/dev/null"], check=True, timeout=30)
    assert marked_pids(StateDir(tmp_path)) == []
