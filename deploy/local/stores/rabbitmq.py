"""A private RabbitMQ: its own node name, cookie, ports and port mapper, so that it meets no other Erlang here."""

import os
import re
import socket
from pathlib import Path
from shutil import which

from deploy.local.child import Child, Command, OnLine
from deploy.local.ports import free_port, is_free
from deploy.local.problems import Problem
from deploy.local.state import StateDir, write_whole
from deploy.local.stores.store import Store, store_environment

USER = "mesh"
NODE = "mesh@localhost"
_EPMD_START_SECONDS = 10.0
# One scheduler that does not spin: the defaults burn both cores of a small machine while idle.
_ERLANG_ARGUMENTS = "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}"
_SERVER = "rabbitmq_server-*/sbin/rabbitmq-server"

_CONFIGURATION = """\
listeners.tcp.1 = 127.0.0.1:{port}
default_user = {user}
default_pass = {password}
disk_free_limit.absolute = 64MB
log.console = true
log.console.level = info
log.file = false
"""


class RabbitMQ(Store):
    """The broker of the system's package, without plugins."""

    name = "rabbitmq"

    def __init__(self, state: StateDir, on_line: OnLine | None = None) -> None:
        super().__init__(state, on_line)
        self.port, self._distribution_port, self.epmd_port = free_port(), free_port(), free_port()
        self._epmd = Child("epmd", state, on_line)
        self._password = state.secrets()["RABBITMQ_PASSWORD"]

    @property
    def url(self) -> str:
        return self.url_of("%2F")

    def url_of(self, vhost: str) -> str:
        """The address of one of its virtual hosts, whose name is given as it stands in a URL."""
        return f"amqp://{USER}:{self._password}@127.0.0.1:{self.port}/{vhost}"

    @property
    def children(self) -> tuple[Child, ...]:
        return self.child, self._epmd

    def prepare(self) -> None:
        super().prepare()
        configuration = _CONFIGURATION.format(port=self.port, user=USER, password=self._password)
        write_whole(self.directory / "rabbitmq.conf", configuration, mode=0o600)
        write_whole(self.directory / "enabled_plugins", "[].\n", mode=0o600)
        cookie = self.directory / ".erlang.cookie"
        if not cookie.exists():
            write_whole(cookie, self.state.secrets()["ERLANG_COOKIE"], mode=0o400)

    def environment(self) -> dict[str, str]:
        """What any Erlang program needs to find this node and its cookie."""
        return {
            **store_environment(),
            "HOME": str(self.directory),
            "ERL_EPMD_PORT": str(self.epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }

    def start(self) -> None:
        if not self._epmd.alive:
            self._start_epmd()
        super().start()

    def _start_epmd(self) -> None:
        # Started by hand and in the foreground: left to itself it becomes a daemon that nobody ever ends.
        program = which("epmd")
        if program is None:
            raise Problem("rabbitmq-server is not installed (no epmd)")
        argv = [program, "-port", str(self.epmd_port), "-address", "127.0.0.1"]
        self._epmd.start(Command(argv=argv, env=store_environment()))
        self._epmd.wait_until(lambda: not is_free(self.epmd_port), _EPMD_START_SECONDS)

    def command(self) -> Command:
        home = self.directory
        environment = {
            **self.environment(),
            "RABBITMQ_NODENAME": NODE,
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_MNESIA_BASE": str(home / "data"),
            "RABBITMQ_LOG_BASE": str(home / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": _ERLANG_ARGUMENTS,
            # Makes the start script become the server instead of waiting for it: our pid is the server's.
            "RUNNING_UNDER_SYSTEMD": "1",
        }
        return Command(argv=[server_script()], env=environment, cwd=home, grace_seconds=20)

    def answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                # It listens last of all; connection.start is its answer to the protocol header.
                return connection.recv(1) == b"\x01"
        except OSError:
            return False

    def stop(self) -> None:
        super().stop()
        self._epmd.stop()

    def kill(self) -> None:
        super().kill()
        # A power cut would take it too; left alive it would still know the dead node's name.
        self._epmd.kill()


def server_script(library: Path = Path("/usr/lib/rabbitmq/lib")) -> Path:
    """The real start script: the one on PATH refuses every user but root and `rabbitmq`. The newest one counts."""
    found = sorted(library.glob(_SERVER), key=lambda path: [int(n) for n in re.findall(r"\d+", path.parts[-3])])
    if not found:
        raise Problem("rabbitmq-server is not installed")
    return found[-1]
