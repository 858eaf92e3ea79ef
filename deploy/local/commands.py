"""What each verb of the command line does."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from deploy.local.console import Console
from deploy.local.consul_program import fetch_consul, find_consul
from deploy.local.ending import end_copy
from deploy.local.environment import ROOT, Environment
from deploy.local.jaeger_program import build_jaeger
from deploy.local.leftovers import belongs, clear
from deploy.local.mesh import assemble
from deploy.local.packages import ensure_packages
from deploy.local.plan import migration_command
from deploy.local.ports import is_free
from deploy.local.problems import Problem
from deploy.local.state import StateDir, parse_env
from deploy.local.supervisor import Supervisor

_UP_WITHIN_SECONDS = 300.0
_LOOK_EVERY_SECONDS = 0.1


def run(environment: Environment, console: Console) -> None:
    """Runs a copy in the foreground until it is told to end."""
    state = StateDir(environment.state_path)
    if not state.try_lock():
        raise Problem(f"A copy is running on {state.path} already (`make status`); MESH_STATE_DIR names another.")
    state.write_pid("supervisor", os.getpid())
    try:
        # What a reader finds here belongs to a copy that is gone.
        state.env_file.unlink(missing_ok=True)
        if ended := clear(state):
            console.say(f"Ended what a killed copy had left behind: {', '.join(ended)}")
        state.write_pid("supervisor", os.getpid())
        if not is_free(environment.http_port):
            port = environment.http_port
            raise Problem(f"Port {port} is in use by another program; MESH_HTTP_PORT chooses another one.")
        ensure_packages(environment, console)
        mesh = assemble(environment, state, console)
        asyncio.run(Supervisor(environment, state, console, mesh).run())
    finally:
        state.forget_pid("supervisor")
        state.unlock()


def up(environment: Environment, console: Console) -> None:
    """Runs a copy in the background and returns when it serves."""
    state = StateDir(environment.state_path)
    if state.supervised():
        raise Problem(f"A copy is running on {state.path} already (`make status`); MESH_STATE_DIR names another.")
    # `supervised` may see the last copy's file when that copy was killed.
    state.env_file.unlink(missing_ok=True)
    log = state.logs / "supervisor.log"
    with log.open("wb") as output:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "deploy.local", "run", "--quiet"],
            cwd=ROOT,
            env={**environment.values, "MESH_STATE_DIR": str(state.path)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _relay(state, supervisor, log, console)


def _relay(state: StateDir, supervisor: "subprocess.Popen[bytes]", log: Path, console: Console) -> None:
    deadline = time.monotonic() + _UP_WITHIN_SECONDS
    with log.open(encoding="utf-8") as lines:
        while supervisor.poll() is None and not state.env_file.exists() and time.monotonic() < deadline:
            _copy(lines.read(), console)
            time.sleep(_LOOK_EVERY_SECONDS)
        # The table follows the file that says "ready".
        time.sleep(_LOOK_EVERY_SECONDS)
        _copy(lines.read(), console)
    if supervisor.poll() is not None:
        raise Problem("The mesh did not start.")
    if not state.env_file.exists():
        raise Problem(f"The mesh is still not up after {_UP_WITHIN_SECONDS:g} s; `make logs` shows why.")


def _copy(text: str, console: Console) -> None:
    if text:
        console.say(text.removesuffix("\n"))


def down(environment: Environment, console: Console) -> None:
    """Ends a copy, and whatever a killed one left behind."""
    running, left = end_copy(StateDir(environment.state_path))
    console.say("The mesh is down." if running else "No copy was running.")
    if left:
        console.say(f"Ended what it had left behind: {', '.join(left)}")


def status(environment: Environment, console: Console) -> None:
    """Shows every process. Raises Problem when one of them, or all, is not running."""
    state = StateDir(environment.state_path)
    rows = [_row(state, name, pid) for name, pid in state.named_pids().items()]
    if not rows:
        raise Problem("Nothing is running.")
    for name, pid, condition in rows:
        console.say(f"{name:<16} {pid:>8}  {condition}")
    if state.env_file.exists():
        values = parse_env(state.env_file.read_text(encoding="utf-8"))
        console.say(f"\n{values['GATEWAY_URL']}   login: {values['ADMIN_USERNAME']} / {values['ADMIN_PASSWORD']}")
    if any(condition == "not running" for _, _, condition in rows):
        raise Problem("Not everything is running.")


def _row(state: StateDir, name: str, pid: int) -> tuple[str, int, str]:
    if not (state.supervised() if name == "supervisor" else belongs(pid, state)):
        return name, pid, "not running"
    process = psutil.Process(pid)
    minutes, seconds = divmod(int(time.time() - process.create_time()), 60)
    return name, pid, f"up {minutes}:{seconds:02d}   {process.memory_info().rss / 1e6:.0f} MB"


def reset(environment: Environment, console: Console) -> None:
    """Removes all data of a copy that is not running."""
    path = environment.state_path
    if not path.exists():
        console.say("There is nothing to remove.")
        return
    # Never remove a directory that only a mistyped variable made ours.
    if not (path / "pids").is_dir() or not (path / "logs").is_dir():
        raise Problem(f"{path} is not a state directory of this project; it stays.")
    state = StateDir(path)
    if state.supervised():
        raise Problem(f"The copy on {path} is running; `make down` first.")
    clear(state)
    state.erase()
    console.say(f"Removed {path}")


def jaeger(environment: Environment, console: Console) -> None:
    """Builds Jaeger into the user's cache."""
    console.say(f"Built {build_jaeger(environment)}")


def packages(environment: Environment, console: Console, programs: Sequence[str]) -> None:
    """Makes the stores' programs, and the named ones, available without starting any."""
    ensure_packages(environment, console, programs)
    if find_consul(environment.cache) is None:
        try:
            fetch_consul(environment.cache)
        except Problem as problem:
            console.say(f"No Consul: {problem}")


def migrate(environment: Environment, console: Console) -> None:
    """Brings the schemas in DATABASE_URL, or of the running copy, up to date."""
    state = StateDir(environment.state_path)
    url = environment.get("DATABASE_URL")
    if not url and state.env_file.exists():
        url = parse_env(state.env_file.read_text(encoding="utf-8")).get("DATABASE_URL", "")
    if not url:
        raise Problem("No database: set DATABASE_URL, or `make up` first.")
    command = migration_command(environment, url)
    done = subprocess.run([str(part) for part in command.argv], env=command.env, cwd=command.cwd, check=False)
    if done.returncode != 0:
        raise Problem("The migrations failed.")
    console.say("All schemas are up to date.")
