"""Several processes that ask one Redis at the same time, on its own clock, and write down what it answered.

Run as a program it forks its members, each of which writes lines of JSON to a file of its own: [time of the answer in
µs, "ask", user, names of limits, cost, wait µs], and for holds [time, what was done, hold, whether it was so], after
[0, "wants", hold] when it is about to let one go.
"""

import json
import os
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import redis

from services.ratelimit.model.errands import Action, Errand, hold_of
from services.ratelimit.model.limits import Algorithm, Ask, limit_of
from services.ratelimit.ports import Answer
from services.ratelimit.store.flight import Script
from services.ratelimit.store.frame import decide_arguments, read_answer

MILLISECOND = 1000
FLEET_LIMITS = {
    "log": limit_of(
        rule="log", algorithm=Algorithm.SLIDING_WINDOW, per=("user",), limit=12, window_us=60 * MILLISECOND
    ),
    "ring": limit_of(
        rule="ring",
        algorithm=Algorithm.SLIDING_WINDOW,
        per=("user",),
        limit=20,
        window_us=110 * MILLISECOND,
        exact=False,
    ),
    "fixed": limit_of(
        rule="fixed", algorithm=Algorithm.FIXED_WINDOW, per=("user",), limit=9, window_us=40 * MILLISECOND
    ),
    "bucket": limit_of(
        rule="bucket", algorithm=Algorithm.TOKEN_BUCKET, per=("user",), limit=8, rate=7, window_us=33 * MILLISECOND
    ),
}
PLACES = limit_of(rule="places", algorithm=Algorithm.CONCURRENCY, per=("user",), limit=5, lease_us=150 * MILLISECOND)


def fleet_ask(user: str, names: Sequence[str], cost: int) -> Ask:
    """An ask of the fleet: one user under some of its limits."""
    return Ask(tuple(f"{user}:{name}" for name in names), tuple(FLEET_LIMITS[name] for name in names), cost)


def hold_ask(action: Action, hold: str) -> Ask:
    """What a holder asks."""
    return Ask(("places",), (PLACES,), 1, Errand(action, hold_of(hold)))


class Asker:
    """Runs the script as it is, one frame at a time."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url)
        self._script = Script.load()

    def decide(self, asks: Sequence[Ask]) -> Answer:
        """Decides a frame."""
        command = self._script.by_source(decide_arguments(asks))
        return read_answer(asks, self._client.execute_command(*command))  # type: ignore[no-untyped-call]  # so it is


class Member(Asker):
    """One process of the fleet."""

    def __init__(self, url: str, seed: int, path: Path) -> None:
        super().__init__(url)
        self._random = random.Random(seed)
        self._file = path.open("a", buffering=1)
        self._name = f"{os.getpid()}"

    def _write(self, *record: Any) -> None:
        self._file.write(json.dumps(record) + "\n")

    def ask(self, operations: int) -> None:
        """Frames of random asks; now and then one that was denied comes again just before its hint, and just at it."""
        chance = self._random
        for _ in range(operations // 4):
            frame = [
                (chance.choice("ab"), chance.sample(sorted(FLEET_LIMITS), chance.randint(1, 4)), chance.randint(0, 3))
                for _ in range(chance.randint(1, 7))
            ]
            answer = self._run(frame)
            wait_us = answer.verdicts[0].wait_us
            if 0 < wait_us < 70 * MILLISECOND and chance.random() < 0.1:
                due = time.monotonic() + wait_us / 1e6
                for early_seconds in (0.001, 0.0):
                    time.sleep(max(0.0, due - early_seconds - time.monotonic()))
                    self._run(frame[:1])

    def _run(self, frame: Sequence[tuple[str, list[str], int]]) -> Answer:
        answer = self.decide([fleet_ask(*one) for one in frame])
        for (user, names, cost), verdict in zip(frame, answer.verdicts, strict=True):
            self._write(answer.now_us, "ask", user, names, cost, verdict.wait_us)
        return answer

    def hold(self, operations: int) -> None:
        """Takes places, keeps them or not, and lets go of them or not; until it is killed."""
        chance, mine = self._random, list[str]()
        for number in range(operations):
            what = chance.choice([Action.TAKE, Action.TAKE, Action.RENEW, Action.RELEASE])
            if what is Action.TAKE or not mine:
                what, hold = Action.TAKE, f"{self._name}-{number}"
            else:
                hold = chance.choice(mine)
            if what is Action.RELEASE:
                self._write(0, "wants", hold)
                mine.remove(hold)
            answer = self.decide([hold_ask(what, hold)])
            allowed = answer.verdicts[0].allowed
            self._write(answer.now_us, what.name, hold, allowed)
            if what is Action.TAKE and allowed:
                mine.append(hold)
            time.sleep(chance.random() * 0.004)


def main(arguments: Sequence[str]) -> None:
    """Forks the members, prints their process ids, and waits for all of them, however they end."""
    url, seed, members, what, operations, folder = arguments
    children = []
    for number in range(int(members)):
        child = os.fork()
        if child == 0:
            member = Member(url, int(seed) * 1000 + number, Path(folder) / f"{number}.jsonl")
            if what == "ask":
                member.ask(int(operations))
            else:
                # The first half is to be killed before it has done so much.
                member.hold(int(operations) * (50 if number < int(members) // 2 else 1))
            os._exit(0)
        children.append(child)
    sys.stdout.write(" ".join(map(str, children)) + "\n")
    sys.stdout.flush()
    failed = [child for child in children if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) not in {0, -9}]
    sys.exit(len(failed))


if __name__ == "__main__":
    main(sys.argv[1:])
