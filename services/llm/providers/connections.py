"""The connections to all providers' servers: one pool, with TLS and the proxies that the environment names. Knows
nothing of what is sent over them.
"""

import ssl
from ipaddress import ip_address
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from yarl import URL

# Servers close idle connections after some time; one that has rested this long is no longer trusted.
_REST_SECONDS = 30.0
# How many connections that speak unasked are given up before their server is.
_MOST_SPEAKING = 3


class _Connector(aiohttp.TCPConnector):
    """Leaves connections on which a server said something unasked: aiohttp takes it for the next request's answer."""

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's own signature
    ) -> Connection:
        for _ in range(_MOST_SPEAKING):
            connection = await super().connect(req, traces, timeout)
            if connection.protocol is not None and not connection.protocol.should_close:
                return connection
            connection.close()
        raise aiohttp.ClientConnectionError("the server speaks before it is asked")


def open_session(connections: int) -> aiohttp.ClientSession:
    """The pool that all sites share; use it as a context manager.

    Args:
        connections: how many may be open at once to one server, so that one that hangs takes no other's; more requests
            wait for one.
    """
    tls = ssl.create_default_context()
    tls.set_alpn_protocols(["http/1.1"])
    return aiohttp.ClientSession(
        connector=_Connector(limit=0, limit_per_host=connections, keepalive_timeout=_REST_SECONDS, ssl=tls),
        # Providers set cookies that mean nothing to us and would cost every request a search.
        cookie_jar=aiohttp.DummyCookieJar(),
        # Compression saves nothing on answers of a few tokens, and holds streamed ones back in some servers.
        headers={"user-agent": "agentmesh", "accept-encoding": "identity", "content-type": "application/json"},
    )


def find_proxy(url: URL) -> str | None:
    """The proxy that the environment names for `url` (HTTPS_PROXY, HTTP_PROXY, NO_PROXY); none for this machine itself.

    Read once here, because aiohttp's own `trust_env` reads it again in another thread for every request, together with
    ~/.netrc, whose entries it refuses to combine with a key.
    """
    host = url.host or ""
    found = getproxies().get(url.scheme)
    if not found or _is_loopback(host) or proxy_bypass(host):
        return None
    return found if "://" in found else f"http://{found}"


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        # A name, and no address.
        return host == "localhost"
