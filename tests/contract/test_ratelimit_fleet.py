"""Exactness under several processes on one Redis and its real clock, judged afterwards by what was written down."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from services.ratelimit.model.decisions import ALLOWED
from services.ratelimit.model.errands import Action
from services.ratelimit.model.limits import Limit
from tests.contract.ratelimit.fleet import FLEET_LIMITS, PLACES, Asker, fleet_ask, hold_ask
from tests.contract.ratelimit.oracle import Oracle

pytestmark = pytest.mark.redis

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests/contract/ratelimit/fleet.py"
Hit = tuple[int, int]


@contextmanager
def fleet(url: str, what: str, operations: int, folder: Path, seed: int = 1) -> Iterator[list[int]]:
    """Eight members at work, as process ids; ends when all of them have ended."""
    command = [sys.executable, str(PROGRAM), url, str(seed), "8", what, str(operations), str(folder)]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield [int(one) for one in process.stdout.readline().split()]
        process.communicate(timeout=1800)
    assert process.returncode == 0


def written(folder: Path) -> list[list[Any]]:
    """All records in the order of Redis's time, those of one member in theirs; a killed one's last line may be torn."""
    records = []
    for path in sorted(folder.glob("*.jsonl")):
        at = 0
        for line in path.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                record = json.loads(line)
                at = record[0] = record[0] or at
                records.append(record)
    return sorted(records, key=lambda record: record[0])


def judge(records: Sequence[list[Any]]) -> dict[str, list[Hit]]:
    """Holds every answer to the oracle, hints included; returns what was admitted, by counter."""
    oracle, admitted = Oracle(), defaultdict[str, list[Hit]](list)
    for now_us, _, user, names, cost, wait_us in records:
        ask = fleet_ask(user, names, cost)
        for key, limit in zip(ask.keys, ask.limits, strict=True):
            oracle.forget(key, limit, now_us)
        if wait_us != ALLOWED:
            assert not oracle.would(ask, now_us), f"denied, though it fits: {(now_us, user, names, cost)}"
            assert not oracle.would(ask, now_us + wait_us - 1)
            assert oracle.would(ask, now_us + wait_us), f"does not fit at its hint: {(now_us, user, names, cost)}"
        else:
            assert oracle.decide(ask, now_us), f"admitted, though it does not fit: {(now_us, user, names, cost)}"
            for key in ask.keys:
                admitted[key].append((now_us, cost))
    return admitted


def most_in_a_window(hits: Sequence[Hit], window_us: int) -> int:
    """The most that any window holds, wherever it begins."""
    inside, most, total = deque[Hit](), 0, 0
    for at, cost in hits:
        inside.append((at, cost))
        total += cost
        while inside[0][0] <= at - window_us:
            total -= inside.popleft()[1]
        most = max(most, total)
    return most


def most_above_rate(hits: Sequence[Hit], limit: Limit) -> int:
    """By how much any interval exceeds its length times the rate, in tokens times the window."""
    most, lowest, total = 0, 0, 0
    for at, cost in hits:
        lowest = min(lowest, total * limit.window_us - at * limit.rate)
        total += cost
        most = max(most, total * limit.window_us - at * limit.rate - lowest)
    return most


def holds_its_promises(records: Sequence[list[Any]]) -> None:
    """No over-admission and no false denial anywhere; and by the plain promises of the algorithms once more."""
    admitted = judge(records)
    for user in "ab":
        for name in ("log", "ring"):
            limit = FLEET_LIMITS[name]
            assert most_in_a_window(admitted[f"{user}:{name}"], limit.window_us) <= limit.limit
        bucket = FLEET_LIMITS["bucket"]
        assert 0 < most_above_rate(admitted[f"{user}:bucket"], bucket) <= bucket.limit * bucket.window_us


def test_eight_processes_are_decided_exactly(redis_url: str, tmp_path: Path) -> None:
    """Random asks and retries around their hints: none too many, none too few, every hint exact."""
    with fleet(redis_url, "ask", 1200, tmp_path):
        pass
    records = written(tmp_path)
    assert len(records) >= 8 * 1000
    assert len({record[5] == ALLOWED for record in records}) == 2
    holds_its_promises(records)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_eight_processes_are_decided_exactly_for_long(redis_url: str, tmp_path: Path) -> None:
    """The same over a million decisions."""
    with fleet(redis_url, "ask", 125_000, tmp_path, seed=2):
        pass
    records = written(tmp_path)
    assert len(records) >= 1_000_000
    holds_its_promises(records)


def in_flight(records: Sequence[list[Any]]) -> list[tuple[int, int]]:
    """From when to when each hold held its place for certain: a release that was begun may have been heard at once."""
    spans, ends = dict[str, list[int]](), []
    for at, what, hold, *rest in records:
        span = spans.get(hold)
        if what in {"TAKE", "RENEW"} and rest[0]:
            fresh = [at, at + PLACES.window_us] if span is None else [span[0], at + PLACES.window_us]
            spans[hold] = fresh
        elif span is not None and what in {"wants", "RELEASE"}:
            span[1] = min(span[1], at)
    for begin, end in spans.values():
        ends.append((begin, end))
    return ends


def most_at_once(spans: Sequence[tuple[int, int]]) -> int:
    edges = sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans])
    now = most = 0
    for _, change in edges:
        now += change
        most = max(most, now)
    return most


def hold_and_kill(url: str, folder: Path, operations: int, rounds: int) -> None:
    """Members take, keep and let go of places; in every round half of them are killed at some moment."""
    chance = Random(operations)
    for number in range(rounds):
        (folder / str(number)).mkdir()
        with fleet(url, "hold", operations, folder / str(number), seed=number) as members:
            for member in members[:4]:
                time.sleep(chance.random() * operations * 0.0008)
                os.kill(member, signal.SIGKILL)


def never_six(url: str, folder: Path, operations: int, rounds: int) -> None:
    hold_and_kill(url, folder, operations, rounds)
    records = sorted((one for part in folder.iterdir() for one in written(part)), key=lambda record: record[0])
    assert sum(record[1] == "TAKE" and record[3] for record in records) > 10 * rounds
    assert most_at_once(in_flight(records)) == PLACES.limit
    time.sleep(PLACES.window_us / 1e6)
    # Whoever died holds nothing any more.
    answer = Asker(url).decide([hold_ask(Action.TAKE, str(number)) for number in range(6)])
    assert [one.allowed for one in answer.verdicts] == [True] * 5 + [False]


def test_five_in_flight_are_never_six(redis_url: str, tmp_path: Path) -> None:
    """Random takes, renewals and releases while holders are killed: five at the most, and five at some time."""
    never_six(redis_url, tmp_path, operations=250, rounds=1)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_five_in_flight_are_never_six_for_long(redis_url: str, tmp_path: Path) -> None:
    """The same over a hundred thousand operations and many deaths."""
    never_six(redis_url, tmp_path, operations=1000, rounds=20)
