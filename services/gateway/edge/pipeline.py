"""The order of what every request passes, in pure ASGI, around an application that it knows nothing of.

Request id and trace, security, authentication, rate limit, metrics, errors: each is a module beside this one, and their
order can be read in `Edge.__call__` and `Edge._http`.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from chassis import telemetry
from chassis.clock import Clock
from chassis.errors import Internal, Invalid, MeshError, Unauthenticated, Unavailable
from chassis.logging import get_logger
from services.gateway.edge import body, credentials, trace
from services.gateway.edge.asgi import App, Header, Receive, Scope, Send
from services.gateway.edge.context import KEY, RequestContext
from services.gateway.edge.errors import PayloadTooLarge
from services.gateway.edge.limit_headers import LimitHeaders
from services.gateway.edge.limits import Limits
from services.gateway.edge.metrics import Metrics
from services.gateway.edge.reply import Reply, SocketReply
from services.gateway.edge.security import Security
from services.gateway.identity.model import Principal

log = get_logger(__name__)

_FIRST_ERROR = 400
_CLIENT_LEFT = 499
_SERVER_ERROR = 500
_POLICY_VIOLATION = 1008
_ASK_AGAIN_SECONDS = 1.0
# What a body says of tokens is known before it is read by its length; of long ones, which may be pictures, this much.
_BYTES_A_TOKEN = 4
_MOST_PROMPT_TOKENS = 2048
_LENGTH_DIGITS = 15
_BODILESS = frozenset({"GET", "HEAD", "OPTIONS"})


class Identities(Protocol):
    """Who a credential is."""

    def recall(self, credential: str) -> Principal | None:
        """From memory, without I/O."""

    async def authenticate(self, credential: str) -> Principal:
        """Raises Unauthenticated, or Unavailable when nobody can tell now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the edge is told about the APIs behind it.

    Attributes:
        classify: method and path → route class; empty: no limit applies.
        is_public: method and path → whether it may be asked for without a credential; credentials are not read there.
        render: path, Accept, error, request id, now → status, headers and body in the path's dialect.
        client_gone: what the application raises when the client left before it was answered.
        speaks_openai: whether answers on a path carry the headers that OpenAI's SDKs read.
        answer_tokens: method and path → tokens that an answer may have where the request does not say, of those that
            its user has a minute; 0: its route tells once the body is read; None: it takes none of them.
    """

    classify: Callable[[str, str], str]
    is_public: Callable[[str, str], bool]
    render: Callable[[str, str, MeshError, str, datetime], tuple[int, list[Header], bytes]]
    client_gone: type[Exception]
    speaks_openai: Callable[[str], bool]
    answer_tokens: Callable[[str, str], int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """The layers that have a state."""

    security: Security
    identities: Identities
    limits: Limits
    metrics: Metrics


class Edge:
    """The ASGI application that the server runs."""

    def __init__(self, app: App, layers: Layers, rules: Rules, clock: Clock, *, body_limit_bytes: int) -> None:
        self._app = app
        self._security = layers.security
        self._identities = layers.identities
        self._limits = layers.limits
        self._metrics = layers.metrics
        self._rules = rules
        self._clock = clock
        self._body_limit_bytes = body_limit_bytes
        self._limit_headers = LimitHeaders()
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind not in {"http", "websocket"}:
            # Lifespan: the process opens and closes what is needed, not the server.
            return
        began = self._clock.monotonic()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        method, path = _method(scope), scope["path"]
        context = RequestContext(
            request_id=trace.request_id(headers),
            traceparent="",
            route_class=self._rules.classify(method, path),
            client_ip=self._security.client_ip(_peer(scope), headers),
        )
        scope[KEY] = context
        self._enter()
        status = _CLIENT_LEFT
        try:
            with telemetry.span(
                f"{method} {context.route_class or path}",
                telemetry.SERVER,
                trace.traceparent(headers),
                {"http.request.method": method, "url.path": path, "mesh.request_id": context.request_id},
            ) as recording:
                context.traceparent = telemetry.current_traceparent()
                serve = self._http if kind == "http" else self._websocket
                status = await serve(scope, receive, send, headers)
                recording.set("http.response.status_code", status)
                recording.set("http.route", context.route)
                if status >= _SERVER_ERROR:
                    recording.fail(str(status))
        finally:
            self._limits.leave(context, failed=status >= _FIRST_ERROR and status != _CLIENT_LEFT)
            self._metrics.observe(context.route, method, status, self._clock.monotonic() - began)
            self._leave()

    async def _http(self, scope: Scope, receive: Receive, send: Send, headers: dict[bytes, bytes]) -> int:
        reply = Reply(send, self._extra(scope, headers))
        try:
            self._security.check_host(headers)
            preflight = self._security.preflight(scope["method"], headers)
            if preflight is not None:
                await _answer(reply, 204, preflight, b"")
                return reply.status
            await self._admit(scope, headers)
            await self._app(scope, self._bounded(scope["method"], headers, receive), reply)
            reply.check_answered()
        except self._rules.client_gone:
            if not reply.status:
                # A server also says "gone" of a body that was cut off or is no HTTP, and that client may still read.
                cut_off = Invalid("The request did not arrive whole")
                await _answer(reply, *self._render(scope, headers, cut_off, started=False))
            return _CLIENT_LEFT
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets its dialect's answer
            if isinstance(error, PayloadTooLarge) and b"expect" not in headers:
                await body.discard(receive)
            await _answer(reply, *self._render(scope, headers, error, started=bool(reply.status)))
        return reply.status

    async def _websocket(self, scope: Scope, receive: Receive, send: Send, headers: dict[bytes, bytes]) -> int:
        subprotocol = "bearer" if credentials.offers_bearer(scope) else None
        reply = SocketReply(send, self._extra(scope, headers), subprotocol=subprotocol)
        try:
            self._security.check_host(headers)
            await self._admit(scope, headers)
            await self._app(scope, receive, reply)
        except self._rules.client_gone:
            return reply.status or _CLIENT_LEFT
        except Exception as error:  # noqa: BLE001 - as above
            status, answer, content = self._render(scope, headers, error, started=bool(reply.status))
            await _refuse_socket(scope, reply, status, answer, content)
            return status
        return reply.status or _CLIENT_LEFT

    async def _admit(self, scope: Scope, headers: dict[bytes, bytes]) -> None:
        """Authentication, then the limit. Who guesses at credentials uses up the limit of its address."""
        context: RequestContext = scope[KEY]
        refusal: Unauthenticated | None = None
        if not self._rules.is_public(_method(scope), scope["path"]):
            try:
                context.principal = await self._who(credentials.of_scope(scope, headers))
            except Unauthenticated as error:
                refusal = error
        if context.route_class:
            await self._limits.decide(context, self._tokens(scope, headers, context.principal))
        if refusal is not None:
            raise refusal

    def _tokens(self, scope: Scope, headers: dict[bytes, bytes], principal: Principal | None) -> int | None:
        """How many tokens a request will probably take; its route knows better once the body is read."""
        answer = self._rules.answer_tokens(_method(scope), scope["path"])
        if not answer or principal is None:
            return answer if principal else None
        length = headers.get(b"content-length", b"")
        # What is no length is refused later, and counted all the same.
        known = int(length) if length.isdigit() and len(length) <= _LENGTH_DIGITS else 0
        return answer + min(known // _BYTES_A_TOKEN, _MOST_PROMPT_TOKENS)

    async def _who(self, credential: str | None) -> Principal:
        if not credential:
            raise Unauthenticated("Authentication required: an access token or API key as Authorization: Bearer …")
        return self._identities.recall(credential) or await self._identities.authenticate(credential)

    def _bounded(self, method: str, headers: dict[bytes, bytes], receive: Receive) -> Receive:
        length = body.declared_length(headers)
        if length is None:
            return receive if method in _BODILESS else body.BoundedReceive(receive, self._body_limit_bytes)
        if length > self._body_limit_bytes:
            raise body.too_large(self._body_limit_bytes)
        # The server holds a client to the length it announced.
        return receive

    def _extra(self, scope: Scope, headers: dict[bytes, bytes]) -> Callable[[], list[Header]]:
        def extra() -> list[Header]:
            context: RequestContext = scope[KEY]
            path = scope["path"]
            limits: list[Header] = []
            if context.decision is not None or context.degraded:
                openai = self._rules.speaks_openai(path)
                limits = self._limit_headers.of(context, self._clock.now(), openai=openai)
            return [*self._security.headers(path, headers), (b"x-request-id", context.request_id.encode()), *limits]

        return extra

    def _render(
        self, scope: Scope, headers: dict[bytes, bytes], error: Exception, *, started: bool
    ) -> tuple[int, list[Header], bytes]:
        """The answer to a request that failed. Raises the error again when another answer has begun: the server then
        breaks the connection, which is how a client learns that what it got is not whole.
        """
        context: RequestContext = scope[KEY]
        if not isinstance(error, MeshError):
            log.error("Unexpected error", error_id=context.request_id, path=scope["path"], exc_info=error)
            error = Internal(details={"error_id": context.request_id})
        elif error.private:
            record = log.error if isinstance(error, Internal) else log.info
            record("Request failed", code=error.code, private=error.private, request_id=context.request_id)
        if started:
            raise error
        if isinstance(error, Unavailable) and error.retry_after_seconds is None:
            # What is away comes back in seconds, if at all; every 503 says when to ask again.
            error.retry_after_seconds = _ASK_AGAIN_SECONDS
        accept = headers.get(b"accept", b"").decode("latin-1")
        return self._rules.render(scope["path"], accept, error, context.request_id, self._clock.now())

    def _enter(self) -> None:
        self._in_flight += 1
        self._metrics.count_in_flight(self._in_flight)

    def _leave(self) -> None:
        self._in_flight -= 1
        self._metrics.count_in_flight(self._in_flight)


def _method(scope: Scope) -> str:
    return str(scope["method"]) if scope["type"] == "http" else "WEBSOCKET"


def _peer(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""


async def _answer(reply: Callable[[Any], Awaitable[None]], status: int, headers: list[Header], content: bytes) -> None:
    await reply({"type": "http.response.start", "status": status, "headers": headers})
    await reply({"type": "http.response.body", "body": content})


async def _refuse_socket(scope: Scope, reply: SocketReply, status: int, headers: list[Header], content: bytes) -> None:
    """An ordinary HTTP answer where the server can give one in a handshake, else a close (which is 403 on the wire)."""
    if "websocket.http.response" in scope.get("extensions", {}):
        await reply({"type": "websocket.http.response.start", "status": status, "headers": headers})
        await reply({"type": "websocket.http.response.body", "body": content})
    else:
        await reply({"type": "websocket.close", "code": _POLICY_VIOLATION})
