"""Decisions a second of the whole ratelimit service with a private Redis, beside a bare grpc.aio echo in the same run.

Singles as unary calls and over a lane, batches of 8 and of 64 subjects a call; for each the rate, the latency and the
CPU of every process. Everything runs on this machine, load generator included.

Usage: python bench/ratelimit_decisions.py [--seconds 5] [--callers 64] [--users 10000] [--class v1.cache]
"""

import argparse
import asyncio
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import grpc
import psutil
import uvloop
from mesh.ratelimit.v1 import ratelimit_pb2 as pb

from chassis.clock import SystemClock
from chassis.config import Discovery, Process
from chassis.lifecycle import Host
from chassis.rpc.lane import open_lane

_ROOT = Path(__file__).parents[1]
_DECIDE = "/mesh.ratelimit.v1.RatelimitService/Decide"
_ECHO = "/bench.Echo/Echo"
_REQUESTS = 512

Call = Callable[[bytes], Awaitable[bytes]]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _running(*command: str, **environment: str) -> Iterator[psutil.Process]:
    environment["PYTHONPATH"] = f"{_ROOT}:{_ROOT / 'proto'}"
    process = subprocess.Popen(command, cwd=_ROOT, env=environment, stdout=subprocess.DEVNULL)
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


@contextmanager
def _redis(port: int) -> Iterator[psutil.Process]:
    program = shutil.which("redis-server")
    if program is None:
        sys.exit("redis-server is needed: apt-get install redis-server")
    with tempfile.TemporaryDirectory() as folder:
        options = ("--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder)
        with _running(program, *options) as process:
            yield process


class Bench:
    """What is measured, and beside whom."""

    def __init__(self, options: argparse.Namespace, processes: dict[str, psutil.Process]) -> None:
        self._options = options
        self._processes = processes | {"load": psutil.Process()}
        self._singles: dict[str, float] = {}

    def requests(self, size: int) -> list[bytes]:
        """Calls of so many subjects each, all users in turn, as bytes: making them is not what is measured."""
        users = cycle(range(self._options.users))
        return [
            pb.DecideRequest(
                subjects=[
                    pb.Subject(route_class=self._options.route_class, user=f"user-{next(users)}", role="user", ip="::1")
                    for _ in range(size)
                ]
            ).SerializeToString()
            for _ in range(max(_REQUESTS, self._options.users // size))
        ]

    async def measure(self, name: str, call: Call, size: int, callers: int) -> None:
        """Runs calls of `size` decisions from `callers` callers and prints what came of it."""
        if name != "echo" and self._options.only not in name:
            return
        todo = cycle(self.requests(size))
        taken: list[float] = []

        async def caller(until: float) -> None:
            while (began := time.perf_counter()) < until:
                await call(next(todo))
                taken.append(time.perf_counter() - began)

        await asyncio.gather(*(caller(time.perf_counter() + 0.5) for _ in range(callers)))
        taken.clear()
        before = {who: _cpu_seconds(process) for who, process in self._processes.items()}
        began = time.perf_counter()
        await asyncio.gather(*(caller(began + self._options.seconds) for _ in range(callers)))
        seconds = time.perf_counter() - began
        self._singles[name] = len(taken) / seconds
        self._print(name, taken, size, seconds, before)

    def _print(self, name: str, taken: list[float], size: int, seconds: float, before: dict[str, float]) -> None:
        decisions = len(taken) * size
        cpu = "  ".join(
            f"{who} {(_cpu_seconds(process) - before[who]) / decisions * 1e6:5.1f}"
            for who, process in self._processes.items()
        )
        taken.sort()
        p50, p99 = (taken[int(len(taken) * part)] * 1000 for part in (0.5, 0.99))
        ratio = f"{self._singles[name] / self._singles['echo']:5.2f}" if "echo" in self._singles else "    -"
        print(
            f"{name:18} {decisions / seconds:9,.0f}/s  calls {len(taken) / seconds:8,.0f}/s  × echo {ratio}  "
            f"p50 {p50:6.2f} ms  p99 {p99:6.2f} ms  µs CPU a decision: {cpu}",
            flush=True,
        )


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _unary(channel: grpc.aio.Channel, method: str) -> Call:
    send: Any = channel.unary_unary(method)

    async def call(body: bytes) -> bytes:
        answer: bytes = await send(body, timeout=30)
        return answer

    return call


async def _lane(stack: AsyncExitStack, address: str) -> Call:
    host = Host("bench", Process(), SystemClock(), stack)
    settings = Discovery(backend="static", ratelimit_address=address)
    lane: Any = await stack.enter_async_context(open_lane(host, "ratelimit", settings))
    send = lane.unary_unary(_DECIDE, lambda body: body, lambda body: body)

    async def call(body: bytes) -> bytes:
        answer: bytes = await send(body, timeout=30)
        return answer

    return call


async def _measure_all(bench: Bench, options: argparse.Namespace, ports: dict[str, int]) -> None:
    async with AsyncExitStack() as stack:
        channels = {}
        for name, port in ports.items():
            channels[name] = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
            await channels[name].channel_ready()
        decide = _unary(channels["service"], _DECIDE)
        lane = await _lane(stack, f"127.0.0.1:{ports['service']}")
        first = pb.DecideResponse.FromString(await decide(bench.requests(1)[0]))
        while first.decisions[0].degraded:
            await asyncio.sleep(0.1)
            first = pb.DecideResponse.FromString(await decide(bench.requests(1)[0]))
        print(f"each decision: {len(first.decisions[0].rules)} rule(s), class {options.route_class}")
        await bench.measure("echo", _unary(channels["echo"], _ECHO), 1, options.callers)
        await bench.measure("single, unary", decide, 1, options.callers)
        await bench.measure("single, lane", lane, 1, options.callers)
        await bench.measure("batch of 8, unary", decide, 8, options.callers // 2)
        await bench.measure("batch of 64, unary", decide, 64, options.callers // 4)
        await bench.measure("batch of 64, lane", lane, 64, options.callers // 4)
        status: Any = channels["service"].unary_unary("/mesh.ratelimit.v1.RatelimitService/GetStatus")
        print(str(pb.GetStatusResponse.FromString(await status(b""))).replace("\n", "  "))


def main() -> None:
    """Starts everything, measures, ends everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--class", dest="route_class", default="v1.cache")
    parser.add_argument("--rules", default="")
    parser.add_argument("--store-deadline", default="0.01", help="seconds")
    parser.add_argument("--only", default="", help="measure only what has this in its name, and the echo")
    options = parser.parse_args()
    ports = {"echo": _free_port(), "service": _free_port()}
    redis_port = _free_port()
    service = {
        "MESH_GRPC_PORT": str(ports["service"]),
        "REDIS_URL": f"redis://127.0.0.1:{redis_port}/0",
        "MESH_RATE_LIMITS_FILE": options.rules,
        "MESH_RATE_LIMITS_STORE_DEADLINE_SECONDS": options.store_deadline,
    }
    with ExitStack() as stack:
        processes = {
            "redis": stack.enter_context(_redis(redis_port)),
            "service": stack.enter_context(_running(sys.executable, "-m", "services.ratelimit", **service)),
        }
        processes["echo"] = stack.enter_context(_running(sys.executable, "bench/ratelimit_echo.py", str(ports["echo"])))
        uvloop.run(_measure_all(Bench(options, processes), options, ports))


if __name__ == "__main__":
    main()
