"""Envoy's port with TLS: certificates both ways, and a new one without a restart."""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc

from chassis.clock import SystemClock
from chassis.config import Process
from chassis.lifecycle import Host
from deploy.local.ports import free_port
from services.ratelimit.config import Envoy
from services.ratelimit.rpc.envoy import open_envoy_server
from tests.integration.ratelimit.conftest import Deciding
from tests.integration.ratelimit.envoy import limits_over


def certify(folder: Path, name: str) -> tuple[bytes, bytes]:
    """A key and a certificate that it has signed itself, for this machine; also as files."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    begin = datetime.now(UTC) - timedelta(hours=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = certificate.public_bytes(serialization.Encoding.PEM)
    for kind, content in (("key", private), ("pem", public)):
        (folder / f"next.{kind}").write_bytes(content)
        os.replace(folder / f"next.{kind}", folder / f"{name}.{kind}")  # noqa: PTH105 - replaces in one step
    return private, public


@pytest.fixture
async def address(tmp_path: Path) -> AsyncIterator[str]:
    """A server that asks its callers for a certificate."""
    settings = Envoy(
        grpc_port=free_port(),
        tls=True,
        tls_key=str(tmp_path / "server.key"),
        tls_certificate=str(tmp_path / "server.pem"),
        tls_client_authority=str(tmp_path / "client.pem"),
    )
    certify(tmp_path, "server")
    certify(tmp_path, "client")
    deciding = Deciding("redis://127.0.0.1:1/0")
    limits = limits_over(deciding, tmp_path)
    async with AsyncExitStack() as stack:
        host = Host("ratelimit", Process(), SystemClock(), stack)
        await host.enter(open_envoy_server(host, settings, limits, lambda: True))
        yield f"localhost:{settings.grpc_port}"
    await deciding.close()


async def serves(address: str, trusted: bytes, own: tuple[bytes, bytes] | None) -> bool:
    """Whether a caller with that trust and that certificate is answered."""
    private, public = own or (None, None)
    credentials = grpc.ssl_channel_credentials(trusted, private, public)
    async with grpc.aio.secure_channel(address, credentials) as channel:
        check = health_pb2.HealthCheckRequest(service="ratelimit")
        try:
            found = await health_pb2_grpc.HealthStub(channel).Check(check, timeout=20)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            return False
    return bool(found.status == health_pb2.HealthCheckResponse.SERVING)


async def test_both_sides_show_certificates_and_new_ones_are_taken(address: str, tmp_path: Path) -> None:
    """A caller without one is refused; a renewed certificate is shown to the next caller."""
    before = (tmp_path / "server.pem").read_bytes()
    own = (tmp_path / "client.key").read_bytes(), (tmp_path / "client.pem").read_bytes()
    assert await serves(address, before, own)
    assert not await serves(address, before, None)
    _, after = certify(tmp_path, "server")
    assert await serves(address, after, own)
    assert not await serves(address, before, own)
