"""Decisions a second of the whole ratelimit service with a private Redis, on both of its faces.

In the same run and under the same load generator (ghz): a bare grpc.aio echo with messages of the same size, and
envoyproxy/ratelimit. Every round measures each of them once, in alternating order; figures are medians over the rounds
with the lowest and the highest, and ratios are medians of the ratios within a round. Lanes have our own client. Load
generators, Redis and all servers share this machine.

Usage: python -m bench.ratelimit_decisions [--seconds 4] [--rounds 5] [--callers 64] [--users 10000] [--only TEXT]
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

import uvloop

from bench.support import envoy_ratelimit, ghz
from bench.support.go_program import build
from bench.support.limiter_probe import answers_of, over_lane, script_calls, span_cost_us, tally_of
from bench.support.limiter_stage import DECIDE, SHOULD, Stage, decide_request
from bench.support.load import Load
from bench.support.processes import Usage, busy_seconds
from chassis import telemetry

# CPU is for each decision: of the server, of Redis and of the load generator. What Redis answers too late is decided
# from memory. Others are all processes that are no part of this: how disturbed the figures are.
_HEADINGS = (
    "",
    "calls/s (lowest–highest)",
    "decisions/s",
    "beside",
    "p50 ms",
    "p99 ms",
    "CPU µs",
    "Redis µs",
    "load µs",
    "from memory %",
    "others %",
)
_OURS = ("service", "traced")


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One thing to measure.

    Args:
        server: whose CPU is shown, a name of the stage.
        size: decisions in a call.
        beside: the series of the same round that it is compared with, if any.
        half: at half of the rate that this series had in the round.
    """

    name: str
    server: str
    size: int
    run: Callable[[int], tuple[Load, float]]
    beside: str = ""
    half: str = ""
    loads: list[Load] = field(default_factory=list)
    cpu: list[dict[str, float]] = field(default_factory=list)
    from_memory: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)


class Bench:
    """All series, round by round."""

    def __init__(self, stage: Stage, program: Path | None, options: argparse.Namespace) -> None:
        self._stage = stage
        self._program = program
        self._options = options
        self.series: dict[str, Series] = {}

    def add(self, name: str, server: str, size: int, **more: Any) -> None:
        """Adds calls of so many decisions by ghz, where there is one and the server runs."""
        face = more.pop("face", DECIDE)
        kind = "mesh" if face == DECIDE else "envoy"
        if self._program is None or f"{server} {kind}" not in self._stage.addresses:
            return
        program, options = self._program, self._options
        target = self._stage.target(server, face, size, more.pop("route_class", "bench.rules_1"))
        metadata = more.pop("metadata", None)

        def run(rate: int) -> tuple[Load, float]:
            seconds, callers = options.seconds, options.callers
            return ghz.call(program, target, callers=callers, seconds=seconds, rate=rate, metadata=metadata)

        self._keep(Series(name=name, server=server, size=size, run=run, **more))

    def add_lane(self, name: str, size: int, route_class: str = "bench.rules_1", half: str = "") -> None:
        """Adds calls of so many decisions over a lane by our own client."""
        address, options = self._stage.addresses["service mesh"], self._options
        users, count = cycle(range(options.users)), max(512, options.users // size)
        # Making requests is not what is measured.
        bodies = cycle([decide_request(users, size, route_class).SerializeToString() for _ in range(count)])

        def run(rate: int) -> tuple[Load, float]:
            used = time.process_time()
            callers = max(16, options.callers // size)
            load = uvloop.run(over_lane(address, bodies.__next__, callers, options.seconds, rate))
            return load, time.process_time() - used

        self._keep(Series(name=name, server="service", size=size, run=run, half=half))

    def _keep(self, series: Series) -> None:
        if self._options.only in series.name:
            self.series[series.name] = series

    def measure(self) -> None:
        """Runs all rounds."""
        for number in range(self._options.rounds):
            # What depends on another's rate comes after it in any order.
            ordered = list(self.series.values())[:: -1 if number % 2 else 1]
            for series in sorted(ordered, key=lambda one: bool(one.half)):
                rate = 0
                if series.half:
                    if series.half not in self.series:
                        continue
                    rate = max(1, round(self.series[series.half].loads[-1].per_second / 2))
                self._measure_once(series, rate)
                print(f"round {number + 1}: {series.name}: {series.loads[-1].per_second:,.0f} calls/s", file=sys.stderr)

    def _measure_once(self, series: Series, rate: int) -> None:
        address = self._stage.addresses.get(f"{series.server} mesh") if series.server in _OURS else None
        before = asyncio.run(tally_of(address)) if address else (0, 0)
        usage, busy = Usage(self._stage.pids), busy_seconds()
        load, used = series.run(rate)
        decisions = load.requests * series.size
        seconds = usage.seconds() | {"load": used}
        others = busy_seconds() - busy - sum(seconds.values())
        series.others.append(100 * max(0.0, others) / load.seconds / (os.cpu_count() or 1))
        series.loads.append(load)
        series.cpu.append({who: spent / decisions * 1e6 for who, spent in seconds.items()})
        after = asyncio.run(tally_of(address)) if address else (0, 0)
        series.from_memory.append(100 * (after[1] - before[1]) / max(1, after[0] - before[0]))

    def print(self) -> None:
        """Prints one row for each series."""
        print(f"| {' | '.join(_HEADINGS)} |\n|{'---|' * len(_HEADINGS)}")
        for one in self.series.values():
            if one.loads:
                print(self._row(one))

    def _row(self, one: Series) -> str:
        rates = [load.per_second for load in one.loads]
        ratio = ""
        if other := self.series.get(one.beside):
            ratios = [mine / its.per_second for mine, its in zip(rates, other.loads, strict=True)]
            ratio = f"{median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f}) × {other.name}"
        spent = [f"{median(cpu.get(who, 0.0) for cpu in one.cpu):.1f}" for who in (one.server, "redis", "load")]
        failed = sum(load.bad for load in one.loads)
        cells = [
            one.name + (f" ({failed} failed)" if failed else ""),
            f"{median(rates):,.0f} ({min(rates):,.0f}–{max(rates):,.0f})",
            f"{median(rates) * one.size:,.0f}",
            ratio,
            f"{median(load.p50 for load in one.loads):.2f}",
            f"{median(load.p99 for load in one.loads):.1f}",
            *spent,
            f"{median(one.from_memory):.1f}" if one.server in _OURS else "",
            f"{median(one.others):.0f}",
        ]
        return f"| {' | '.join(cells)} |"


def _add_all(bench: Bench) -> None:
    bench.add("echo", "echo", 1)
    bench.add("single, 1 rule", "service", 1, beside="echo")
    bench.add("single, 2 rules", "service", 1, route_class="bench.rules_2", beside="echo")
    bench.add("unary, 8 a call", "service", 8)
    bench.add("unary, 64 a call", "service", 64)
    bench.add_lane("lane, 1 a call", 1)
    bench.add_lane("lane, 8 a call", 8)
    bench.add_lane("lane, 64 a call", 64)
    bench.add_lane("lane, 64 a call, token bucket", 64, "bench.bucket")
    bench.add("RLS envoyproxy, 1", "peer", 1, face=SHOULD)
    bench.add("RLS echo, 1", "echo", 1, face=SHOULD, beside="RLS envoyproxy, 1")
    bench.add("RLS, 1", "service", 1, face=SHOULD, beside="RLS envoyproxy, 1")
    bench.add("RLS envoyproxy, 8", "peer", 8, face=SHOULD)
    bench.add("RLS, 8", "service", 8, face=SHOULD, beside="RLS envoyproxy, 8")
    unsampled = {"traceparent": telemetry.new_traceparent(sampled=False)}
    bench.add("single, tracing on, unsampled", "traced", 1, metadata=unsampled, beside="single, 1 rule")
    bench.add("echo, half load", "echo", 1, half="echo")
    bench.add("single, half load", "service", 1, half="single, 1 rule")
    bench.add_lane("lane, 1 a call, half load", 1, half="lane, 1 a call")
    bench.add_lane("lane, 8 a call, half load", 8, half="lane, 8 a call")
    bench.add("RLS, half load", "service", 1, face=SHOULD, half="RLS, 1")
    bench.add("RLS envoyproxy, half load", "peer", 1, face=SHOULD, half="RLS envoyproxy, 1")


def main() -> None:
    """Starts everything, measures, ends everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--only", default="", help="measure only what has this in its name")
    options = parser.parse_args()
    program, peer = build(ghz.GHZ), envoy_ratelimit.build()
    for missing in (program.reason, peer.reason):
        if missing:
            print(missing)
    with ExitStack() as stack:
        stage = Stage(stack, options.users, peer.program)
        stage.start_echo(asyncio.run(answers_of(stage)))
        bench = Bench(stage, program.program, options)
        _add_all(bench)
        print(f"load average before: {os.getloadavg()[0]:.1f}")
        bench.measure()
        bench.print()
        for rules, frames in asyncio.run(script_calls(stage)).items():
            counted = ", ".join(f"{count} script call(s): {number} frames" for count, number in frames.items())
            print(f"8 requests a frame, {rules} rule(s) each: {counted}")
        print(f"a span that is not sampled: {span_cost_us():.2f} µs of CPU, with an endpoint configured")
        print(f"load average after: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
