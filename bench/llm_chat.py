"""What the llm service costs by itself: chats a second and CPU a chat, by lane and by plain calls, against an instant
upstream. Starts both as processes of their own.

Usage: python bench/llm_chat.py [--seconds 5] [--callers 32] [--database-url postgresql://…]
"""

import argparse
import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import uvloop
from mesh.llm.v1 import llm_pb2
from mesh.llm.v1.llm_pb2_grpc import LlmServiceStub

from chassis.clock import SystemClock
from chassis.config import Discovery, Process
from chassis.errors import Unavailable
from chassis.lifecycle import Host
from chassis.rpc.lane import open_lane
from chassis.rpc.peer import open_peer

_ROOT = Path(__file__).parents[1]
_NOWHERE = "postgresql://nobody@127.0.0.1:1/nowhere"

Call = Callable[[], Awaitable[None]]


@contextmanager
def _running(*arguments: str, **environment: str) -> Iterator[psutil.Process]:
    paths = {"PYTHONPATH": f"{_ROOT}:{_ROOT / 'proto'}"}
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=_ROOT, env={**paths, **environment}, stdout=subprocess.DEVNULL
    )
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--port", type=int, default=19_311, help="of the service; the next one is the upstream's")
    parser.add_argument("--database-url", default=_NOWHERE, help="a migrated database; without, usage is not written")
    options = parser.parse_args()
    upstream = f"http://127.0.0.1:{options.port + 1}/v1"
    settings = {
        "MESH_GRPC_PORT": str(options.port),
        "DATABASE_URL": options.database_url,
        "OPENAI_API_KEY": "bench",
        "OPENAI_BASE_URL": upstream,
        "OLLAMA_HOST": "http://127.0.0.1:1",
        "MESH_LOG_LEVEL": "error",
    }
    address = f"127.0.0.1:{options.port}"
    with (
        _running("bench/upstream.py", "--port", str(options.port + 1)),
        _running("-m", "services.llm", **settings) as service,
    ):
        uvloop.run(_measure_all(service, Discovery(backend="static", llm_address=address), options))


if __name__ == "__main__":
    main()
