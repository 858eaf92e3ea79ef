"""A client of the gateway, as a stranger would write one."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back. `body` is parsed JSON where it is JSON, else text."""

    status: int
    headers: dict[str, str]
    body: Any


class Client:
    """One user of the mesh."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self.url = url
        self.token = ""
        self.user: dict[str, Any] = {}

    async def call(self, method: str, path: str, body: Any = None, **options: Any) -> Answer:
        """One request. `body` goes as JSON; options are aiohttp's."""
        headers = {**({"Authorization": f"Bearer {self.token}"} if self.token else {}), **options.pop("headers", {})}
        if body is not None:
            options["json"] = body
        async with self._session.request(method, self.url + path, headers=headers, **options) as response:
            text = await response.text()
            names = {name.lower(): value for name, value in response.headers.items()}
            return Answer(status=response.status, headers=names, body=_parse(text))

    async def connect(self, path: str, *, heartbeat_seconds: float) -> aiohttp.ClientWebSocketResponse:
        """Opens a socket that is pinged that often."""
        headers = {"Authorization": f"Bearer {self.token}"}
        return await self._session.ws_connect(self.url + path, headers=headers, heartbeat=heartbeat_seconds)

    @asynccontextmanager
    async def stream(self, path: str) -> AsyncIterator[aiohttp.StreamReader]:
        """The lines of a stream of server-sent events. Raises aiohttp.ClientError for an answer that is none."""
        headers = {"Authorization": f"Bearer {self.token}", "Accept": "text/event-stream"}
        async with self._session.get(self.url + path, headers=headers, raise_for_status=True) as response:
            yield response.content

    async def get(self, path: str, **options: Any) -> Answer:
        return await self.call("GET", path, **options)

    async def post(self, path: str, body: Any = None, **options: Any) -> Answer:
        return await self.call("POST", path, body, **options)

    async def login(self, username: str, password: str) -> None:
        """Takes a token for an existing user."""
        answer = await self.post("/api/auth/login", data={"username": username, "password": password})
        assert answer.status == 200, answer
        self.token = answer.body["access_token"]
        self.user = (await self.get("/api/auth/me")).body

    async def sign_up(self, within_seconds: float = 0.0) -> None:
        """Becomes a new user; waits that long for a mesh that says 503 and when to come back."""
        name = f"user_{uuid.uuid4().hex[:12]}"
        body = {"username": name, "email": f"{name}@example.com", "password": "correct horse battery"}
        until = asyncio.get_running_loop().time() + within_seconds
        while (answer := await self.post("/api/auth/register", body)).status == 503:
            assert asyncio.get_running_loop().time() < until, answer
            await asyncio.sleep(float(answer.headers["retry-after"]))
        assert answer.status == 201, answer
        await self.login(name, body["password"])

    async def accepted(self, path: str, body: Any, **options: Any) -> Answer:
        """The answer as soon as somebody has announced the kind, which takes a mesh that has just started a moment."""
        async with asyncio.timeout(60):
            while (answer := await self.post(path, body, **options)).status == 400:
                await asyncio.sleep(0.5)
        return answer

    async def submit(self, task_type: str, payload: Any, **options: Any) -> str:
        """Submits a task, as soon as its kind is known, and returns its id."""
        answer = await self.accepted("/api/v1/tasks", {"task_type": task_type, "payload": payload}, **options)
        assert answer.status == 201, answer
        return str(answer.body["task_id"])

    async def finished(self, task_id: str, seconds: float = 60) -> dict[str, Any]:
        """The task once it has ended."""
        ended = ("completed", "failed", "cancelled", "expired", "dead")
        answer = await self.until(f"/api/v1/tasks/{task_id}", lambda body: body["status"] in ended, seconds)
        return dict(answer.body)

    async def until(self, path: str, condition: Callable[[Any], bool], seconds: float = 60) -> Answer:
        """Asks until the answer is as wanted, less and less often: polling counts against the limits like anything."""
        pause = 0.1
        async with asyncio.timeout(seconds):
            while True:
                answer = await self.get(path)
                if answer.status == 200 and condition(answer.body):
                    return answer
                pause = min(pause * 1.3, 2.0)
                await asyncio.sleep(float(answer.headers.get("retry-after", 1)) if answer.status == 429 else pause)

    @asynccontextmanager
    async def events(self) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """The user's live feed, without the figures that come every few seconds."""
        url = f"{self.url}/api/ws/{self.user['id']}?token={self.token}"
        async with self._session.ws_connect(url) as socket:

            async def frames() -> AsyncIterator[dict[str, Any]]:
                async for message in socket:
                    frame = json.loads(message.data)
                    if frame["type"] != "metrics_update":
                        yield frame

            yield frames()


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


@asynccontextmanager
async def client(url: str) -> AsyncIterator[Client]:
    """A client without a user."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        yield Client(session, url)
