"""An edge around an application that a test gives, driven without a server."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import ip_network
from typing import Any

import orjson
from prometheus_client import CollectorRegistry

from chassis.breaker import Breaker
from chassis.errors import MeshError, Unauthenticated
from services.gateway.edge.asgi import App, Header, Message, Receive, Scope, Send
from services.gateway.edge.errors import status_of
from services.gateway.edge.limits import Limits
from services.gateway.edge.metrics import Metrics
from services.gateway.edge.pipeline import Edge, Layers, Rules
from services.gateway.edge.security import Security, SecuritySettings
from services.gateway.identity.model import Principal
from tests.support.clock import FakeClock
from tests.unit.gateway.edge.limiter import Limiter

ANN = Principal(user_id="u1", username="ann", role="user", key_id="k1")
ORIGIN = "http://localhost:10011"


class ClientGone(Exception):
    """What the application raises when nobody listens any more."""


class Identities:
    """Knows one credential warm, one cold; the store behind it can be away."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.error: MeshError = Unauthenticated("Invalid authentication credentials")

    def recall(self, credential: str) -> Principal | None:
        return ANN if credential == "warm" else None

    async def authenticate(self, credential: str) -> Principal:
        self.asked.append(credential)
        if credential != "cold":
            raise self.error
        return ANN


@dataclass(slots=True, kw_only=True)
class Answer:
    """What a client would have got."""

    messages: list[Message] = field(default_factory=list)

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.messages[0]["headers"]}

    @property
    def body(self) -> Any:
        return orjson.loads(b"".join(message.get("body", b"") for message in self.messages[1:]))


def render(path: str, accept: str, error: MeshError, request_id: str, now: datetime) -> tuple[int, list[Header], bytes]:
    """A dialect that shows everything it was given."""
    shown: dict[str, Any] = {"code": error.code, "message": error.message, "details": error.details}
    shown["retry_after"] = error.retry_after_seconds
    body = orjson.dumps(shown | {"path": path, "accept": accept, "id": request_id, "now": now.isoformat()})
    return status_of(error), [(b"content-type", b"application/json")], body


async def reads_and_answers(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads the whole body and answers with its length."""
    scope["mesh"].route = "/route/{id}"
    length, more = 0, True
    while more:
        message = await receive()
        length, more = length + len(message.get("body", b"")), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": orjson.dumps({"length": length})})


class World:
    """One edge and what stands behind it."""

    def __init__(self, app: App = reads_and_answers, **security: Any) -> None:
        self.clock = FakeClock()
        self.identities = Identities()
        self.limiter = Limiter()
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry)
        allowed: dict[str, Any] = {
            "origins": [ORIGIN],
            "hosts": ["*"],
            "proxies": [ip_network("10.0.0.0/8")],
            "tls": False,
        }
        breaker = Breaker("ratelimit", self.clock, failure_threshold=2, recovery_seconds=1.0)
        service: Any = self.limiter
        self.limits = Limits(service, breaker, self.clock, self.registry)
        layers = Layers(
            security=Security(SecuritySettings(**allowed | security)),
            identities=self.identities,
            limits=self.limits,
            metrics=self.metrics,
        )
        rules = Rules(
            classify=lambda _, path: "" if path == "/health" else "v1.chat",
            is_public=lambda _, path: path in {"/health", "/login"},
            render=render,
            client_gone=ClientGone,
            speaks_openai=lambda path: path.startswith("/v1/"),
            answer_tokens=lambda _, path: {"v1": 1000, "task": 0}.get(path.split("/")[1]),
        )
        self.edge = Edge(app, layers, rules, self.clock, body_limit_bytes=100)

    async def ask(
        self, path: str = "/api/v1/chat", method: str = "POST", *, body: tuple[bytes, ...] = (b"",), **headers: str
    ) -> Answer:
        """One request. Header names have underscores; a credential that works comes with it unless another does."""
        names = {"authorization": "Bearer warm", "host": "localhost"} | headers
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": b"",
            "client": ("192.0.2.7", 5000),
            "headers": [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in names.items()],
        }
        answer = Answer()
        await self.edge(scope, _receiving(body), _collecting(answer))
        return answer

    async def connect(
        self, path: str = "/ws/tasks", *, query: bytes = b"", subprotocols: tuple[str, ...] = (), **scope: Any
    ) -> Answer:
        """One WebSocket handshake without headers."""
        answer = Answer()
        asked = {
            "type": "websocket",
            "path": path,
            "query_string": query,
            "client": ("192.0.2.7", 5000),
            "headers": [],
            "subprotocols": list(subprotocols),
        }
        await self.edge(asked | scope, _receiving(()), _collecting(answer))
        return answer

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """With what runs in the background."""
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(self.limits.holds.run()), loop.create_task(self.limits.watch.run())]
        try:
            async with self.limits.holds.open():
                yield
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            for task in tasks:
                task.cancel()

    def sample(self, name: str, **labels: str) -> float | None:
        """A figure of the edge."""
        return self.registry.get_sample_value(name, labels)


def _receiving(chunks: tuple[bytes, ...]) -> Receive:
    left = list(chunks)

    async def receive() -> Message:
        if not left:
            return {"type": "http.disconnect"}
        chunk = left.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(left)}

    return receive


def _collecting(answer: Answer) -> Callable[[Message], Awaitable[None]]:
    async def send(message: Message) -> None:
        answer.messages.append(message)

    return send
