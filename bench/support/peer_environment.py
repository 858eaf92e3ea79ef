"""A virtual environment for each system from PyPI that ours is measured beside, made once in the user's cache.

What goes into it is pinned in ``bench/peers/<name>.txt``; nothing of it enters this project's own environment.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from bench.support.processes import ROOT

_INSTALL_SECONDS = 600


class CannotInstallError(Exception):
    """The peer cannot be had here; the message says why."""


def python_of(name: str) -> Path:
    """The interpreter of the peer's environment, which is made when it is missing. Raises CannotInstallError."""
    pins = ROOT / "bench" / "peers" / f"{name}.txt"
    folder = _folder(name, pins.read_bytes())
    python = folder / "bin" / "python"
    # Written last: an environment without it was cut short.
    whole = folder / "whole"
    if not whole.exists():
        print(f"installing {name} into {folder}", file=sys.stderr)
        _run(name, [sys.executable, "-m", "venv", "--clear", str(folder)])
        _run(name, [str(python), "-m", "pip", "install", "--quiet", "--requirement", str(pins)])
        whole.touch()
    return python


def _folder(name: str, pins: bytes) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agentmesh"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    digest = hashlib.sha256(pins).hexdigest()[:12]
    return cache / "peers" / f"{name}-{version}-{digest}"


def _run(name: str, command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise CannotInstallError(f"{name} was not installed within {_INSTALL_SECONDS} s") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise CannotInstallError(f"{name} cannot be installed here: {last}")
