"""``WS /ws/tasks`` and ``WS /tasks/updates``: what happens to a user's tasks; an administrator hears of all.

A client that connects again says what it has seen: ``{"type": "subscribe", "task_id", "since"}``, or
``?task_id=&since=`` in the address, and is told the rest of each task first.
"""

from typing import Any

import orjson
from fastapi import APIRouter, WebSocket
from mesh.tasks.v1 import tasks_pb2, tasks_pb2_grpc

from chassis.errors import Invalid, MeshError
from chassis.logging import get_logger
from services.gateway.apis.ids import is_task_id
from services.gateway.apis.watching import watch_credential
from services.gateway.edge.context import require_scope
from services.gateway.identity.model import Principal
from services.gateway.identity.operations import Identity
from services.gateway.live.feed import Feeds
from services.gateway.live.frames import Frame
from services.gateway.live.mailbox import Mailbox
from services.gateway.live.rooms import EVERYBODY
from services.gateway.live.session import serve
from services.gateway.live.tasks import Tasks

log = get_logger(__name__)

PATHS = ("/ws/tasks", "/tasks/updates")
_LARGEST_SEQUENCE = 2**31


class TaskSockets:
    """The routes. Refusals are raised before the handshake is answered, so the edge answers it with their status."""

    def __init__(self, tasks: "tasks_pb2_grpc.TaskServiceAsyncStub", feeds: Feeds, identity: Identity) -> None:
        self._tasks = tasks
        self._records = Tasks(tasks)
        self._hub = feeds.tasks
        self._identity = identity

    def router(self) -> APIRouter:
        router = APIRouter()
        for path in PATHS:
            router.add_api_websocket_route(path, self.watch)
        return router

    async def watch(self, websocket: WebSocket) -> None:
        principal = require_scope(websocket.scope, "tasks")
        asked = websocket.query_params
        wanted = _wanted({"since": "0", **asked}) if "task_id" in asked else None
        room = EVERYBODY if principal.is_admin else principal.user_id
        with self._hub.joined(room) as mailbox:
            await self._hub.listening()
            await websocket.accept()
            if wanted is not None:
                await self._subscribe(principal, mailbox, *wanted)

            async def hear(said: str) -> None:
                await self._hear(principal, mailbox, said)

            await serve(websocket, mailbox, watch_credential(self._identity, websocket.scope), hear)

    async def _hear(self, principal: Principal, mailbox: Mailbox, said: str) -> None:
        try:
            message = orjson.loads(said)
        except orjson.JSONDecodeError:
            mailbox.put(_refusal(Invalid("Not a JSON document", code="INVALID_JSON")))
            return
        if not isinstance(message, dict) or message.get("type") != "subscribe":
            mailbox.put(_refusal(Invalid('Only {"type": "subscribe", "task_id", "since"} and pings are understood')))
            return
        try:
            wanted = _wanted(message)
        except Invalid as error:
            mailbox.put(_refusal(error))
            return
        await self._subscribe(principal, mailbox, *wanted)

    async def _subscribe(self, principal: Principal, mailbox: Mailbox, task_id: str, since: int) -> None:
        """Tells what happened to a task after a sequence number, before whatever happens now."""
        owner = "" if principal.is_admin else principal.user_id
        past: list[Frame] = []
        mailbox.hold(task_id)
        try:
            answer = await self._tasks.GetTask(tasks_pb2.GetTaskRequest(id=task_id, owner_id=owner))
            past = [frame async for frame in self._records.after(answer.task, since)]
        except MeshError as error:
            log.info("A socket cannot be told what was", task_id=task_id, code=error.code)
            mailbox.put(_refusal(error, task_id))
        finally:
            mailbox.follow(task_id, past)


def _wanted(message: dict[str, Any]) -> tuple[str, int]:
    """The task and the sequence that a client names. Raises Invalid."""
    task_id, since = message.get("task_id"), message.get("since", 0)
    if not isinstance(task_id, str) or not is_task_id(task_id):
        raise Invalid("task_id is the id of a task", details={"field": "task_id"})
    if isinstance(since, str) and since.isascii() and since.isdigit():
        since = int(since[:10])
    if type(since) is not int or not 0 <= since < _LARGEST_SEQUENCE:
        raise Invalid("since is the sequence of an event", details={"field": "since"})
    return task_id, since


def _refusal(error: MeshError, task_id: str = "") -> Frame:
    document: dict[str, Any] = {"type": "error", "error": {"code": error.code, "message": error.message}}
    if task_id:
        document["task_id"] = task_id
    # It answers what the client said, so it may be dropped where that client does not read.
    return Frame(text=orjson.dumps(document).decode(), passing=True)
