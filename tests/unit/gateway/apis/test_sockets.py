"""Who may watch whom over ``WS /api/ws/{user_id}``."""

import asyncio
from typing import Any

import pytest

from chassis.errors import Exhausted, Forbidden
from services.gateway.edge.context import KEY, RequestContext
from tests.unit.gateway.apis.world import ADMIN, OTHER, USER, WHO, World
from tests.unit.gateway.live.events import run_finished


async def connect(world: World, who: str, user_id: str, heard: list[Any], *, stay: asyncio.Event | None = None) -> None:
    """Opens a socket and leaves at once, or when told."""
    said = [{"type": "websocket.connect"}]

    async def receive() -> Any:
        if said:
            return said.pop()
        await (stay or asyncio.Event()).wait()
        return {"type": "websocket.disconnect", "code": 1000}

    async def send(message: Any) -> None:
        heard.append(message)

    scope = {
        "type": "websocket",
        "path": f"/api/ws/{user_id}",
        "headers": [(b"authorization", f"Bearer {who}".encode())],
        "query_string": b"",
        "subprotocols": [],
        KEY: RequestContext(request_id="r", traceparent="", principal=WHO[who]),
    }
    await world.front(scope, receive, send)


@pytest.mark.parametrize(("who", "user_id"), [("user", USER.user_id), ("user", USER.username), ("admin", USER.user_id)])
async def test_a_user_and_an_administrator_hear_what_happens(world: World, who: str, user_id: str):
    """By id or by name."""
    heard: list[Any] = []
    stay = asyncio.Event()
    session = asyncio.create_task(connect(world, who, user_id, heard, stay=stay))
    while world.hub.rooms.sockets == 0 or not heard:
        await asyncio.sleep(0)
    world.hub.tell(run_finished(1, USER.user_id))
    while len(heard) == 1:
        await asyncio.sleep(0)
    stay.set()
    await session
    assert [message["type"] for message in heard] == ["websocket.accept", "websocket.send"]
    assert "agent_completed" in heard[1]["text"]
    assert world.hub.rooms.sockets == 0


@pytest.mark.parametrize("user_id", [OTHER.user_id, ADMIN.username, "nobody", "\0"])
async def test_others_events_are_forbidden(world: World, user_id: str):
    """Before the handshake is answered, so that the answer has a status."""
    heard: list[Any] = []
    with pytest.raises(Forbidden):
        await connect(world, "user", user_id, heard)
    assert heard == []


async def test_the_hundred_and_first_socket_is_refused(world: World):
    """Before the handshake, too."""
    sockets = [world.hub.joined(USER.user_id) for _ in range(100)]
    for socket in sockets:
        socket.__enter__()
    with pytest.raises(Exhausted):
        await connect(world, "user", USER.user_id, [])
    for socket in sockets:
        socket.__exit__(None, None, None)


async def test_a_revoked_credential_ends_its_socket(world: World):
    """Within the second that everything else takes."""
    heard: list[Any] = []
    world.identity.who = {}
    await connect(world, "user", USER.user_id, heard)
    assert heard[-1]["code"] == 4401
