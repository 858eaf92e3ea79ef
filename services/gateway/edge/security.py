"""Headers that tell browsers what not to do, CORS, and which hosts and proxies are believed."""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address

from chassis.errors import Invalid
from services.gateway.edge.asgi import Header

Network = IPv4Network | IPv6Network

_ALWAYS: tuple[Header, ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)
_API_POLICY: Header = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
# The viewers of the API documentation are ours, like all they load. They style elements as they draw them, bring their
# icons as data, and ReDoc searches in a worker that it makes itself.
_DOCS_POLICY: Header = (
    b"content-security-policy",
    (
        b"default-src 'none'; connect-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
        b"img-src 'self' data:; worker-src blob:; frame-ancestors 'none'"
    ),
)
_DOCS = frozenset({"/docs", "/redoc", "/api/docs", "/api/redoc"})
_STRICT_TRANSPORT: Header = (b"strict-transport-security", b"max-age=31536000; includeSubDomains")
_EXPOSED = (
    b"X-Request-ID, Retry-After, X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset, X-RateLimit-Rule, "
    b"X-RateLimit-Degraded, RateLimit, RateLimit-Policy, X-RateLimit-Limit-Requests, X-RateLimit-Remaining-Requests, "
    b"X-RateLimit-Reset-Requests, X-RateLimit-Limit-Tokens, X-RateLimit-Remaining-Tokens, X-RateLimit-Reset-Tokens"
)
_PREFLIGHT: tuple[Header, ...] = (
    (b"access-control-allow-methods", b"GET, POST, PUT, PATCH, DELETE, OPTIONS, HEAD"),
    (b"access-control-max-age", b"600"),
    (b"content-length", b"0"),
)
_MOST_KNOWN_PEERS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class SecuritySettings:
    """What the operator allows.

    Attributes:
        origins: those that browsers may call from; ``*`` for all.
        hosts: Host headers that are answered, ``*`` for all, ``.example.org`` for a domain and what is below it.
        proxies: networks whose ``X-Forwarded-For`` is believed.
        tls: clients come by TLS, ended here or in front.
    """

    origins: Sequence[str]
    hosts: Sequence[str]
    proxies: Sequence[Network]
    tls: bool


class Security:
    """Answers the same for every request of a kind, therefore from prepared lists."""

    def __init__(self, settings: SecuritySettings) -> None:
        standing = [*_ALWAYS, *([_STRICT_TRANSPORT] if settings.tls else [])]
        self._any_origin = "*" in settings.origins
        if not self._any_origin:
            standing.append((b"vary", b"Origin"))
        self._api = [*standing, _API_POLICY]
        self._docs = [*standing, _DOCS_POLICY]
        self._origins = frozenset(origin.encode() for origin in settings.origins)
        self._any_host = "*" in settings.hosts
        self._hosts = frozenset(host.lower() for host in settings.hosts)
        self._proxies = tuple(settings.proxies)
        self._is_proxy: dict[str, bool] = {}

    def headers(self, path: str, headers: dict[bytes, bytes]) -> list[Header]:
        """What every answer carries. The list is shared: copy before adding."""
        standing = self._docs if path in _DOCS else self._api
        origin = headers.get(b"origin")
        if origin is None or not (self._any_origin or origin in self._origins):
            return standing
        allowed = b"*" if self._any_origin else origin
        return [
            *standing,
            (b"access-control-allow-origin", allowed),
            (b"access-control-expose-headers", _EXPOSED),
        ]

    def preflight(self, method: str, headers: dict[bytes, bytes]) -> list[Header] | None:
        """Headers of the answer to a CORS preflight, None when the request is none."""
        if method != "OPTIONS" or b"origin" not in headers or b"access-control-request-method" not in headers:
            return None
        wanted = headers.get(b"access-control-request-headers", b"authorization, content-type, x-api-key")
        return [*_PREFLIGHT, (b"access-control-allow-headers", wanted)]

    def check_host(self, headers: dict[bytes, bytes]) -> None:
        """Raises Invalid when the Host header is not one of ours."""
        if self._any_host:
            return
        host = headers.get(b"host", b"").decode("latin-1").lower()
        name = host.split("]", 1)[0] + "]" if host.startswith("[") else host.split(":", 1)[0]
        domains = (name[index:] for index, character in enumerate(name) if character == ".")
        if name not in self._hosts and self._hosts.isdisjoint(domains):
            raise Invalid("Invalid host header")

    def client_ip(self, peer: str, headers: dict[bytes, bytes]) -> str:
        """Who calls: the peer, or, behind proxies we believe, the nearest address that is none of them."""
        forwarded = headers.get(b"x-forwarded-for")
        if forwarded is None or not self._believes(peer):
            return peer
        nearest = peer
        for part in reversed(forwarded.decode("latin-1").split(",")):
            nearest = part.strip()
            if not self._believes(nearest):
                break
        return nearest if _is_address(nearest) else peer

    def _believes(self, address: str) -> bool:
        if not self._proxies:
            return False
        known = self._is_proxy.get(address)
        if known is None:
            known = _is_address(address) and any(ip_address(address) in network for network in self._proxies)
            if len(self._is_proxy) < _MOST_KNOWN_PEERS:
                self._is_proxy[address] = known
        return known


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
