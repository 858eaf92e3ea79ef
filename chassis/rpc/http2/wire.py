"""What gRPC adds to HTTP/2: messages behind their length, deadlines, metadata and status as headers. Pure."""

import binascii
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from struct import Struct
from urllib.parse import quote

import grpc

Headers = list[tuple[bytes, bytes]]
Metadata = tuple[tuple[str, str | bytes], ...]

PREFIX = Struct(">BI")
# What a client may send compressed, beside identity.
ENCODINGS = b"identity,deflate,gzip"
_COMPRESSED = {b"deflate", b"gzip"}
# zlib's own sign for: find out by the header whether it is gzip or deflate.
_EITHER = 32 + zlib.MAX_WBITS

RESPONSE: Headers = [(b":status", b"200"), (b"content-type", b"application/grpc")]
OK: Headers = [(b"grpc-status", b"0")]
# Both as they travel (RFC 7541): `:status 200` is the eighth of the known headers, `content-type` the name of the 31st;
# nothing of them is to be remembered.
RESPONSE_BLOCK = b"\x88\x0f\x10\x10application/grpc"
OK_BLOCK = b"\x00\x0bgrpc-status\x010"
# What HTTP answers to what is no gRPC.
UNSUPPORTED: Headers = [(b":status", b"415"), (b"accept-post", b"application/grpc")]

_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_LONGEST_TIMEOUT = 9
# Characters of a status message that travel as they are.
_PLAIN = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


class StatusError(Exception):
    """A call ends with this status. Raised here for what a client does wrong, and by a handler through `abort`."""

    def __init__(self, code: grpc.StatusCode, message: str, metadata: Sequence[tuple[str, str | bytes]] = ()) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message
        self.metadata = metadata


def framed(body: bytes) -> bytes:
    """A message as it travels."""
    return PREFIX.pack(0, len(body)) + body


def inflated(body: bytes, encoding: bytes, most_bytes: int) -> bytes:
    """A message that was sent compressed. Raises StatusError for an unknown encoding, for noise, and for too much."""
    if encoding not in _COMPRESSED:
        raise StatusError(
            grpc.StatusCode.UNIMPLEMENTED, "unknown grpc-encoding", [("grpc-accept-encoding", ENCODINGS.decode())]
        )
    unpacker = zlib.decompressobj(_EITHER)
    try:
        whole = unpacker.decompress(body, most_bytes)
    except zlib.error as error:
        raise StatusError(grpc.StatusCode.INTERNAL, "the message cannot be decompressed") from error
    if not unpacker.eof:
        if len(whole) < most_bytes:
            raise StatusError(grpc.StatusCode.INTERNAL, "the message is compressed, and not whole")
        raise too_large(most_bytes)
    return whole


def too_large(most_bytes: int) -> StatusError:
    """The error of a message that is larger than this server takes."""
    return StatusError(grpc.StatusCode.RESOURCE_EXHAUSTED, f"a message has at most {most_bytes} bytes")


def timeout_seconds(value: bytes | None) -> float | None:
    """Seconds until the client's deadline; None without one, and for what is none."""
    if not value or len(value) > _LONGEST_TIMEOUT or not value[:-1].isdigit() or value[-1:] not in _UNITS:
        return None
    return int(value[:-1]) * _UNITS[value[-1:]]


def metadata_of(headers: Iterable[tuple[bytes, bytes]]) -> Metadata:
    """The client's metadata: all headers but HTTP's own; those that end in ``-bin`` are bytes, maybe several in one.

    Raises StatusError for bytes that are not in base64.
    """
    found: list[tuple[str, str | bytes]] = []
    for key, value in headers:
        name = key.decode("latin-1")
        if name.endswith("-bin"):
            found.extend((name, _binary(one.strip())) for one in value.split(b","))
        elif not name.startswith(":"):
            found.append((name, value.decode("latin-1")))
    return tuple(found)


def _binary(value: bytes) -> bytes:
    try:
        return b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except binascii.Error as error:
        raise StatusError(grpc.StatusCode.INTERNAL, "binary metadata is not in base64") from error


def status_headers(code: grpc.StatusCode, message: str, metadata: Iterable[tuple[str, str | bytes]]) -> Headers:
    """A status as trailers."""
    headers = [(b"grpc-status", str(code.value[0]).encode())]
    if message:
        headers.append((b"grpc-message", quote(message, safe=_PLAIN).encode()))
    for name, value in metadata:
        travelling = b64encode(value).rstrip(b"=") if isinstance(value, bytes) else value.encode()
        headers.append((name.encode(), travelling))
    return headers
