"""Connections kept, replaced, limited, secured, led through a proxy, and ended when a call is given up."""

import asyncio
import ssl
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from chassis.errors import DeadlineExceeded, Unavailable
from services.llm.providers.connections import open_session
from services.llm.providers.http import Client, Site
from tests.integration.llm.raw_server import OK, ask, calling, hear, kind, listen, listening, saying, serving, silent
from tests.support.clock import FakeClock


async def test_connections_are_kept():
    """One after the other needs one; many at once need many, and no more than allowed."""
    async with serving(kind, connections=3) as (server, client):
        for _ in range(5):
            assert await ask(client) == "ok"
        assert server.connections == 1
        assert await asyncio.gather(*(ask(client) for _ in range(20))) == ["ok"] * 20
        assert server.connections == 3


async def test_a_server_that_hangs_takes_no_others_place():
    """The number of connections is counted for each server."""
    async with open_session(1) as session, listening(silent) as bad, listening(kind) as good:
        first, second = (Client(session, Site(provider="p", url=server.url), FakeClock()) for server in (bad, good))
        hanging = asyncio.ensure_future(ask(first))
        assert await ask(second) == "ok"
        hanging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hanging


def at_rest(client: Client) -> list[Any]:
    """Connections that wait for the next request, as far as this side knows."""
    kept = client._session.connector._conns.values()  # type: ignore[union-attr]  # it has one
    return [each for connections in kept for each, _ in connections if each.is_connected()]


async def test_a_connection_that_ended_at_rest_is_replaced():
    """The next request does not hear of it."""
    async with serving(kind) as (server, client):
        await ask(client)
        server.writers[0].close()
        await server.writers[0].wait_closed()
        async with asyncio.timeout(20):
            while at_rest(client):
                await asyncio.sleep(0.01)
        assert await ask(client) == "ok"
        assert server.connections == 2


async def test_words_nobody_asked_for_are_no_answer():
    """They are never taken for the next one's."""

    async def chatty(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await hear(reader)
        writer.write(OK)
        await asyncio.sleep(0.02)
        writer.write(OK.replace(b"ok", b"no"))
        said.set()
        await reader.read()

    said = asyncio.Event()
    async with serving(chatty) as (server, client):
        assert await ask(client) == "ok"
        await said.wait()
        await asyncio.sleep(0.1)
        assert await ask(client) == "ok"
        assert server.connections == 2


async def _answered(client: Client) -> object:
    """An answer, however often the machine is too slow for a client that waits for moments only."""
    async with asyncio.timeout(20):
        while True:
            with suppress(DeadlineExceeded):
                return await ask(client)


async def test_a_place_is_free_again_after_trouble():
    """What timed out does not keep its place."""
    async with serving(silent, connections=1, seconds=0.05) as (server, client):
        for _ in range(3):
            with pytest.raises(DeadlineExceeded):
                await ask(client)
        server.talk = kind
        assert await _answered(client) == "ok"


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://a..b", "http://" + "x" * 70])
async def test_nobody_there(url: str):
    """A refused connection and an impossible name are the provider's failure."""
    async with calling(url) as client:
        with pytest.raises(Unavailable):
            await ask(client)


async def test_a_proxy_is_used(monkeypatch: pytest.MonkeyPatch):
    """The one that the environment names, with its password, except for hosts it excludes and this machine."""
    heard: list[bytes] = []

    async def attentive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await hear(reader))
        writer.write(OK)

    async with listening(attentive) as proxy, listening(kind) as near:
        monkeypatch.setenv("http_proxy", proxy.url.replace("//", "//me:secret@"))
        monkeypatch.setenv("no_proxy", "inside.invalid")
        async with calling("http://provider.invalid/v1") as client:
            assert await ask(client) == "ok"
        assert heard[0].startswith(b"POST http://provider.invalid/v1/chat HTTP/1.1\r\n")
        assert b"\r\nProxy-Authorization: Basic bWU6c2VjcmV0\r\n" in heard[0]
        async with calling("http://inside.invalid") as client:
            with pytest.raises(Unavailable):
                await ask(client)
        async with calling(near.url) as client:
            assert await ask(client) == "ok"
        assert proxy.connections == 1


async def test_trouble_tells_no_secrets(monkeypatch: pytest.MonkeyPatch):
    """Neither the key nor the proxy's password is in what is logged of a failure."""
    async with listening(saying(b"HTTP/1.1 407 no\r\ncontent-length: 0\r\n\r\n")) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url.replace("//", "//me:secret@"))
        async with calling("https://provider.invalid", authorization="Bearer sk-secret") as client:
            with pytest.raises(Unavailable) as refused:
                await ask(client)
    async with (
        listening(saying(b"HTTP/1.1 abc\r\n\r\n")) as server,
        calling(server.url, authorization="Bearer sk-secret") as client,
    ):
        with pytest.raises(Unavailable) as garbled:
            await ask(client)
    for failed in (refused.value, garbled.value):
        logged = failed.private + "".join(traceback.format_exception(failed))
        assert "secret@" not in logged
        assert "sk-secret" not in failed.private
        assert "Basic" not in logged
    assert "407" in refused.value.private


def certify(folder: Path) -> Path:
    """A certificate for localhost that signs itself, with its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    # From a day ago: a clock that is set back while the test runs makes no certificate a future one.
    begin = datetime.now(UTC) - timedelta(days=1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, begin, begin + timedelta(days=2))
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    signed = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    form = serialization.Encoding.PEM
    secret = key.private_bytes(form, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "both.pem"
    path.write_bytes(signed.public_bytes(form) + secret)
    return path


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A server's side of TLS that this machine trusts."""
    path = certify(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(path)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    return context


async def test_tls(tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch):
    """A certificate that is trusted is accepted; a stranger's is not."""
    async with serving(kind, tls) as (server, client):
        assert [await ask(client), await ask(client)] == ["ok", "ok"]
        assert server.connections == 1
    monkeypatch.delenv("SSL_CERT_FILE")
    async with serving(kind, tls) as (_, client):
        with pytest.raises(Unavailable) as failed:
            await ask(client)
        assert "CERTIFICATE_VERIFY_FAILED" in failed.value.private


@pytest.mark.parametrize("call", [ask, listen])
@pytest.mark.parametrize("secure", [False, True])
async def test_giving_up_ends_the_connection(
    call: Callable[[Client], Awaitable[object]], secure: bool, tls: ssl.SSLContext
):
    """Before the head of the answer, in the clear and under TLS, in one piece and streamed."""
    asked = asyncio.Event()

    async def patient(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await hear(reader)
        asked.set()
        await silent(reader, writer)

    async with serving(patient, tls if secure else None) as (server, client):
        asking = asyncio.ensure_future(call(client))
        hearing = asyncio.ensure_future(asked.wait())
        await asyncio.wait({asking, hearing}, return_when=asyncio.FIRST_COMPLETED)
        assert hearing.done(), f"the call ended before it was heard: {asking.exception()!r}"
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        async with asyncio.timeout(20):
            await server.left.wait()
