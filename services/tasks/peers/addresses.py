"""Which addresses may be called on behalf of owners: those that everybody on the internet could call, and no others.

Knows nothing of what is said there. A name is judged by every address that it leads to.
"""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from aiohttp import abc
from yarl import URL

from chassis.errors import Invalid

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

LookUp = Callable[[str, int], list[tuple[str, socket.AddressFamily]]]

MOST_URL = 2000
# What no two parsers read differently: no user, no fragment, no backslash, no zone, brackets around addresses alone.
_PLAIN = r"[^\x00-\x20#\\\x7f-\U0010ffff]"
_SHAPE = re.compile(rf"[a-z]+://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]+)?([/?]{_PLAIN}*)?\Z", re.IGNORECASE | re.ASCII)
_MOST_HOST = 253
# The labels of a host name; IDNs come as their ASCII form, and a dot at the end would be another name for some.
_HOST = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*\Z")
# What the old functions of C libraries take for an address ends like these: 2130706433, 0x7f.1, 127.1, 0177.0.0.1.
_NUMBER = re.compile(r"(0x[0-9a-f]*|[0-9]+)\Z")
# Translation (RFC 6052): what a network that has only IPv6 sees of IPv4.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# Global by the registries, and not for us: addresses in which another is embedded and its tunnels, local translation,
# documentation, segments, sites of old, and the server of a cloud that answers from a public address.
_NEVER = [
    ipaddress.ip_network(text)
    for text in (
        "::/96",
        "::ffff:0:0/96",
        "::ffff:0:0:0/96",
        "2002::/16",
        "2001::/23",
        "192.88.99.0/24",
        "64:ff9b:1::/48",
        "3fff::/20",
        "5f00::/16",
        "fec0::/10",
        # For protocols, all of it: releases of Python differ in what of it they call global.
        "192.0.0.0/24",
        "168.63.129.16/32",
    )
]
# For each hostile name server a thread waits, and the others must go on.
_LOOKUPS = 256


class Guard:
    """Judges URLs and addresses.

    Args:
        allowed: networks that may be called although they are inside.
        allow_http: also without TLS.
    """

    def __init__(self, allowed: Sequence[Network], *, allow_http: bool) -> None:
        self._allowed = tuple(allowed)
        self._schemes = ("https", "http") if allow_http else ("https",)

    def parse(self, url: str) -> URL:
        """The URL as it will be called. Raises Invalid (``WEBHOOK_URL``; ``WEBHOOK_ADDRESS`` for an address inside)."""
        if len(url) > MOST_URL or not _SHAPE.match(url):
            raise _bad_url(
                f"scheme://host[:port][/path][?query] in at most {MOST_URL} plain characters, without user and fragment"
            )
        try:
            parsed = URL(url)
            port = parsed.port
        except ValueError:
            raise _bad_url("Not a URL") from None
        if parsed.scheme not in self._schemes:
            raise _bad_url(f"It must begin with {' or '.join(f'{scheme}://' for scheme in self._schemes)}")
        if not port:
            raise _bad_url("It must have a port from 1 to 65535")
        self._check_host(parsed.raw_host or "")
        return parsed

    def _check_host(self, host: str) -> None:
        address = _literal(host)
        if address is not None:
            self.check(address)
        elif len(host) > _MOST_HOST or not _HOST.match(host) or _NUMBER.match(host.rpartition(".")[2]):
            raise _bad_url("The host is neither a name nor an address in its usual form")

    def check(self, address: Address) -> None:
        """Raises Invalid (``WEBHOOK_ADDRESS``) for an address inside."""
        if not self._may_call(address):
            raise Invalid(
                "url: It leads to an address that may not be called",
                code="WEBHOOK_ADDRESS",
                details={"field": "url"},
            )

    def _may_call(self, address: Address) -> bool:
        if any(address in network for network in self._allowed):
            return True
        if address in _NAT64:
            return self._may_call(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        never = any(address in network for network in _NEVER)
        return address.is_global and not never and not (address.is_multicast or address.is_reserved)


class Resolver(abc.AbstractResolver):
    """Names to addresses, for aiohttp: all that a name leads to, or none when one of them may not be called.

    Args:
        look_up: asks for a name's addresses, in a thread; the machine's own way when None.
    """

    def __init__(self, guard: Guard, look_up: LookUp | None = None) -> None:
        self._guard = guard
        self._look_up = look_up or _look_up
        # Its own threads: the loop's are few, and a slow name server holds one for long.
        self._threads = ThreadPoolExecutor(_LOOKUPS, thread_name_prefix="webhook-names")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[abc.ResolveResult]:
        """Raises OSError when there is no such name, Invalid (``WEBHOOK_ADDRESS``) when it leads inside."""
        del family
        found = await asyncio.get_running_loop().run_in_executor(self._threads, self._look_up, host, port)
        for address, _ in found:
            self._guard.check(ipaddress.ip_address(address))
        return [
            abc.ResolveResult(
                hostname=host, host=address, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST
            )
            for address, family in found
        ]

    async def close(self) -> None:
        """Waits for nobody."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str, port: int) -> list[tuple[str, socket.AddressFamily]]:
    """The addresses of a name. Raises OSError. An IPv6 address with a zone comes without it."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(str(sockaddr[0]).partition("%")[0], family) for family, _, _, _, sockaddr in found]


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _bad_url(words: str) -> Invalid:
    return Invalid(f"url: {words}", code="WEBHOOK_URL", details={"field": "url"})
