"""What happens to tasks, as streams and over sockets: who hears what, and what clients may say."""

import asyncio
import json
from typing import Any

import pytest
from mesh.tasks.v1 import tasks_pb2

from services.gateway.apis.exchange import ClientGone
from services.gateway.edge.context import KEY, RequestContext
from tests.unit.gateway.apis.world import OTHER, USER, WHO, World
from tests.unit.gateway.live.events import task_changed

TASKS = "/api/v1/tasks"
STREAM = {"accept": "text/event-stream"}


@pytest.fixture(autouse=True)
def bus(world: World) -> None:
    """It is listened to, so that nobody waits for that."""
    world.feeds.tasks.suspect()


async def submitted(world: World, *, ended: bool = False, who: str = "user") -> str:
    answer = await world.ask("POST", TASKS, {"task_type": "automation"}, who=who)
    task = world.tasks.tasks[answer.json["task_id"]]
    if ended:
        task.state, task.result = tasks_pb2.STATE_SUCCEEDED, b'{"ok":true}'
    return str(task.id)


def ids(body: bytes) -> list[int]:
    return [int(line[4:]) for line in body.decode().splitlines() if line.startswith("id: ")]


async def test_a_stream_tells_a_task_to_its_end(world: World):
    """With the ids that a browser sends back."""
    answer = await world.ask("GET", f"{TASKS}/{await submitted(world, ended=True)}/events", headers=STREAM)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert ids(answer.body) == [1, 2, 3]
    last = json.loads(answer.body.decode().split("data: ")[-1])
    assert (last["type"], last["status"], last["result"]) == ("succeeded", "completed", {"ok": True})


@pytest.mark.parametrize(("query", "seen", "rest"), [("?since=1", None, [2, 3]), ("", "2", [3]), ("?since=1", "3", [])])
async def test_a_stream_goes_on_where_its_reader_stopped(world: World, query: str, seen: str | None, rest: list[int]):
    """What the browser says counts more than the address."""
    headers = STREAM | ({"last-event-id": seen} if seen else {})
    task = await submitted(world, ended=True)
    answer = await world.ask("GET", f"{TASKS}/{task}/events{query}", headers=headers)
    assert (answer.status, ids(answer.body)) == (200, rest)


@pytest.mark.parametrize("seen", ["x", "-1", "1.5", "9" * 30])
async def test_a_stream_cannot_go_on_from_nowhere(world: World, seen: str):
    """400 instead of a stream."""
    task = await submitted(world, ended=True)
    answer = await world.ask("GET", f"{TASKS}/{task}/events", headers=STREAM | {"last-event-id": seen})
    assert answer.status == 400


async def test_the_streams_of_others_do_not_exist(world: World):
    """404, as everything of theirs."""
    task = await submitted(world)
    assert (await world.ask("GET", f"{TASKS}/{task}/events", headers=STREAM, who="other")).status == 404


async def test_a_reader_that_leaves_is_let_go(world: World):
    """At once, and nothing is kept for it."""
    gone = asyncio.Event()
    asking = asyncio.ensure_future(
        world.ask("GET", f"{TASKS}/{await submitted(world)}/events", headers=STREAM, gone=gone)
    )
    while not world.feeds.tasks.rooms.sockets:
        await asyncio.sleep(0)
    gone.set()
    async with asyncio.timeout(30):
        with pytest.raises(ClientGone):
            await asking
    assert world.feeds.tasks.rooms.sockets == 0


class Socket:
    """A client of ``WS /ws/tasks``."""

    def __init__(self, world: World, who: str, query: str = "") -> None:
        self._said: asyncio.Queue[Any] = asyncio.Queue()
        self._said.put_nowait({"type": "websocket.connect"})
        self.heard: list[Any] = []
        self._more = asyncio.Event()
        scope = {
            "type": "websocket",
            "path": "/ws/tasks",
            "headers": [(b"authorization", f"Bearer {who}".encode())],
            "query_string": query.encode(),
            "subprotocols": [],
            KEY: RequestContext(request_id="r", traceparent="", principal=WHO[who]),
        }
        self.session = asyncio.ensure_future(world.front(scope, self._said.get, self._send))

    async def _send(self, message: Any) -> None:
        if message["type"] == "websocket.send":
            self.heard.append(json.loads(message["text"]))
        self._more.set()

    def say(self, text: str) -> None:
        self._said.put_nowait({"type": "websocket.receive", "text": text})

    async def until(self, count: int) -> list[Any]:
        async with asyncio.timeout(30):
            while len(self.heard) < count:
                self._more.clear()
                await self._more.wait()
        return self.heard

    async def opened(self) -> "Socket":
        async with asyncio.timeout(30):
            await self._more.wait()
        return self

    async def leave(self) -> None:
        self._said.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await self.session


async def test_users_hear_of_their_own_and_administrators_of_all(world: World):
    """Live, whatever is in the address."""
    mine, admins = await Socket(world, "user").opened(), await Socket(world, "admin").opened()
    world.feeds.tasks.tell(task_changed(1, "queued", owner=OTHER.user_id, task_id="t2"))
    world.feeds.tasks.tell(task_changed(1, "queued", owner=USER.user_id, task_id="t1"))
    assert [frame["task_id"] for frame in await mine.until(1)] == ["t1"]
    assert [frame["task_id"] for frame in await admins.until(2)] == ["t2", "t1"]
    await mine.leave()
    await admins.leave()


async def test_who_comes_back_is_told_the_rest(world: World):
    """By a frame or by the address; what happens meanwhile follows, once."""
    task = await submitted(world, ended=True)
    socket = await Socket(world, "user", f"task_id={task}&since=1").opened()
    assert [frame["sequence"] for frame in await socket.until(2)] == [2, 3]
    socket.say(json.dumps({"type": "subscribe", "task_id": task, "since": 2}))
    assert [frame["sequence"] for frame in await socket.until(3)] == [2, 3, 3]
    await socket.leave()


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("nonsense", "INVALID_JSON"),
        ("[]", "VALIDATION_ERROR"),
        ('{"type":"dance"}', "VALIDATION_ERROR"),
        ('{"type":"subscribe","task_id":"x"}', "VALIDATION_ERROR"),
        ('{"type":"subscribe","task_id":"task_00000000000000000000000000","since":-1}', "VALIDATION_ERROR"),
        ('{"type":"subscribe","task_id":"task_01ARZ3NDEKTSV4RRFFQ69G5FAV"}', "TASK_NOT_FOUND"),
    ],
)
async def test_nonsense_is_answered_and_the_socket_stays(world: World, said: str, code: str):
    """With what is wrong."""
    socket = await Socket(world, "user").opened()
    socket.say(said)
    assert [frame["error"]["code"] for frame in await socket.until(1)] == [code]
    socket.say('{"type":"ping"}')
    assert (await socket.until(2))[1] == {"type": "pong"}
    await socket.leave()


async def test_nobody_subscribes_to_the_tasks_of_others(world: World):
    """They do not exist."""
    task = await submitted(world, who="other")
    socket = await Socket(world, "user").opened()
    socket.say(json.dumps({"type": "subscribe", "task_id": task}))
    assert (await socket.until(1))[0]["error"]["code"] == "TASK_NOT_FOUND"
    await socket.leave()
