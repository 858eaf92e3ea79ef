"""How FastAPI's routes read JSON: with the edge's strict reader instead of the standard library's."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from chassis.errors import MeshError
from services.gateway.edge.body import parse_json


class _StrictRequest(Request):
    async def json(self) -> Any:
        return parse_json(await self.body())


class StrictRoute(APIRoute):
    """A route whose body is refused as the edge's reader refuses it. Raises what that reader raises."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await answer(_StrictRequest(request.scope, request.receive))
            except HTTPException as error:
                # FastAPI wraps whatever goes wrong while a body is read; the reader's own words are better.
                if isinstance(error.__cause__, MeshError):
                    raise error.__cause__ from None
                raise

        return handle
