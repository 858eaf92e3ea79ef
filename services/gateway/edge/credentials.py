"""Where a request carries its credential. Reads headers; who it is, identity knows."""

from urllib.parse import parse_qs

from chassis.errors import Unauthenticated
from services.gateway.edge.asgi import Scope

_BEARER = b"bearer "
_SUBPROTOCOL = "bearer"
_MOST_QUERY_FIELDS = 100


def of_scope(scope: Scope, headers: dict[bytes, bytes]) -> str | None:
    """The credential of a request or a WebSocket handshake, None without one. Raises Unauthenticated."""
    return of_request(headers) if scope["type"] == "http" else of_websocket(scope, headers)


def of_request(headers: dict[bytes, bytes]) -> str | None:
    """The token of ``Authorization: Bearer``, else ``X-API-Key``. Raises Unauthenticated for another scheme."""
    authorization = headers.get(b"authorization")
    if authorization is not None:
        if authorization[:7].lower() != _BEARER:
            raise Unauthenticated("Use Authorization: Bearer with an access token or API key")
        return authorization[7:].strip().decode("latin-1")
    key = headers.get(b"x-api-key")
    return None if key is None else key.decode("latin-1")


def of_websocket(scope: Scope, headers: dict[bytes, bytes]) -> str | None:
    """As `of_request`; browsers cannot set headers, so also the subprotocol after ``bearer``, else ``?token=``."""
    credential = of_request(headers)
    if credential is not None:
        return credential
    offered = scope.get("subprotocols", [])
    if offers_bearer(scope) and len(offered) > 1:
        return str(offered[1])
    try:
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"), max_num_fields=_MOST_QUERY_FIELDS)
    except ValueError:
        raise Unauthenticated("The query has too many fields to look for a token in it") from None
    tokens = query.get("token")
    return tokens[0] if tokens else None


def offers_bearer(scope: Scope) -> bool:
    """Whether the client offers the subprotocol ``bearer``, which it then wants to be answered with."""
    offered = scope.get("subprotocols", [])
    return bool(offered) and offered[0].lower() == _SUBPROTOCOL
