"""envoyproxy/ratelimit, the service that ours stands in for: built from its public Go module, and started beside ours.

Knows how to build and run it; what it is compared in is up to the callers.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.support.processes import free_port, wait_for_port

MODULE = "github.com/envoyproxy/ratelimit"
# The version that was compared; the proxy of Go modules keeps it.
VERSION = "v1.4.1-0.20260122083618-3fb702589d36"
_BUILD_SECONDS = 900


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """The program, or a sentence that says why there is none."""

    program: Path | None
    reason: str


def build() -> Build:
    """Builds it once into the user's cache directory; takes about a minute the first time."""
    program = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agentmesh" / f"ratelimit-{VERSION}"
    if program.exists():
        return Build(program=program, reason="")
    if shutil.which("go") is None:
        return Build(program=None, reason="Go is not installed, so envoyproxy/ratelimit is left out")
    program.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder:
        work = Path(folder)
        # A module around it and no `go install`: that one refuses modules that replace others.
        (work / "go.mod").write_text(f"module peer\n\ngo 1.25\n\nrequire {MODULE} {VERSION}\n", encoding="utf-8")
        built = work / "service"
        command = ["go", "build", "-mod=mod", "-o", str(built), f"{MODULE}/src/service_cmd"]
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            return Build(program=None, reason=f"envoyproxy/ratelimit does not build here and is left out: {last}")
        # Beside its place first: who looks meanwhile finds a whole program or none.
        beside = program.with_suffix(f".{os.getpid()}")
        shutil.copy(built, beside)
        beside.chmod(0o755)
        beside.rename(program)
    return Build(program=program, reason="")


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
