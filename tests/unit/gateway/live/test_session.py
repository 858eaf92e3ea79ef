"""One socket from accept to close."""

import asyncio
from typing import Any

import pytest
from starlette.websockets import WebSocket

from services.gateway.live import session
from services.gateway.live.frames import Frame
from services.gateway.live.mailbox import GOING_AWAY, NOT_ALLOWED, Mailbox
from services.gateway.live.session import serve


class Client:
    """The other end: what it is sent, and what it says."""

    def __init__(self) -> None:
        self.said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.heard: list[dict[str, Any]] = []
        self.reads = asyncio.Event()
        self.reads.set()
        self.said.put_nowait({"type": "websocket.connect"})

    async def send(self, message: Any) -> None:
        await self.reads.wait()
        self.heard.append(dict(message))

    def says(self, text: str) -> None:
        self.said.put_nowait({"type": "websocket.receive", "text": text})

    def leaves(self) -> None:
        self.said.put_nowait({"type": "websocket.disconnect", "code": 1000})

    @property
    def texts(self) -> list[str]:
        return [message["text"] for message in self.heard if "text" in message]

    @property
    def closed_with(self) -> int | None:
        return next((message["code"] for message in self.heard if message["type"] == "websocket.close"), None)


async def always() -> bool:
    return True


async def never() -> bool:
    return False


async def started(client: Client, mailbox: Mailbox, still_allowed: Any = always) -> asyncio.Task[None]:
    socket = WebSocket({"type": "websocket"}, client.said.get, client.send)
    await socket.accept()
    return asyncio.create_task(serve(socket, mailbox, still_allowed))


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_it_writes_what_its_mailbox_holds():
    """In order, until the client leaves."""
    client, mailbox = Client(), Mailbox()
    mailbox.put(Frame(text="one"))
    serving = await started(client, mailbox)
    mailbox.put(Frame(text="two"))
    await settled()
    client.leaves()
    await serving
    assert client.texts == ["one", "two"]
    assert client.closed_with is None


async def test_pings_are_answered_and_all_else_is_passed_over():
    """As text and as JSON."""
    client = Client()
    serving = await started(client, Mailbox())
    for said in ("ping", "hello", '{"type": "ping"}', "\0"):
        client.says(said)
    await settled()
    client.leaves()
    await serving
    assert client.texts == ["pong", '{"type":"pong"}']


async def test_it_closes_with_the_reason_of_its_mailbox():
    """A drain, for one."""
    client, mailbox = Client(), Mailbox()
    serving = await started(client, mailbox)
    mailbox.end(GOING_AWAY)
    await serving
    assert client.closed_with == 1001


async def test_it_ends_with_its_credential():
    """Expired or revoked."""
    client = Client()
    await (await started(client, Mailbox(), never))
    assert client.closed_with == NOT_ALLOWED.code


async def test_a_client_that_does_not_read_is_let_go():
    """The write that hangs does not keep the session."""
    client, mailbox = Client(), Mailbox(most_frames=2)
    serving = await started(client, mailbox)
    client.reads.clear()
    for number in range(5):
        mailbox.put(Frame(text=str(number)))
        await settled()
    client.reads.set()
    await serving
    assert client.closed_with == 1013


async def test_a_close_that_is_not_read_ends_quietly(monkeypatch: pytest.MonkeyPatch):
    """The session waits for a while and then ends without its close, and nothing fails."""
    monkeypatch.setattr(session, "_CLOSE_SECONDS", 0.05)
    client, mailbox = Client(), Mailbox()
    serving = await started(client, mailbox)
    client.reads.clear()
    mailbox.put(Frame(text="one"))
    await settled()
    mailbox.end(GOING_AWAY)
    async with asyncio.timeout(30):
        await serving
    assert client.closed_with is None


async def test_a_cancelled_session_is_cancelled():
    """The server's own end does not wait for a client."""
    serving = await started(Client(), Mailbox())
    await settled()
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
