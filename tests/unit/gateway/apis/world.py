"""The APIs over fakes of everything behind them, and a client that asks without a socket."""

import asyncio
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from operator import attrgetter
from typing import Any

import orjson

from chassis.errors import MeshError
from services.gateway.apis.behind import Behind
from services.gateway.apis.dialects import is_public
from services.gateway.apis.errors import render
from services.gateway.apis.front import create_app
from services.gateway.apis.submissions import Submissions
from services.gateway.edge.asgi import App, Message, Receive, Scope, Send
from services.gateway.edge.context import KEY, RequestContext
from services.gateway.identity.model import Principal
from services.gateway.live.executions import Executions
from services.gateway.live.feed import Feeds
from services.gateway.live.hub import Hub
from services.gateway.live.tasks import Tasks
from services.gateway.peers import Peers
from services.gateway.workers.link import Behind as BehindWorkers
from services.gateway.workers.links import Links
from tests.support.clock import FakeClock
from tests.unit.gateway.apis.fake_ratelimit import FakeRatelimit
from tests.unit.gateway.apis.fakes import FakeAgents, FakeIdentity, FakeLlm
from tests.unit.gateway.apis.task_fakes import FakeTasks
from tests.unit.gateway.apis.webhook_fakes import FakeWebhooks

USER = Principal(user_id="11111111-1111-7111-8111-111111111111", username="john_doe", role="user", session_id="s1")
OTHER = Principal(user_id="22222222-2222-7222-8222-222222222222", username="jane_doe", role="user", session_id="s2")
ADMIN = Principal(user_id="33333333-3333-7333-8333-333333333333", username="admin", role="admin", session_id="s3")
WHO = {"user": USER, "other": OTHER, "admin": ADMIN}

_ASKED: ContextVar["World"] = ContextVar("_ASKED")


@dataclass
class Answer:
    """What came back."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    parts: list[bytes] = field(default_factory=list)

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The data of server-sent events, as JSON where it is."""
        data = [line[6:] for line in self.body.decode().split("\n\n") if line.startswith("data: ")]
        return [part if part == "[DONE]" else orjson.loads(part) for part in data]


class _Part:
    """Stands for a part of the world that is asked: making an app takes long, so there is one for all worlds."""

    def __init__(self, path: str) -> None:
        self._find = attrgetter(path)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._find(_ASKED.get()), name)


@cache
def _front() -> App:
    part: Any = _Part
    peers: dict[str, Any] = {name: _Part(name) for name in ("agents", "tasks", "webhooks", "llm", "ratelimit")}
    return create_app(
        Behind(
            peers=Peers(workers=None, task_lane=None, **peers),  # type: ignore[arg-type]  # nothing here asks for them
            identity=part("identity"),
            feeds=Feeds(executions=part("feeds.executions"), tasks=part("feeds.tasks")),
            links=part("links"),
            submissions=part("submissions"),
            clock=part("clock"),
            chat_timeout_seconds=60.0,
            version="1.2.3",
        )
    )


class World:
    """Everything behind the APIs; `app` is them behind the least of an edge: a principal in, errors out.

    `tokens` is the Reservation that every request has.
    """

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.tokens: Any = None
        self.llm, self.tasks, self.agents = FakeLlm(), FakeTasks(self.clock), FakeAgents(self.clock)
        self.identity = FakeIdentity(self.clock, WHO)
        executions: Any = Executions(self.agents)  # type: ignore[arg-type]  # as below
        tasks: Any = Tasks(self.tasks)  # type: ignore[arg-type]  # as below
        self.feeds = Feeds(executions=Hub(self.clock, executions), tasks=Hub(self.clock, tasks))
        self.hub = self.feeds.executions
        self.ratelimit, self.webhooks = FakeRatelimit(), FakeWebhooks(self.clock)
        nobody: Any = None
        behind = BehindWorkers(workers=nobody, tasks=nobody, broker=nobody, queue_type="classic", clock=self.clock)
        self.links = Links(behind, 15.0)
        self.submissions = Submissions(self.tasks, self.tasks)  # type: ignore[arg-type]  # as below

    async def front(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The APIs themselves."""
        _ASKED.set(self)
        await _front()(scope, receive, send)

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return
        headers = dict(scope["headers"])
        token = headers.get(b"authorization", b"").decode().removeprefix("Bearer ")
        scope[KEY] = RequestContext(request_id="req_1", traceparent="", principal=WHO.get(token), tokens=self.tokens)
        try:
            if WHO.get(token) is None and not is_public(scope.get("method", ""), scope["path"]):
                await self.identity.authenticate(token)
            await self.front(scope, receive, send)
        except MeshError as error:
            accept = headers.get(b"accept", b"").decode()
            status, rendered, body = render(scope["path"], accept, error, "req_1", self.clock.now())
            await send({"type": "http.response.start", "status": status, "headers": rendered})
            await send({"type": "http.response.body", "body": body})

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        who: str = "user",
        headers: dict[str, str] | None = None,
        gone: asyncio.Event | None = None,
    ) -> Answer:
        """One request. `body` is sent as it is when it is bytes, else as JSON; the client leaves when `gone` is set."""
        content = body if isinstance(body, bytes) else (b"" if body is None else orjson.dumps(body))
        given = {"content-type": "application/json", "authorization": f"Bearer {who}"} | (headers or {})
        bare, _, query = path.partition("?")
        scope = {
            "type": "http",
            "method": method,
            "path": bare,
            "raw_path": bare.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "scheme": "http",
            "server": ("test", 80),
            "client": ("127.0.0.1", 1),
            "headers": [(name.lower().encode(), value.encode()) for name, value in given.items()],
        }
        inbox: list[Message] = [{"type": "http.request", "body": content, "more_body": False}]
        answer = Answer()

        async def receive() -> Message:
            if inbox:
                return inbox.pop()
            await (gone or asyncio.Event()).wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.headers = {name.decode().lower(): value.decode() for name, value in message["headers"]}
            else:
                answer.body += message.get("body", b"")
                answer.parts.append(message.get("body", b""))

        await self.app(scope, receive, send)
        return answer
