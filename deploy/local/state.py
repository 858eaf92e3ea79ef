"""The state directory of one copy of the mesh: its files, its secrets and the lock that says somebody supervises it.

It owns the layout under `.run/`; it refuses to know what the processes are.
"""

import fcntl
import json
import os
import secrets
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path

# Every process of a copy carries this variable, so that leftovers are recognised before anything is killed.
MARKER = "MESH_LOCAL_STATE"

_SECRET_NAMES = (
    "JWT_SECRET",
    "ADMIN_PASSWORD",
    "POSTGRES_PASSWORD",
    "REDIS_PASSWORD",
    "RABBITMQ_PASSWORD",
    "ERLANG_COOKIE",
)


class StateDir:
    """Paths and small files of one copy. Making the object creates the directory (traversable, its secrets are not)."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        for directory in (self.path, self.pids, self.logs):
            directory.mkdir(parents=True, exist_ok=True)
        # Postgres may run as another user and must reach its own directory; every secret file is 0600 by itself.
        self.path.chmod(0o711)
        self._lock: int | None = None

    @property
    def pids(self) -> Path:
        """One file a process, named for it."""
        return self.path / "pids"

    @property
    def logs(self) -> Path:
        """One bounded log a process."""
        return self.path / "logs"

    @property
    def env_file(self) -> Path:
        """Addresses and logins as shell assignments."""
        return self.path / "env"

    @property
    def marker(self) -> tuple[str, str]:
        """The environment variable, and its value, that every process of this copy carries."""
        return MARKER, str(self.path)

    def pid_file(self, name: str) -> Path:
        return self.pids / f"{name}.pid"

    def write_pid(self, name: str, pid: int) -> None:
        write_whole(self.pid_file(name), f"{pid}\n", mode=0o644)

    def read_pid(self, name: str) -> int | None:
        """The pid last written for a process; None when there is none."""
        try:
            return int(self.pid_file(name).read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            return None

    def forget_pid(self, name: str) -> None:
        self.pid_file(name).unlink(missing_ok=True)

    def named_pids(self) -> dict[str, int]:
        """Every pid file that holds a number."""
        found = {path.stem: self.read_pid(path.stem) for path in sorted(self.pids.glob("*.pid"))}
        return {name: pid for name, pid in found.items() if pid is not None}

    def secrets(self) -> dict[str, str]:
        """The generated secrets, made once and kept, so that a restart keeps logins and data usable."""
        file = self.path / "secrets.json"
        known: dict[str, str] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        missing = [name for name in _SECRET_NAMES if name not in known]
        if missing:
            known |= {name: secrets.token_urlsafe(24) for name in missing}
            write_whole(file, json.dumps(known, indent=2) + "\n", mode=0o600)
        return known

    def write_env(self, values: Mapping[str, str]) -> None:
        """Writes `.run/env`, readable by its owner only."""
        write_whole(self.env_file, render_env(values), mode=0o600)

    def try_lock(self) -> bool:
        """Takes the lock of the supervisor until the process ends. False when somebody else holds it."""
        handle = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return False
        self._lock = handle
        return True

    def unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def supervised(self) -> bool:
        """Whether a living supervisor holds the lock."""
        if self._lock is not None:
            return True
        free = self.try_lock()
        self.unlock()
        return not free

    def erase(self) -> None:
        """Removes everything, data of the stores included."""
        shutil.rmtree(self.path)


def write_whole(path: Path, text: str, *, mode: int) -> None:
    """Writes a file so that a reader sees the old content or the new one, never a part."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    draft.chmod(mode)
    draft.replace(path)


def render_env(values: Mapping[str, str]) -> str:
    """Shell assignments, one a line, quoted where the shell would otherwise read more than the value."""
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())


def parse_env(text: str) -> dict[str, str]:
    """The values of a file that `render_env` wrote."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    pairs = (line.partition("=") for line in lines)
    return {name: "".join(shlex.split(value)) for name, _, value in pairs}
