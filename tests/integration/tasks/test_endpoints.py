"""The way out to webhooks over real sockets: whose certificate is believed, what is called, what is said of it."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from socket import AF_INET, AddressFamily

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from chassis.clock import SystemClock
from chassis.errors import Invalid
from services.tasks.peers.addresses import Guard, LookUp, Resolver
from services.tasks.peers.endpoints import Endpoints, open_endpoints
from tests.support.receiver import Receiver, receiving

HERE = ip_network("127.0.0.0/8")


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Of hook.example, by itself, with its key."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hook")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("hook.example")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "hook.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


@asynccontextmanager
async def serving(certificate: Path) -> AsyncIterator[Receiver]:
    """An endpoint with TLS; its names are whatever leads to it."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    async with receiving(Receiver(tls=tls)) as receiver:
        yield receiver


def named(receiver: Receiver, host: str) -> str:
    return receiver.url.replace(receiver.host, host)


@asynccontextmanager
async def way_out(
    look_up: LookUp | None = None, *, allowed: Sequence[str] = (str(HERE),), believed: Path | None = None
) -> AsyncIterator[Endpoints]:
    guard = Guard([ip_network(one) for one in allowed], allow_http=True)
    tls = None if believed is None else ssl.create_default_context(cafile=str(believed))
    resolver = Resolver(guard, look_up)
    async with open_endpoints(guard, resolver, SystemClock(), timeout_seconds=30, tls=tls) as opened:
        yield opened


def leading_here(host: str, port: int) -> list[tuple[str, AddressFamily]]:
    return [("127.0.0.1", AF_INET)]


async def test_a_name_is_pinned_and_its_certificate_checked(certificate: Path) -> None:
    """The connection goes to the address that was judged; the certificate has to be of the name."""
    async with serving(certificate) as receiver, way_out(leading_here, believed=certificate) as out:
        answer = await out.send(named(receiver, "hook.example"), {}, b"{}")
        assert (answer.status, receiver.got[0].headers["host"].partition(":")[0]) == (204, "hook.example")
        answer = await out.send(named(receiver, "other.example"), {}, b"{}")
        assert (answer.status, answer.error) == (0, "Its TLS certificate or handshake was not accepted")
        assert len(receiver.got) == 1


async def test_a_certificate_that_nobody_vouches_for_is_not_believed(certificate: Path) -> None:
    """With the machine's own trust, a self-made one is a failure."""
    async with serving(certificate) as receiver, way_out(leading_here) as out:
        answer = await out.send(named(receiver, "hook.example"), {}, b"{}")
        assert (answer.status, answer.error) == (0, "Its TLS certificate or handshake was not accepted")
        assert receiver.got == []


async def test_a_name_that_is_bound_anew_is_not_followed_inside(certificate: Path) -> None:
    """Outside when it is made, inside when it is called: nothing is connected to."""
    answers = [[("93.184.216.34", AF_INET)], [("127.0.0.1", AF_INET)]]
    async with serving(certificate) as receiver:
        async with way_out(lambda host, port: answers.pop(0), allowed=(), believed=certificate) as out:
            await out.check(named(receiver, "hook.example"))
            answer = await out.send(named(receiver, "hook.example"), {}, b"{}")
        assert (answer.status, answer.error) == (0, "It leads to an address that may not be called")
        assert receiver.got == []


async def test_an_address_that_nobody_judged_is_not_connected_to() -> None:
    """Whatever a resolver says: the socket itself asks once more."""

    class Careless(Resolver):
        async def resolve(self, host, port=0, family=AF_INET):
            return [{"hostname": host, "host": "127.0.0.1", "port": port, "family": AF_INET, "proto": 0, "flags": 0}]

    guard = Guard([], allow_http=True)
    async with receiving() as receiver:
        async with open_endpoints(guard, Careless(guard), SystemClock(), timeout_seconds=30) as out:
            answer = await out.send(named(receiver, "hook.example"), {}, b"{}")
        assert (answer.status, answer.error) == (0, "No connection could be made")
        assert receiver.got == []


async def test_a_name_is_judged_when_a_webhook_is_made() -> None:
    """One that leads inside is refused; one that leads nowhere yet may come to lead somewhere."""

    def nowhere(host: str, port: int) -> list[tuple[str, AddressFamily]]:
        raise OSError(-2, "Name or service not known")

    async with way_out(leading_here, allowed=()) as out:
        with pytest.raises(Invalid) as caught:
            await out.check("https://inside.example/")
        assert caught.value.code == "WEBHOOK_ADDRESS"
    async with way_out(nowhere) as out:
        await out.check("https://later.example/")
        answer = await out.send("https://later.example/", {}, b"{}")
        assert (answer.status, answer.error) == (0, "Its name leads to no address")


async def test_the_machines_own_names_are_inside() -> None:
    """By the real resolver."""
    async with way_out(allowed=()) as out:
        with pytest.raises(Invalid) as caught:
            await out.check("https://localhost/")
        assert caught.value.code == "WEBHOOK_ADDRESS"


async def test_what_goes_wrong_is_said_without_addresses() -> None:
    """A port where nobody listens."""
    async with receiving() as receiver:
        url = receiver.url
    async with way_out() as out:
        answer = await out.send(url, {}, b"{}")
    assert (answer.status, answer.error) == (0, "No connection could be made")


@pytest.mark.parametrize(
    ("begin", "more", "status"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 500, 0),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n", b"x" * 10_000, 200),
    ],
)
async def test_an_answer_without_end_is_not_read_to_its_end(begin: bytes, more: bytes, status: int) -> None:
    """It would take all of the process's time for as long as a try may take."""
    written = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await reader.readuntil(b"{}")
        with suppress(OSError):
            writer.write(begin)
            while True:
                writer.write(more)
                await writer.drain()
                written += len(more)

    async with await asyncio.start_server(flood, "127.0.0.1", 0) as server, way_out() as out:
        port = server.sockets[0].getsockname()[1]
        async with asyncio.timeout(20):
            assert (await out.send(f"http://127.0.0.1:{port}/", {}, b"{}")).status == status
    # What the kernel buffers on both sides may have been written, but has not been parsed.
    assert written < 50_000_000
