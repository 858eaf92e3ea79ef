"""A private Redis with a password."""

import socket
from pathlib import Path
from shutil import which

from deploy.local.child import Command, OnLine
from deploy.local.ports import free_port
from deploy.local.problems import Problem
from deploy.local.state import StateDir, write_whole
from deploy.local.stores.store import Store, store_environment

_CONFIGURATION = """\
bind {host}
port {port}
dir {directory}
requirepass {password}
protected-mode yes
save 300 1
appendonly no
set-proc-title no
"""


class Redis(Store):
    """`redis-server` from the system, snapshots in its directory."""

    name = "redis"
    host = "127.0.0.1"

    def __init__(self, state: StateDir, on_line: OnLine | None = None) -> None:
        super().__init__(state, on_line)
        self.port = free_port()
        self._password = state.secrets()["REDIS_PASSWORD"]

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@{self.host}:{self.port}/0"

    def prepare(self) -> None:
        super().prepare()
        text = _CONFIGURATION.format(host=self.host, port=self.port, directory=self.directory, password=self._password)
        write_whole(self._file, text, mode=0o600)

    @property
    def _file(self) -> Path:
        return self.directory / "redis.conf"

    def command(self) -> Command:
        program = which("redis-server")
        if program is None:
            raise Problem("redis-server is not installed")
        return Command(argv=[program, self._file], env=store_environment(), cwd=self.directory)

    def answers(self) -> bool:
        try:
            # +PONG or, while it loads its snapshot, -LOADING.
            return self._ask("PING") == b"+PONG"
        except OSError:
            return False

    def flush(self) -> None:
        """Removes every key and function. Raises Problem when the server refuses."""
        for command in ("FLUSHALL", "FUNCTION FLUSH"):
            if (answer := self._ask(command)) != b"+OK":
                raise Problem(f"{command} was answered by {answer!r}")

    def _ask(self, command: str) -> bytes:
        with (
            socket.create_connection((self.host, self.port), timeout=1) as connection,
            connection.makefile("rb") as replies,
        ):
            connection.sendall(f"AUTH {self._password}\r\n{command}\r\n".encode())
            replies.readline()
            return replies.readline().strip()
