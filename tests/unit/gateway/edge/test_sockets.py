"""WebSocket handshakes through the edge."""

from typing import Any

import pytest

from services.gateway.edge.asgi import Receive, Scope, Send
from services.gateway.edge.context import current
from tests.unit.gateway.edge.limiter import decision
from tests.unit.gateway.edge.world import World

MANY = {"query": b"&".join([b"a=1"] * 101 + [b"token=warm"])}
DENIAL: dict[str, Any] = {"extensions": {"websocket.http.response": {}}}


async def accepting(scope: Scope, receive: Receive, send: Send) -> None:
    """Accepts and closes."""
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.close", "code": 1000})


@pytest.mark.parametrize(
    "how",
    [
        {"query": b"token=warm"},
        {"subprotocols": ("bearer", "warm")},
        {"headers": [(b"authorization", b"Bearer warm")]},
        {"headers": [(b"x-api-key", b"warm")]},
    ],
)
async def test_a_socket_takes_its_credential_four_ways(how: dict[str, Any]):
    """Browsers cannot set headers, so the query and the subprotocol count too."""
    answer = await World(accepting).connect(**how)
    assert answer.messages[0]["type"] == "websocket.accept"
    assert answer.headers["x-ratelimit-limit"] == "10"


async def test_the_offered_subprotocol_is_echoed():
    """A browser ends a handshake that does not answer its offer."""
    answer = await World(accepting).connect(subprotocols=("bearer", "warm"))
    assert answer.messages[0]["subprotocol"] == "bearer"
    assert "subprotocol" not in (await World(accepting).connect(query=b"token=warm")).messages[0]


@pytest.mark.parametrize(
    "how", [{}, {"query": b"token=wrong"}, {"subprotocols": ("bearer",)}, {"query": b"%ff=&&"}, MANY]
)
async def test_a_refused_handshake_is_an_ordinary_answer(how: dict[str, Any]):
    """Where the server can, it answers 401 in the dialect of the path."""
    answer = await World(accepting).connect(**how, **DENIAL)
    assert [message["type"] for message in answer.messages] == [
        "websocket.http.response.start",
        "websocket.http.response.body",
    ]
    assert (answer.status, answer.body["code"]) == (401, "AUTH_FAILED")


async def test_a_refused_handshake_without_the_extension_is_a_close():
    """Where the server cannot answer, it closes."""
    answer = await World(accepting).connect()
    assert answer.messages == [{"type": "websocket.close", "code": 1008}]


async def test_sockets_are_limited():
    """A handshake is a request like any other."""
    world = World(accepting)
    world.limiter.answer = decision(allowed=False, retry_after_ms=1)
    answer = await world.connect(query=b"token=warm", **DENIAL)
    assert (answer.status, answer.headers["x-ratelimit-rule"]) == (429, "v1_chat")


async def test_a_socket_that_fails_after_its_handshake_is_broken_off():
    """The server ends the connection; the log has the cause."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert current(scope).principal is not None
        await send({"type": "websocket.accept"})
        raise ValueError("secret")

    world = World(app)
    with pytest.raises(Exception, match="INTERNAL"):
        await world.connect(query=b"token=warm")
