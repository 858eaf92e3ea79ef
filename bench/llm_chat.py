"""What the llm service costs by itself: chats a second and CPU a chat, by lane and by plain calls, against an instant
upstream. Starts both as processes of their own, and a private Postgres for the usage.

Usage: python -m bench.llm_chat [--seconds 5] [--callers 32]
"""

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import psutil
import uvloop
from mesh.llm.v1 import llm_pb2
from mesh.llm.v1.llm_pb2_grpc import LlmServiceStub

from bench.support.processes import ROOT, free_port, process
from chassis.clock import SystemClock
from chassis.config import Discovery, Process
from chassis.errors import Unavailable
from chassis.lifecycle import Host
from chassis.rpc.lane import open_lane
from chassis.rpc.peer import open_peer
from deploy.local.state import StateDir
from deploy.local.stores.postgres import Postgres

Call = Callable[[], Awaitable[None]]


def _request() -> llm_pb2.ChatRequest:
    message = llm_pb2.Message(role="user", content="What is the answer to everything, in one word?")
    return llm_pb2.ChatRequest(model="bench", messages=[message], temperature=0.7, max_tokens=256, user_id="bench")


def _unary(stub: Any) -> Call:
    request = _request()

    async def call() -> None:
        answer = await stub.Chat(request, timeout=30)
        assert answer.usage.output_tokens == 16, answer

    return call


def _streamed(stub: Any) -> Call:
    request = _request()

    async def call() -> None:
        usage = 0
        async for event in stub.ChatStream(request, timeout=30):
            usage = event.usage.output_tokens or usage
        assert usage == 16

    return call


async def _measure(name: str, call: Call, service: psutil.Process, options: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    latencies: list[float] = []

    async def caller(until: float) -> None:
        while (began := loop.time()) < until:
            await call()
            latencies.append(loop.time() - began)

    await asyncio.gather(*(caller(loop.time() + 0.5) for _ in range(options.callers)))
    latencies.clear()
    used, began = _cpu_seconds(service), time.perf_counter()
    await asyncio.gather(*(caller(loop.time() + options.seconds) for _ in range(options.callers)))
    seconds, used = time.perf_counter() - began, _cpu_seconds(service) - used
    latencies.sort()
    count = len(latencies)
    print(
        f"{name:<16} {count / seconds:8.0f}/s   p50 {latencies[count // 2] * 1e3:6.2f} ms   "
        f"p99 {latencies[count * 99 // 100] * 1e3:6.2f} ms   service CPU {used / count * 1e6:6.0f} µs a call   "
        f"RSS {service.memory_info().rss / 1e6:.0f} MB",
        flush=True,
    )


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


async def _measure_all(service: psutil.Process, discovery: Discovery, options: argparse.Namespace) -> None:
    async with AsyncExitStack() as stack:
        host = Host("bench", Process(), SystemClock(), stack)
        lane = LlmServiceStub(await host.enter(open_lane(host, "llm", discovery)))
        peer = LlmServiceStub(await host.enter(open_peer(host, "llm", discovery)))
        async with asyncio.timeout(20):
            await _until_model_is_known(peer)
        print(f"{options.callers} callers, {options.seconds} s each, 16 tokens an answer")
        await _measure("lane", _unary(lane), service, options)
        await _measure("unary", _unary(peer), service, options)
        await _measure("lane, streamed", _streamed(lane), service, options)
        await _measure("unary, streamed", _streamed(peer), service, options)


async def _until_model_is_known(peer: Any) -> None:
    known = False
    while not known:
        await asyncio.sleep(0.2)
        try:
            answer = await peer.ListModels(llm_pb2.ListModelsRequest(), timeout=1)
        except Unavailable:
            continue
        known = any(model.name == "bench" for model in answer.models)


def _start(stack: ExitStack) -> tuple[psutil.Process, str]:
    """The service with all it needs; its process and its address."""
    folder = Path(tempfile.mkdtemp(prefix="agentmesh-bench-"))
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    postgres = Postgres(StateDir(folder))
    stack.callback(postgres.kill)
    postgres.start()
    port, upstream_port = free_port(), free_port()
    provider = {"name": "bench", "url": f"http://127.0.0.1:{upstream_port}/v1"}
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}",
        "DATABASE_URL": postgres.url,
        # Nobody is there: calls are measured, and tasks come another way.
        "AMQP_URL": "amqp://nobody@127.0.0.1:1/",
        "MESH_GRPC_PORT": str(port),
        "MESH_LLM_PROVIDERS": json.dumps([provider]),
        "MESH_LOG_LEVEL": "warning",
    }
    migrate = [sys.executable, "-m", "chassis.migrations", "llm"]
    subprocess.run(migrate, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    stack.enter_context(process(["bench/upstream.py", "--port", str(upstream_port)], environment, port=upstream_port))
    service = stack.enter_context(process(["-m", "services.llm"], environment, port=port))
    return psutil.Process(service), f"127.0.0.1:{port}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--callers", type=int, default=32)
    options = parser.parse_args()
    with ExitStack() as stack:
        service, address = _start(stack)
        uvloop.run(_measure_all(service, Discovery(backend="static", llm_address=address), options))


if __name__ == "__main__":
    main()
