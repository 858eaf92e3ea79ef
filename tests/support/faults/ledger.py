"""Who submitted what and was told what: the account against which the mesh is checked. It submits like any client:
over HTTP, with an idempotency key, again and again until there is an answer.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from http import HTTPStatus
from random import Random
from typing import Any

import aiohttp

from tests.support.client import Answer, Client

_PAUSE_SECONDS = 0.3
_TRY_SECONDS = 15.0
# The share of the tasks that is for workers from outside.
_OUTSIDE = 0.3
_BUSY = frozenset({429, 502, 503, 504})
# These know when it is worth another try.
_KNOWING = frozenset({429, 503})


@dataclass(slots=True)
class Ledger:
    """Accepted tasks by their key, and everything that should not have been answered."""

    accepted: dict[str, str] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    statuses: Counter[int] = field(default_factory=Counter)
    complaints: list[str] = field(default_factory=list)

    def note(self, key: str, kind: str, task_id: str) -> None:
        """An acceptance; the same key must always mean the same task."""
        before = self.accepted.setdefault(key, task_id)
        if before != task_id:
            self.complaints.append(f"key {key} was answered with {before} and with {task_id}")
        self.kinds[task_id] = kind


def draw_task(random: Random) -> tuple[str, dict[str, Any]]:
    """A kind and its payload."""
    where = "outside" if random.random() < _OUTSIDE else "effect"
    draw = random.random()
    if draw < 0.70:
        return f"{where}.quick", {}
    if draw < 0.80:
        return f"{where}.slow", {"seconds": random.uniform(0.5, 2.0)}
    if draw < 0.81:
        return f"{where}.slow", {"seconds": 11.0}
    if draw < 0.90:
        return f"{where}.flaky", {"failures": random.randint(1, 2)}
    if draw < 0.93:
        return f"{where}.wrong", {}
    return "automation", {"action": "test"}


class Submitter:
    """One client that submits and now and then cancels, and takes down what it was told."""

    def __init__(self, user: Client, ledger: Ledger, name: str, seed: int) -> None:
        self._user = user
        self._ledger = ledger
        self._name = name
        self._random = Random(f"{seed}/{name}")

    async def submit(self, until: asyncio.Event, *, every_seconds: float) -> None:
        """Submits until told to stop; what was begun is brought to an end."""
        number = 0
        while not until.is_set():
            number += 1
            kind, payload = draw_task(self._random)
            key = f"{self._name}-{number}"
            answer = await self._insist("POST", "/api/v1/tasks", {"task_type": kind, "payload": payload}, key)
            if answer.status != 201:
                self._ledger.complaints.append(f"submitting {kind} was answered {answer.status} {answer.body}")
            else:
                self._ledger.note(key, kind, answer.body["task_id"])
                await self._maybe_meddle(key, kind, payload, answer.body["task_id"])
            await asyncio.sleep(every_seconds * self._random.uniform(0.5, 1.5))

    async def _maybe_meddle(self, key: str, kind: str, payload: dict[str, Any], task_id: str) -> None:
        draw = self._random.random()
        if draw < 0.05:
            self._ledger.cancelled.add(task_id)
            answer = await self._insist("DELETE", f"/api/v1/tasks/{task_id}", None, "")
            if answer.status not in {200, 202, 204, 409}:
                self._ledger.complaints.append(f"cancelling {task_id} was answered {answer.status} {answer.body}")
        elif draw < 0.10:
            again = await self._insist("POST", "/api/v1/tasks", {"task_type": kind, "payload": payload}, key)
            self._ledger.note(key, kind, again.body["task_id"])

    async def _insist(self, method: str, path: str, body: Any, key: str) -> Answer:
        headers = {"Idempotency-Key": key} if key else {}
        while True:
            try:
                async with asyncio.timeout(_TRY_SECONDS):
                    answer = await self._user.call(method, path, body, headers=headers)
            except (aiohttp.ClientError, TimeoutError):
                self._ledger.statuses[0] += 1
            else:
                self._ledger.statuses[answer.status] += 1
                if answer.status not in _BUSY and not _is_under_way(answer):
                    return answer
                if answer.status in _KNOWING and "retry-after" not in answer.headers:
                    self._ledger.complaints.append(f"{answer.status} without Retry-After: {answer.body}")
            await asyncio.sleep(_PAUSE_SECONDS)


def _is_under_way(answer: Answer) -> bool:
    """What we gave up waiting for goes on at the gateway: its answer is had later."""
    return answer.status == HTTPStatus.CONFLICT and answer.body["error"]["code"] == "IDEMPOTENCY_IN_FLIGHT"
