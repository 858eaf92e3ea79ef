"""HTTP requests on behalf of users, to named hosts only, and never by a detour to an address inside.

The name is looked up once, every address it has is judged, and the connection is pinned to one that was; redirects are
answers and not followed.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import SplitResult, urlsplit

from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import BuilderError, PyreqwestError
from pyreqwest.request import RequestBuilder
from pyreqwest.response import Response

from worker.handler import INVALID_INPUT, Reject, Retry

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})
_DEFAULT_PORTS = {"http": 80, "https": 443}
_TIMEOUT = timedelta(seconds=30)
_MAX_BODY_BYTES = 1024 * 1024


class Fetcher:
    """Requests to the hosts of an allow-list, whose entries are ``host`` (any port) or ``host:port``.

    An entry that is itself an address, or the name ``localhost``, also allows that private address; a name that merely
    leads to one does not.
    """

    def __init__(self, allowed: frozenset[str]) -> None:
        self._allowed = allowed

    async def fetch(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """``{"url", "method"?, "headers"?, "body"?}`` → ``{"status", "headers", "body"}``.

        Raises Reject for what is not allowed, Retry when the host does not answer.
        """
        url, host, port = self._target(wanted.get("url"))
        method = str(wanted.get("method", "GET")).upper()
        if method not in _METHODS:
            raise Reject(INVALID_INPUT, f"method must be one of {', '.join(sorted(_METHODS))}")
        address = await self._address(host, port)
        pinned = (
            ClientBuilder().follow_redirects(enable=False).no_proxy().timeout(_TIMEOUT).resolve(host, address, port)
        )
        async with pinned.build() as client:
            request = _request(client, method, url, wanted)
            try:
                async with request.build_streamed() as response:
                    return await _answer(response)
            except PyreqwestError as error:
                raise Retry(f"{host} did not answer") from error

    def _target(self, url: Any) -> tuple[str, str, int]:
        if not isinstance(url, str):
            raise Reject(INVALID_INPUT, "url must be a string")
        try:
            parts = urlsplit(url)
            port = parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)
        except ValueError:
            raise Reject(INVALID_INPUT, "url is not a URL") from None
        host = (parts.hostname or "").lower()
        if not host or not port or _has_login(parts):
            raise Reject(INVALID_INPUT, "url must be http or https, with a host and without a login")
        if not self._lists(host, port):
            raise Reject("HOST_NOT_ALLOWED", f"{host} is not on the list of hosts that may be called")
        return url, host, port

    def _lists(self, host: str, port: int) -> bool:
        return bool(self._allowed & {host, f"{host}:{port}", f"[{host}]:{port}"})

    async def _address(self, host: str, port: int) -> str:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise Retry(f"{host} has no address") from error
        for *_, (address, *_) in found:
            inside = not ipaddress.ip_address(address).is_global
            if inside and host != "localhost" and not self._lists(str(address), port):
                raise Reject("HOST_NOT_ALLOWED", f"{host} leads to a private address")
        return str(found[0][4][0])


def _has_login(parts: SplitResult) -> bool:
    return parts.username is not None or parts.password is not None


def _request(client: Client, method: str, url: str, wanted: Mapping[str, Any]) -> RequestBuilder:
    headers, body = _headers(wanted.get("headers", {})), wanted.get("body")
    try:
        request = client.request(method, url).headers(headers)
    except (BuilderError, ValueError) as error:
        raise Reject(INVALID_INPUT, "The request cannot be made of this url and these headers") from error
    if body is None:
        return request
    return request.body_text(body) if isinstance(body, str) else request.body_json(body)


def _headers(given: Any) -> dict[str, str]:
    if not isinstance(given, dict) or not all(isinstance(value, str) for value in given.values()):
        raise Reject(INVALID_INPUT, "headers must be an object of strings")
    return {str(name): value for name, value in given.items()}


async def _answer(response: Response) -> dict[str, Any]:
    body = bytearray()
    while (chunk := await response.body_reader.read_chunk()) is not None:
        body += bytes(chunk)
        if len(body) > _MAX_BODY_BYTES:
            raise Reject("RESPONSE_TOO_LARGE", f"The answer has more than {_MAX_BODY_BYTES} bytes")
    return {
        "status": response.status,
        "headers": dict(response.headers.items()),
        "body": bytes(body).decode(errors="replace"),
    }
