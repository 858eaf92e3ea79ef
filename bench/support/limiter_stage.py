"""What the rate-limit benchmark measures, side by side: the service, an echo, the peer, and the Redis they share."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory

from envoy.extensions.common.ratelimit.v3 import ratelimit_pb2 as common_pb
from envoy.service.ratelimit.v3 import rls_pb2
from mesh.ratelimit.v1 import ratelimit_pb2 as pb

from bench.support import envoy_ratelimit
from bench.support.ghz import Target, write_descriptors, write_requests
from bench.support.processes import ROOT, free_port, process, wait_for_port

DECIDE = "mesh.ratelimit.v1.RatelimitService/Decide"
SHOULD = "envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"

# One sliding window, and one with a token bucket beside it; nobody reaches any of them.
_SLIDING = "{{ name: {name}, algorithm: sliding_window, per: user, limit: 1000, window: 1m }}"
_BUCKET = "{{ name: {name}, algorithm: token_bucket, per: user, limit: 1000, window: 1s }}"
_FIXED = "{{ name: {name}, algorithm: fixed_window, per: user, limit: 100000, window: 1h }}"
_MOST_RULES = 8
# Where spans would go if any were recorded.
NOBODY = "http://127.0.0.1:9"
_RUNTIME = "runtime"
_KEYS = tuple(f"k{index}" for index in range(8))


def rules_file() -> str:
    """Classes ``bench.rules_1`` to ``bench.rules_8``, each with so many rules, and ``bench.bucket``: a token bucket."""
    lines = ["version: 1", "classes:", "  bench.bucket:", f"    - {_BUCKET.format(name='bench_bucket')}"]
    for count in range(1, _MOST_RULES + 1):
        lines.append(f"  bench.rules_{count}:")
        kinds = cycle((_SLIDING, _BUCKET, _FIXED))
        lines += [f"    - {next(kinds).format(name=f'bench_{count}_{index}')}" for index in range(count)]
    return "\n".join(lines) + "\n"


def descriptor_file() -> str:
    """For envoyproxy/ratelimit and for the service in its place: eight keys, each with a fixed window."""
    limit = "rate_limit: { unit: hour, requests_per_unit: 1000000 }"
    return "\n".join(["domain: bench", "descriptors:", *(f"  - {{ key: {key}, {limit} }}" for key in _KEYS)]) + "\n"


def decide_request(users: "cycle[int]", subjects: int, route_class: str = "bench.rules_1") -> pb.DecideRequest:
    """A call for so many users."""
    return pb.DecideRequest(
        subjects=[
            pb.Subject(route_class=route_class, user=f"user-{next(users)}", role="user", ip="::1")
            for _ in range(subjects)
        ]
    )


def should_request(users: "cycle[int]", descriptors: int) -> rls_pb2.RateLimitRequest:
    """A call of one user with so many descriptors."""
    user = f"user-{next(users)}"
    entry = common_pb.RateLimitDescriptor.Entry
    return rls_pb2.RateLimitRequest(
        domain="bench",
        descriptors=[
            common_pb.RateLimitDescriptor(entries=[entry(key=key, value=user)]) for key in _KEYS[:descriptors]
        ],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What the service answers, for the echo to answer as much."""

    decide: bytes
    should: bytes


class Stage:
    """Everything that runs, by name in `pids`; it ends with the stack."""

    def __init__(self, stack: ExitStack, users: int, peer: Path | None) -> None:
        self._stack = stack
        self._users = users
        self.folder = Path(stack.enter_context(TemporaryDirectory(prefix="agentmesh-bench-")))
        self.addresses: dict[str, str] = {}
        self.pids: dict[str, int] = {}
        (self.folder / "rules.yaml").write_text(rules_file(), encoding="utf-8")
        # The peer finds nothing without a folder between its root and its configuration.
        (self.folder / _RUNTIME / "config").mkdir(parents=True)
        (self.folder / _RUNTIME / "config" / "bench.yaml").write_text(descriptor_file(), encoding="utf-8")
        write_descriptors(self.folder / "descriptors", pb.DESCRIPTOR, rls_pb2.DESCRIPTOR)
        self.redis_port = self._start_redis()
        self._start_service("service", {})
        self._start_service("traced", {"OTEL_EXPORTER_OTLP_ENDPOINT": NOBODY, "OTEL_TRACES_SAMPLER_ARG": "0"})
        if peer is not None:
            self._start_peer(peer)

    def target(self, name: str, method: str, size: int, route_class: str = "bench.rules_1") -> Target:
        """Calls of so many decisions each to the process of that name, all users in turn."""
        path = self.folder / f"{method.rpartition('/')[2]}-{size}-{route_class}"
        if not path.exists():
            users = cycle(range(self._users))
            count = max(512, self._users // size)
            if method == DECIDE:
                write_requests(path, (decide_request(users, size, route_class) for _ in range(count)))
            else:
                write_requests(path, (should_request(users, size) for _ in range(count)))
        address = self.addresses[f"{name} {'mesh' if method == DECIDE else 'envoy'}"]
        return Target(address=address, method=method, descriptors=self.folder / "descriptors", requests=path)

    def start_echo(self, answers: Answers) -> None:
        """Starts the echo, which answers each method with the same bytes."""
        port = free_port()
        told = [f"{DECIDE}={answers.decide.hex()}", f"{SHOULD}={answers.should.hex()}"]
        self._run("echo", ["bench/ratelimit_echo.py", str(port), *told], {}, port)
        self.addresses |= {"echo mesh": f"127.0.0.1:{port}", "echo envoy": f"127.0.0.1:{port}"}

    def _start_redis(self) -> int:
        program = shutil.which("redis-server")
        if program is None:
            sys.exit("redis-server is needed: apt-get install redis-server")
        port = free_port()
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        child = subprocess.Popen([program, *options, "--dir", str(self.folder)], stdout=subprocess.DEVNULL)
        self._stack.callback(child.wait, 10)
        self._stack.callback(child.terminate)
        wait_for_port(port)
        self.pids["redis"] = child.pid
        return port

    def _start_service(self, name: str, more: Mapping[str, str]) -> None:
        ports = {name: free_port() for name in ("MESH_GRPC_PORT", "GRPC_PORT", "PORT", "DEBUG_PORT")}
        settings = {
            "REDIS_URL": f"redis://127.0.0.1:{self.redis_port}/0",
            "MESH_LOG_LEVEL": "error",
            "MESH_RATE_LIMITS_FILE": str(self.folder / "rules.yaml"),
            "RUNTIME_ROOT": str(self.folder),
            "RUNTIME_SUBDIRECTORY": _RUNTIME,
            "RUNTIME_WATCH_ROOT": "true",
        }
        settings |= {name: str(port) for name, port in ports.items()}
        self._run(name, ["-m", "services.ratelimit"], settings | dict(more), ports["MESH_GRPC_PORT"])
        self.addresses[f"{name} mesh"] = f"127.0.0.1:{ports['MESH_GRPC_PORT']}"
        self.addresses[f"{name} envoy"] = f"127.0.0.1:{ports['GRPC_PORT']}"

    def _start_peer(self, program: Path) -> None:
        peer = self._stack.enter_context(
            envoy_ratelimit.started(
                program, runtime_root=self.folder, subdirectory=_RUNTIME, redis=f"127.0.0.1:{self.redis_port}"
            )
        )
        self.addresses["peer envoy"] = peer.grpc
        self.pids["peer"] = peer.pid

    def _run(self, name: str, arguments: list[str], settings: Mapping[str, str], port: int) -> None:
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}", **settings}
        self.pids[name] = self._stack.enter_context(process(arguments, environment, port=port))
