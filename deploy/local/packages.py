"""The system packages that the private stores come from, installed when they are missing and we may."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import which

from deploy.local.console import Console
from deploy.local.environment import Environment
from deploy.local.problems import Problem
from deploy.local.stores.rabbitmq import server_script

_POLICY = Path("/usr/sbin/policy-rc.d")


def missing_packages(environment: Environment) -> list[str]:
    """The packages that a copy in this environment needs and the machine lacks."""
    missing = []
    if not environment.redis_url and which("redis-server") is None:
        missing.append("redis-server")
    if not environment.get("AMQP_URL") and not _has_rabbitmq():
        missing.append("rabbitmq-server")
    return missing


def _has_rabbitmq() -> bool:
    try:
        server_script()
    except Problem:
        return False
    return True


def ensure_packages(environment: Environment, console: Console, programs: Sequence[str] = ()) -> None:
    """Installs what is missing, and the packages of `programs` that bear the program's name.

    Raises Problem, naming the command to run, when that takes more rights than we have.
    """
    missing = missing_packages(environment) + [program for program in programs if which(program) is None]
    if not missing:
        return
    names = " ".join(missing)
    if os.geteuid() != 0 or which("apt-get") is None:
        raise Problem(f"Missing: {names}. Install with `sudo apt-get install {names}`, or give the stores by URL.")
    console.say(f"Installing {names}")
    with _no_system_services():
        _apt("update")
        _apt("install", "--yes", "--no-install-recommends", *missing)


@contextmanager
def _no_system_services() -> Iterator[None]:
    # Debian starts what it installs; our stores are private ones, so nothing shall run on the well-known ports.
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n", encoding="ascii")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink()


def _apt(*arguments: str) -> None:
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        ["apt-get", "-qq", *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        end = "\n".join(f"    {line}" for line in done.stdout.splitlines()[-15:])
        raise Problem(f"`apt-get {' '.join(arguments)}` failed.\n{end}")
