"""How a request that passed the edge finds its handler: an exact table of raw ASGI first, then FastAPI's router.

The one place that puts the dialects together. Raises every error as a MeshError; the edge renders them.
"""

from collections.abc import Iterable, Mapping

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from starlette.exceptions import HTTPException
from starlette.routing import Match

from chassis.clock import Clock
from chassis.errors import Invalid, MeshError, NotFound
from services.gateway.apis.aios import mount as aios
from services.gateway.apis.behind import Behind
from services.gateway.apis.body_route import StrictRoute
from services.gateway.apis.cwmai import mount as cwmai
from services.gateway.apis.dialects import Dialect, dialect_of
from services.gateway.apis.document import describe
from services.gateway.apis.envelope import enveloped, wants_envelope
from services.gateway.apis.index import index_handler
from services.gateway.apis.openai import mount as openai
from services.gateway.apis.operation import Operation
from services.gateway.apis.pages import page_handlers
from services.gateway.apis.problems import misshapen
from services.gateway.apis.support import mount as support
from services.gateway.apis.task_sockets import TaskSockets
from services.gateway.apis.v1 import mount as v1
from services.gateway.edge.asgi import App, Message, Receive, Scope, Send
from services.gateway.edge.context import current
from services.gateway.edge.errors import MethodNotAllowed

_NOT_FOUND, _METHOD_NOT_ALLOWED = 404, 405


class Front:
    """The ASGI application behind the edge.

    Args:
        table: path → method → handler, for paths without parameters that must not cost a router.
        router: everything else.
    """

    def __init__(self, table: Mapping[str, Mapping[str, App]], router: FastAPI, clock: Clock) -> None:
        self._table = table
        self._router = router
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI. Raises MeshError, ClientGone, and what nobody foresaw."""
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope, send = {**scope, "method": "GET"}, _without_body(send)
        if dialect_of(scope["path"]) is Dialect.V1 and scope["type"] == "http" and wants_envelope(scope):
            await enveloped(self._serve, self._clock, scope, receive, send)
        else:
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        methods = self._table.get(scope["path"])
        if methods is None or scope["type"] != "http":
            await self._route(scope, receive, send)
            return
        current(scope).route = scope["path"]
        handler = methods.get(scope["method"])
        if handler is None:
            raise MethodNotAllowed(details={"allow": ", ".join(sorted(methods))})
        await handler(scope, receive, send)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._router(scope, receive, send)
        except RequestValidationError as error:
            raise misshapen(error.errors()) from None
        except HTTPException as error:
            raise self._as_mesh_error(error, scope) from None
        finally:
            current(scope).route = getattr(scope.get("route"), "path", "")

    def _as_mesh_error(self, error: HTTPException, scope: Scope) -> MeshError:
        if error.status_code == _METHOD_NOT_ALLOWED:
            return MethodNotAllowed(details={"allow": ", ".join(sorted(self._methods(scope)))})
        if error.status_code == _NOT_FOUND:
            return NotFound("No such path", private=scope["path"])
        return Invalid(str(error.detail))

    def _methods(self, scope: Scope) -> set[str]:
        """Every method of the path, over all routes: the router itself knows those of the first alone."""
        found: set[str] = set()
        for method in ("DELETE", "GET", "PATCH", "POST", "PUT"):
            asked = {**scope, "method": method}
            if any(route.matches(asked)[0] is Match.FULL for route in self._router.router.routes):
                found.add(method)
        return found


def _without_body(send: Send) -> Send:
    """HEAD is GET without the body; a stream is over with its head, and hears that its client needs no more."""

    async def send_head(message: Message) -> None:
        if message["type"] == "http.response.start":
            await send(message)
            await send({"type": "http.response.body", "body": b""})

    return send_head


def create_app(behind: Behind, more: Iterable[Operation] = (), routers: Iterable[APIRouter] = ()) -> App:
    """The APIs over what is behind them.

    Args:
        more: further operations on raw ASGI that are not a dialect's, such as health.
        routers: further routes of FastAPI.
    """
    operations: list[Operation] = [*openai.operations(behind), *v1.operations(behind), *more]
    app = FastAPI(
        title="AgentMesh",
        version=behind.version,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.router.route_class = StrictRoute
    dialects = (openai, v1, aios, cwmai, support)
    sockets = TaskSockets(behind.peers.tasks, behind.feeds, behind.identity).router()
    for router in (*(router for dialect in dialects for router in dialect.routers(behind)), sockets, *routers):
        app.include_router(router)
    # Without FastAPI's own error layers: what a handler raises is rendered by the edge, once, in its dialect.
    app.middleware_stack = AsyncExitStackMiddleware(app.router)
    document = describe(app, operations)
    table: dict[str, dict[str, App]] = {"/": {"GET": index_handler(document, behind.version)}}
    table |= {path: {"GET": handler} for path, handler in page_handlers(document).items()}
    for operation in operations:
        table.setdefault(operation.path, {})[operation.method] = operation.handler
    return Front(table, app, behind.clock)
