"""What gRPC puts into headers and around messages, against its specification (PROTOCOL-HTTP2)."""

import gzip
import zlib

import grpc
import pytest
from jh2.connection import H2Connection

from chassis.rpc.http2 import wire


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(b"2H", 7200), (b"3M", 180), (b"20S", 20), (b"250m", 0.25), (b"1500u", 0.0015), (b"99999999n", 0.099999999)],
)
def test_timeouts_have_units(value: bytes, seconds: float):
    """Each unit of the specification is understood."""
    assert wire.timeout_seconds(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", [None, b"", b"S", b"-1S", b"1", b"1x", b"123456789S", b"1.5S"])
def test_what_is_no_timeout_is_none(value: bytes | None):
    """A call without a deadline that can be read has none."""
    assert wire.timeout_seconds(value) is None


def test_binary_metadata_loses_its_padding_and_gets_it_back():
    """Values of names that end in -bin are bytes, with or without base64's padding."""
    headers = [(b":path", b"/s/M"), (b"a", b"text"), (b"b-bin", b"AQI"), (b"c-bin", b"AQI=")]
    assert wire.metadata_of(headers) == (("a", "text"), ("b-bin", b"\x01\x02"), ("c-bin", b"\x01\x02"))
    sent = wire.status_headers(grpc.StatusCode.OK, "", [("b-bin", b"\x01\x02")])
    assert sent == [(b"grpc-status", b"0"), (b"b-bin", b"AQI")]


def test_binary_metadata_may_be_several_in_one_header():
    """Values that were joined with commas are taken apart."""
    assert wire.metadata_of([(b"b-bin", b"AQI,Aw==, BA")]) == (
        ("b-bin", b"\x01\x02"),
        ("b-bin", b"\x03"),
        ("b-bin", b"\x04"),
    )


@pytest.mark.parametrize("value", [b"A", b"!!!!", b"AQI=AQI="])
def test_binary_metadata_that_is_none_is_refused(value: bytes):
    """What is not in base64 ends the call with INTERNAL."""
    with pytest.raises(wire.StatusError) as caught:
        wire.metadata_of([(b"b-bin", value)])
    assert caught.value.code is grpc.StatusCode.INTERNAL


def test_a_status_message_is_percent_encoded():
    """Whatever is not printable ASCII travels as its UTF-8 bytes, and so does the percent sign."""
    sent = dict(wire.status_headers(grpc.StatusCode.NOT_FOUND, "100 % größer\n", []))
    assert sent == {b"grpc-status": b"5", b"grpc-message": b"100 %25 gr%C3%B6%C3%9Fer%0A"}


@pytest.mark.parametrize(("encoding", "pack"), [(b"gzip", gzip.compress), (b"deflate", zlib.compress)])
def test_compressed_messages_are_read(encoding: bytes, pack: object):
    """Both encodings of the specification."""
    assert callable(pack)
    assert wire.inflated(pack(b"x" * 1000), encoding, 1000) == b"x" * 1000


@pytest.mark.parametrize(
    ("body", "encoding", "code"),
    [
        (gzip.compress(b"x" * 1001), b"gzip", grpc.StatusCode.RESOURCE_EXHAUSTED),
        (gzip.compress(bytes(1001)), b"gzip", grpc.StatusCode.RESOURCE_EXHAUSTED),
        (b"noise", b"gzip", grpc.StatusCode.INTERNAL),
        (gzip.compress(b"x" * 900)[:-6], b"gzip", grpc.StatusCode.INTERNAL),
        (b"", b"snappy", grpc.StatusCode.UNIMPLEMENTED),
        (b"", b"", grpc.StatusCode.UNIMPLEMENTED),
    ],
    # The header of gzip has the time: tests would have other names in each process that collects them.
    ids=["bomb of text", "bomb of zeros", "noise", "cut off", "unknown", "none"],
)
def test_what_cannot_be_decompressed_is_refused(body: bytes, encoding: bytes, code: grpc.StatusCode):
    """A message that is a bomb, noise, or packed by something unknown has its own status each."""
    with pytest.raises(wire.StatusError) as caught:
        wire.inflated(body, encoding, 1000)
    assert caught.value.code is code


@pytest.mark.parametrize(
    ("block", "headers"), [(wire.RESPONSE_BLOCK, wire.RESPONSE), (wire.OK_BLOCK, wire.OK)], ids=["response", "ok"]
)
def test_headers_that_are_written_down_are_what_they_say(block: bytes, headers: wire.Headers):
    """The library reads them as the headers they stand for, and remembers nothing of them."""
    decoder = H2Connection().decoder
    assert [[one[:2] for one in decoder.decode(block, raw=True)] for _ in range(2)] == [headers, headers]
