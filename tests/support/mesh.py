"""The whole mesh, run as a user runs it, with a state directory and ports of its own."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.local.environment import ROOT, current
from deploy.local.guard import start_guard
from deploy.local.ports import free_port
from deploy.local.state import StateDir, parse_env

_PASSED = ("PATH", "HOME", "LANG", "XDG_CACHE_HOME")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mesh:
    """A running copy. `env` is what `.run/env` says."""

    state: StateDir
    env: Mapping[str, str]

    @property
    def url(self) -> str:
        """Where clients reach it."""
        return self.env["GATEWAY_URL"]

    @property
    def state_dir(self) -> Path:
        return self.state.path

    def pid(self, name: str) -> int:
        """The pid of a process by its name now; it changes when the process is restarted."""
        pid = self.state.read_pid(name)
        if pid is None:
            raise AssertionError(f"{name} has no pid file; there are {sorted(self.state.named_pids())}")
        return pid


def local(verb: str, state_dir: Path, **extra: str) -> "subprocess.CompletedProcess[str]":
    """Runs one verb of the command line. Of the caller's environment only what names no store is passed on."""
    passed = {name: value for name, value in current().values.items() if name in _PASSED}
    return subprocess.run(
        [sys.executable, "-m", "deploy.local", verb],
        cwd=ROOT,
        env={**passed, "MESH_STATE_DIR": str(state_dir), **extra},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@contextmanager
def running_mesh(state_dir: Path, **extra: str) -> Iterator[Mesh]:
    """Brings a copy up, with `extra` variables, and down again, also when the test session is killed."""
    state = StateDir(state_dir)
    guard = start_guard(state)
    # No model server that happens to run here: what answers is always the same.
    values = {"MESH_HTTP_PORT": str(free_port()), "OLLAMA_HOST": "http://127.0.0.1:9", **extra}
    try:
        up = local("up", state_dir, **values)
        if up.returncode != 0:
            raise AssertionError(f"the mesh did not start:\n{up.stdout}{up.stderr}")
        yield Mesh(state=state, env=parse_env(state.env_file.read_text(encoding="utf-8")))
    finally:
        local("down", state_dir)
        guard.communicate()


@contextmanager
def throw_away_mesh(**extra: str) -> Iterator[Mesh]:
    """A copy whose data nobody keeps."""
    with (
        tempfile.TemporaryDirectory(prefix="agentmesh-tests-", ignore_cleanup_errors=True) as directory,
        running_mesh(Path(directory), **extra) as mesh,
    ):
        yield mesh
