"""envoyproxy/ratelimit, the service that ours stands in for: built from its public Go module, and started beside ours.

Knows how to build and run it; what it is compared in is up to the callers.
"""

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.support import go_program
from bench.support.go_program import Build, GoModule
from bench.support.processes import free_port, wait_for_port

PROGRAM = GoModule(
    name="ratelimit",
    module="github.com/envoyproxy/ratelimit",
    version="v1.4.1-0.20260122083618-3fb702589d36",
    package="src/service_cmd",
)


def build() -> Build:
    """Builds it, or says why not."""
    return go_program.build(PROGRAM)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Where it listens, each as host:port."""

    grpc: str
    http: str
    debug: str
    pid: int


@contextmanager
def started(
    program: Path,
    *,
    runtime_root: Path,
    subdirectory: str,
    redis: str,
    environment: Mapping[str, str] | None = None,
    output: Path | None = None,
) -> Iterator[Peer]:
    """Runs it over a Redis (host:port) with the descriptor files in ``runtime_root/subdirectory/config``.

    Args:
        output: where it writes its log and its statistics; nowhere by default.
    """
    ports = {name: free_port() for name in ("GRPC_PORT", "PORT", "DEBUG_PORT")}
    settings = {
        **os.environ,
        "HOST": "127.0.0.1",
        "GRPC_HOST": "127.0.0.1",
        "DEBUG_HOST": "127.0.0.1",
        "USE_STATSD": "false",
        "LOG_LEVEL": "error",
        "REDIS_SOCKET_TYPE": "tcp",
        "REDIS_URL": redis,
        "RUNTIME_ROOT": str(runtime_root),
        "RUNTIME_SUBDIRECTORY": subdirectory,
        "RUNTIME_WATCH_ROOT": "true",
        **{name: str(port) for name, port in ports.items()},
        **(environment or {}),
    }
    with (output or Path(os.devnull)).open("wb") as target:
        child = subprocess.Popen([program], env=settings, stdout=target, stderr=target)
    try:
        for port in ports.values():
            wait_for_port(port)
        addresses = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
        yield Peer(grpc=addresses["GRPC_PORT"], http=addresses["PORT"], debug=addresses["DEBUG_PORT"], pid=child.pid)
    finally:
        child.terminate()
        child.wait(10)
