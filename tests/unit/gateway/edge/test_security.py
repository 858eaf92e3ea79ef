from ipaddress import ip_network

import pytest

from services.gateway.edge.security import Security, SecuritySettings


def security(**settings: object) -> Security:
    defaults: dict[str, object] = {"origins": [], "hosts": ["*"], "proxies": [], "tls": False}
    return Security(SecuritySettings(**defaults | settings))  # type: ignore[arg-type]  # defaults of several types


def names(headers: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    return dict(headers)


def test_strict_transport_only_with_tls():
    """HSTS over plain HTTP would be ignored, and would lock out who tests without TLS."""
    assert b"strict-transport-security" not in names(security().headers("/", {}))
    assert b"strict-transport-security" in names(security(tls=True).headers("/", {}))


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/api/docs", "/api/redoc"])
def test_the_documentation_may_load_its_viewer(path: str):
    """From the gateway and from nowhere else, and no script that stands in the page; the API lets nothing in."""
    docs = names(security().headers(path, {}))[b"content-security-policy"]
    assert b"script-src 'self';" in docs
    assert b"frame-ancestors 'none'" in docs
    assert b"http" not in docs
    assert b"'self'" not in names(security().headers("/api/v1/chat", {}))[b"content-security-policy"]


def test_origins():
    """A listed origin is named back, another is not; with a star everybody is allowed."""
    listed = security(origins=["http://a"])
    assert names(listed.headers("/", {b"origin": b"http://a"}))[b"access-control-allow-origin"] == b"http://a"
    assert b"access-control-allow-origin" not in names(listed.headers("/", {b"origin": b"http://b"}))
    assert names(listed.headers("/", {}))[b"vary"] == b"Origin"
    anybody = security(origins=["*"])
    assert names(anybody.headers("/", {b"origin": b"http://b"}))[b"access-control-allow-origin"] == b"*"


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.7", None, "192.0.2.7"),
        ("192.0.2.7", b"203.0.113.9", "192.0.2.7"),
        ("10.0.0.1", b"203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", b"198.51.100.1, 203.0.113.9, 10.0.0.2", "203.0.113.9"),
        ("10.0.0.1", b"2001:db8::1", "2001:db8::1"),
        ("10.0.0.1", b"nonsense", "10.0.0.1"),
        ("10.0.0.1", b"", "10.0.0.1"),
        ("", None, ""),
    ],
)
def test_only_our_proxies_may_speak_for_others(peer: str, forwarded: bytes | None, client: str):
    """The nearest address that is none of our proxies counts; what it claims itself does not."""
    headers = {} if forwarded is None else {b"x-forwarded-for": forwarded}
    assert security(proxies=[ip_network("10.0.0.0/8")]).client_ip(peer, headers) == client


def test_hosts_may_carry_a_port():
    """Names, ports and IPv6 literals."""
    checked = security(hosts=["localhost", "[::1]"])
    for host in (b"localhost", b"LOCALHOST:8000", b"[::1]:8000"):
        checked.check_host({b"host": host})
