"""A private Consul agent that keeps nothing: every service registers again by itself after a restart."""

import json
import re
import subprocess
import urllib.request
from pathlib import Path

from deploy.local.child import Command, OnLine
from deploy.local.ports import free_port
from deploy.local.state import StateDir, write_whole
from deploy.local.stores.store import Store, store_environment

_OFF = -1
_TLS_PORT_SINCE = (1, 14)


class Consul(Store):
    """`consul agent -dev` on loopback, with HTTP as its only face."""

    name = "consul"

    def __init__(self, state: StateDir, program: Path, on_line: OnLine | None = None) -> None:
        super().__init__(state, on_line)
        self._program = program
        self.port, self._serf_port, self._server_port = free_port(), free_port(), free_port()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def prepare(self) -> None:
        super().prepare()
        ports = {"http": self.port, "serf_lan": self._serf_port, "server": self._server_port}
        ports |= dict.fromkeys(("dns", "grpc", "serf_wan"), _OFF)
        if version_of(self._program) >= _TLS_PORT_SINCE:
            ports["grpc_tls"] = _OFF
        settings: dict[str, object] = {
            "bind_addr": "127.0.0.1",
            "client_addr": "127.0.0.1",
            "ports": ports,
            "node_name": "mesh",
        }
        settings |= {"disable_update_check": True, "log_level": "WARN"}
        write_whole(self.directory / "consul.json", json.dumps(settings), mode=0o600)

    def command(self) -> Command:
        file = self.directory / "consul.json"
        argv = [str(self._program), "agent", "-dev", f"-config-file={file}"]
        return Command(argv=argv, env=store_environment(HOME=str(self.directory)), cwd=self.directory)

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/v1/status/leader", timeout=1) as answer:  # noqa: S310 - always http
                return len(json.load(answer)) > 0
        except OSError:
            return False


def version_of(program: Path) -> tuple[int, int]:
    """Major and minor version as the program itself tells them; (0, 0) when it does not."""
    said = subprocess.run([program, "version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"v(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else (0, 0)
