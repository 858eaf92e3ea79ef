"""How the benchmark talks with a program that submits to one system: one JSON object a line, a command and its answer.

It needs the standard library alone, because it runs in the environment of each peer, and knows none of them.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

# Profile D: a kilobyte a task, the same for everyone.
PAYLOAD = "x" * 1000
# One submission: the task's id, when it was called and when the system had answered, in seconds since the epoch.
Call = tuple[str, float, float]


def settings() -> dict[str, Any]:
    """What the configuration under measurement says to the peer's program."""
    return dict(json.loads(os.environ["BENCH_SETTINGS"]))


def noop(payload: str) -> float:
    """The work: none. The result tells when it started."""
    del payload
    return time.time()


def serve_threads(submit: Callable[[], str]) -> None:
    """Answers commands with a system whose submissions block: each caller is a thread."""

    def flood(numbers: Iterator[int], starts: Callable[[int], float]) -> list[Call]:
        calls = []
        for number in numbers:
            time.sleep(max(0.0, starts(number) - time.time()))
            called = time.time()
            calls.append((submit(), called, time.time()))
        return calls

    _say({"ready": True})
    for command in map(json.loads, sys.stdin):
        # Shared by all threads: a step of a range is one operation of the interpreter, so no number comes twice.
        numbers, starts = iter(range(command["count"])), _starts(command)
        with ThreadPoolExecutor(command["callers"]) as pool:
            began = time.time()
            parts = [pool.submit(flood, numbers, starts) for _ in range(command["callers"])]
            _answer(command, began, [call for part in parts for call in part.result()])


async def serve_async(
    submit: Callable[[], Awaitable[str]], submit_many: Callable[[int], Awaitable[list[str]]] | None = None
) -> None:
    """Answers commands with a system whose submissions are awaited: each caller is a coroutine."""

    async def flood(numbers: Iterator[int], starts: Callable[[int], float]) -> list[Call]:
        calls = []
        for number in numbers:
            if (early := starts(number) - time.time()) > 0:
                await asyncio.sleep(early)
            called = time.time()
            calls.append((await submit(), called, time.time()))
        return calls

    async def batches(sizes: Iterator[int]) -> list[Call]:
        if submit_many is None:
            raise RuntimeError("this system takes no batches")
        calls = []
        for size in sizes:
            called = time.time()
            calls += [(one, called, time.time()) for one in await submit_many(size)]
        return calls

    _say({"ready": True})
    async for command in _commands():
        began = time.time()
        if size := command.get("batch"):
            sizes = iter([size] * (command["count"] // size))
            parts = await asyncio.gather(*(batches(sizes) for _ in range(command["callers"])))
        else:
            numbers, starts = iter(range(command["count"])), _starts(command)
            parts = await asyncio.gather(*(flood(numbers, starts) for _ in range(command["callers"])))
        _answer(command, began, [call for part in parts for call in part])


async def _commands() -> AsyncIterator[dict[str, Any]]:
    while line := await asyncio.to_thread(sys.stdin.readline):
        yield json.loads(line)


def _starts(command: dict[str, Any]) -> Callable[[int], float]:
    """When a submission is due: at once, or spread over the seconds that the command's rate asks for."""
    rate, began = command.get("rate"), time.time()
    return (lambda number: began + number / rate) if rate else (lambda _: 0.0)


def _answer(command: dict[str, Any], began: float, calls: Iterable[Call]) -> None:
    ended = time.time()
    calls = list(calls)
    wanted = calls if command.get("rate") else []
    _say({"began": began, "ended": ended, "ids": [call[0] for call in calls], "calls": wanted})


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)
