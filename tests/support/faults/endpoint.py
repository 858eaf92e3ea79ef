"""Where webhooks are posted to: an endpoint that fails, hangs and dies at random, and counts what it was told.

Every event has to be acknowledged at last, under one id however often it comes.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from http import HTTPStatus
from random import Random
from typing import Any, Self

from aiohttp import web
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from tests.support.client import Client
from tests.support.receiver import Receiver, receiving

_LIVES_SECONDS = (1.0, 8.0)
_DEAD_SECONDS = (0.2, 2.0)
# Longer than the mesh waits for an answer.
_HANGS_SECONDS = 5.0
_SETTLED_LOOK_SECONDS = 0.3
# What the mesh is told of webhooks: for a schedule of days one that no endpoint is away for.
SETTINGS = {
    "MESH_WEBHOOKS_ALLOW_HTTP": "true",
    "MESH_WEBHOOKS_ALLOWED_NETWORKS": "127.0.0.0/8",
    "MESH_WEBHOOKS_SCHEDULE_SECONDS": ",".join(["0", *["1"] * 5, *["3"] * 100]),
    "MESH_WEBHOOKS_TIMEOUT_SECONDS": "3",
}


class Endpoint:
    """One server on one port."""

    def __init__(self, seed: int) -> None:
        self._random = Random(f"{seed}/endpoint")
        self._receiver = Receiver(usual=self._answer)
        self._secret = ""
        # By task: what came, and what was acknowledged.
        self.ids: defaultdict[str, set[str]] = defaultdict(set)
        self.types: dict[str, str] = {}
        self.acknowledged: set[str] = set()
        self.complaints: list[str] = []

    @property
    def posts(self) -> int:
        """How many came."""
        return len(self._receiver.got)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Self]:
        """Lives at first; whatever it suffers, it is dead at the end."""
        async with receiving(self._receiver):
            yield self

    async def subscribe(self, owner: Client) -> None:
        """Wants to be told of every end of that owner's tasks."""
        answer = await owner.post("/api/webhooks", {"url": self._receiver.url, "events": ["task.*"]})
        assert answer.status == HTTPStatus.CREATED, answer
        self._secret = answer.body["secret"]

    async def suffer(self) -> None:
        """For ever: lives and dies."""
        while True:
            await asyncio.sleep(self._random.uniform(*_LIVES_SECONDS))
            await self._receiver.stop()
            await asyncio.sleep(self._random.uniform(*_DEAD_SECONDS))
            await self._receiver.start()

    async def _answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        try:
            Verifier(self._secret).verify(body, dict(request.headers))
        except WebhookVerificationError as error:
            self.complaints.append(f"a webhook cannot be verified: {error}")
            return web.Response(status=400)
        document: dict[str, Any] = json.loads(body)
        task_id = document["data"]["task_id"]
        self.ids[task_id].add(request.headers["webhook-id"])
        self.types[task_id] = document["event"]
        draw = self._random.random()
        if draw < 0.02:
            await asyncio.sleep(_HANGS_SECONDS)
        if draw < 0.15:
            return web.Response(status=500)
        self.acknowledged.add(task_id)
        return web.Response(status=204)

    async def wait_for(self, task_ids: Iterable[str], seconds: float) -> None:
        """Waits until all of these are acknowledged, that long at most."""
        wanted = set(task_ids)
        until = asyncio.get_running_loop().time() + seconds
        while wanted - self.acknowledged and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(_SETTLED_LOOK_SECONDS)

    def faults_of(self, task_id: str, status: str) -> Iterable[str]:
        """What is wrong with what it was told of a task that has ended so."""
        if task_id not in self.acknowledged:
            yield f"{task_id}: no webhook of its end was acknowledged; ids {sorted(self.ids[task_id])}"
        elif len(self.ids[task_id]) != 1:
            yield f"{task_id}: webhooks came under {sorted(self.ids[task_id])}"
        elif self.types[task_id] != f"task.{status}":
            yield f"{task_id}: {self.types[task_id]} was told, and it is {status}"
