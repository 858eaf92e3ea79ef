"""Only what proves to be ours is ever ended."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local.leftovers import belongs, clear, marked_pids
from deploy.local.state import StateDir


def pretend(proc: Path, *, environ: str = "", cmdline: str = "") -> Path:
    (proc / "7").mkdir(parents=True)
    (proc / "7" / "environ").write_bytes(environ.replace(" ", "\0").encode())
    (proc / "7" / "cmdline").write_bytes(cmdline.replace(" ", "\0").encode())
    return proc


@pytest.mark.parametrize(
    ("environ", "cmdline", "ours"),
    [
        ("A=1 MESH_LOCAL_STATE={state}", "beam", True),
        ("A=1", "postgres -D {state}/postgres/data", True),
        ("A=1", "redis-server {state}", True),
        ("MESH_LOCAL_STATE={state}-of-another", "x", False),
        ("A=1", "vi {state}-of-another/notes", False),
        ("", "", False),
    ],
)
def test_a_process_is_ours_by_marker_or_by_path(tmp_path: Path, environ: str, cmdline: str, ours: bool):
    """A copy whose directory only begins alike is another one."""
    state = StateDir(tmp_path / "run")
    names = {"state": str(state.path)}
    proc = pretend(tmp_path / "proc", environ=environ.format(**names), cmdline=cmdline.format(**names))
    assert belongs(7, state, proc) is ours
    assert belongs(8, state, proc) is False


def test_a_reused_pid_is_left_alone(tmp_path: Path):
    """A pid file that names somebody else's process is forgotten, the process lives."""
    state = StateDir(tmp_path / "run")
    state.write_pid("redis", os.getpid())
    assert clear(state) == []
    assert state.named_pids() == {}


def test_a_marked_process_without_a_pid_file_is_ended(tmp_path: Path):
    """What a supervisor had no time to write down is found all the same."""
    state = StateDir(tmp_path / "run")
    name, value = state.marker
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
    with subprocess.Popen(sleeper, env={**os.environ, name: value}) as process:
        assert marked_pids(state) == [process.pid]
        assert clear(state) == [str(process.pid)]
        assert process.wait(5) != 0
