"""What the rate-limit benchmark asks the service itself, with its own clients: by lane, one by one, and for figures."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from itertools import count, cycle
from typing import Any

import grpc
import redis
from mesh.ratelimit.v1 import ratelimit_pb2 as pb

from bench.support.limiter_stage import DECIDE, NOBODY, SHOULD, Answers, Stage, decide_request, should_request
from bench.support.load import Load
from chassis import telemetry
from chassis.clock import SystemClock
from chassis.config import Discovery, Process, Telemetry
from chassis.lifecycle import Host
from chassis.rpc.lane import open_lane

_LONGEST_START_SECONDS = 20.0
_SCRIPT_FRAMES = 50
_SPANS = 100_000


async def over_lane(address: str, made: Callable[[], bytes], callers: int, duration: float, rate: int = 0) -> Load:
    """Calls over a lane for so long, as many at a time as there are callers; `made` gives the next request.

    Args:
        rate: calls a second, evenly; 0: as many as are answered.
    """
    async with AsyncExitStack() as stack:
        host = Host("bench", Process(), SystemClock(), stack)
        settings = Discovery(backend="static", ratelimit_address=address)
        lane: Any = await stack.enter_async_context(open_lane(host, "ratelimit", settings))
        send = lane.unary_unary(f"/{DECIDE}", bytes, bytes)
        taken: list[float] = []
        began = time.perf_counter()

        turns = count()

        async def caller() -> None:
            while (sent := time.perf_counter()) < began + duration:
                if rate and (wait := began + next(turns) / rate - sent) > 0:
                    await asyncio.sleep(wait)
                    sent = time.perf_counter()
                await send(made(), timeout=30)
                taken.append(time.perf_counter() - sent)

        await asyncio.gather(*(caller() for _ in range(callers)))
        seconds = time.perf_counter() - began
    taken.sort()
    p50, p99 = (taken[int(len(taken) * part)] * 1000 for part in (0.5, 0.99))
    return Load(requests=len(taken), seconds=seconds, p50=p50, p99=p99, bad=0)


async def answers_of(stage: Stage) -> Answers:
    """What the service answers once Redis decides; raises TimeoutError when it never does."""
    users = cycle(range(1))
    async with asyncio.timeout(_LONGEST_START_SECONDS):
        for name in ("traced", "service"):
            async with grpc.aio.insecure_channel(stage.addresses[f"{name} mesh"]) as channel:
                decide, should = (_caller(channel, method) for method in (DECIDE, SHOULD))
                body = await decide(decide_request(users, 1).SerializeToString())
                while pb.DecideResponse.FromString(body).decisions[0].degraded:
                    await asyncio.sleep(0.1)
                    body = await decide(decide_request(users, 1).SerializeToString())
                answers = Answers(decide=body, should=await should(should_request(users, 1).SerializeToString()))
    return answers


def _caller(channel: grpc.aio.Channel, method: str) -> Any:
    return channel.unary_unary(f"/{method}")


async def script_calls(stage: Stage) -> dict[int, Counter[int]]:
    """How many script calls a frame took, as Redis counts them: by the rules of each request, frames by their calls.

    Frames that memory decided are left out.
    """
    users = cycle(range(1000))
    found: dict[int, Counter[int]] = {}
    async with grpc.aio.insecure_channel(stage.addresses["service mesh"]) as channel:
        decide = _caller(channel, DECIDE)
        for rules in range(1, 9):
            found[rules] = Counter()
            for _ in range(_SCRIPT_FRAMES):
                before = _scripts_run(stage.redis_port)
                body = await decide(decide_request(users, 8, f"bench.rules_{rules}").SerializeToString())
                if not pb.DecideResponse.FromString(body).decisions[0].degraded:
                    found[rules][_scripts_run(stage.redis_port) - before] += 1
    return found


def _scripts_run(port: int) -> int:
    with redis.Redis(port=port) as client:
        said: Any = client.info("commandstats")
    return sum(said[name]["calls"] for name in ("cmdstat_evalsha", "cmdstat_eval") if name in said)


def span_cost_us() -> float:
    """CPU of the tracing code alone, which the difference between two series hides in its noise."""
    parent = telemetry.new_traceparent(sampled=False)
    with telemetry.open_telemetry("bench", "bench", Telemetry.model_validate({"endpoint": NOBODY, "ratio": 0.0})):
        began = time.thread_time()
        for _ in range(_SPANS):
            with telemetry.span("Decide", telemetry.SERVER, parent):
                pass
        return (time.thread_time() - began) / _SPANS * 1e6


async def tally_of(address: str) -> tuple[int, int]:
    """Decisions so far, and how many of them came from memory because Redis was late."""
    async with grpc.aio.insecure_channel(address) as channel:
        body: bytes = await _caller(channel, "mesh.ratelimit.v1.RatelimitService/GetStatus")(b"")
    status = pb.GetStatusResponse.FromString(body)
    return status.decisions, status.degraded_decisions
