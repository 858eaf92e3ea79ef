"""A private Jaeger that keeps its traces in memory."""

import socket
import urllib.request
from pathlib import Path

import yaml

from deploy.local.child import Command, OnLine
from deploy.local.ports import free_port
from deploy.local.state import StateDir, write_whole
from deploy.local.stores.store import Store, store_environment

_TRACES_KEPT = 50_000


class Jaeger(Store):
    """Jaeger v2: OTLP over gRPC in, its page and query API out."""

    name = "jaeger"

    def __init__(self, state: StateDir, program: Path, on_line: OnLine | None = None) -> None:
        super().__init__(state, on_line)
        self._program = program
        self._otlp_port, self._page_port, self._query_port = free_port(), free_port(), free_port()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._otlp_port}"

    @property
    def page_url(self) -> str:
        """Where a person looks at traces."""
        return f"http://127.0.0.1:{self._page_port}"

    def prepare(self) -> None:
        super().prepare()
        write_whole(self.directory / "jaeger.yaml", yaml.safe_dump(self._settings()), mode=0o600)

    def _settings(self) -> dict[str, object]:
        query = {
            "storage": {"traces": "memory"},
            "http": {"endpoint": f"127.0.0.1:{self._page_port}"},
            "grpc": {"endpoint": f"127.0.0.1:{self._query_port}"},
        }
        storage = {"backends": {"memory": {"memory": {"max_traces": _TRACES_KEPT}}}}
        pipeline = {"receivers": ["otlp"], "exporters": ["jaeger_storage_exporter"]}
        return {
            "extensions": {"jaeger_storage": storage, "jaeger_query": query},
            "receivers": {"otlp": {"protocols": {"grpc": {"endpoint": f"127.0.0.1:{self._otlp_port}"}}}},
            "exporters": {"jaeger_storage_exporter": {"trace_storage": "memory"}},
            "service": {
                "extensions": ["jaeger_storage", "jaeger_query"],
                "pipelines": {"traces": pipeline},
                # Its own metrics would be one more port, and its own traces would be traces of nobody's request.
                "telemetry": {"metrics": {"level": "none"}, "traces": {"level": "none"}},
            },
        }

    def command(self) -> Command:
        argv = [str(self._program), "--config", str(self.directory / "jaeger.yaml")]
        # It would trace itself, to an address where nothing listens, and wait for that when it ends.
        env = store_environment(HOME=str(self.directory), OTEL_TRACES_SAMPLER="always_off", OTEL_SDK_DISABLED="true")
        # Whatever it holds is in memory only: nothing is lost by a short end.
        return Command(argv=argv, env=env, cwd=self.directory, grace_seconds=2)

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.page_url}/api/services", timeout=1):  # noqa: S310 - always http
                pass
            with socket.create_connection(("127.0.0.1", self._otlp_port), timeout=1):
                return True
        except OSError:
            return False
