"""HTTP/1.1 answers taken apart, however the network cuts them."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.llm.providers.http1 import Incoming, Malformed

COUNTED = b"HTTP/1.1 200 OK\r\nContent-Type: a\r\nContent-Length: 11\r\n\r\nhello world"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n1;x=y\r\n \r\n05\r\nworld\r\n0\r\nTrailer: t\r\n\r\n"
)
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n" + COUNTED


def read(*parts: bytes) -> Incoming:
    answer = Incoming()
    for part in parts:
        answer.feed(part)
    return answer


@pytest.mark.parametrize("raw", [COUNTED, CHUNKED, INTERIM])
@settings(deadline=None)
@given(cuts=st.lists(st.integers(0, 140), max_size=12))
def test_any_cut_gives_the_same(raw: bytes, cuts: list[int]):
    """Byte by byte or all at once."""
    edges = [0, *sorted(cuts), len(raw)]
    answer = read(*(raw[start:end] for start, end in pairwise(edges) if start < end))
    assert (answer.status, answer.done, answer.keep_alive) == (200, True, True)
    assert answer.take() == b"hello world"


@pytest.mark.parametrize("raw", [COUNTED, CHUNKED])
def test_an_answer_cut_short_is_none(raw: bytes):
    """At whichever byte the connection ends, it is an error."""
    for length in range(len(raw)):
        answer = read(raw[:length])
        assert not answer.done
        with pytest.raises(Malformed):
            answer.end()


def test_a_body_up_to_the_end_of_the_connection():
    """As old servers do; the connection carries nothing more."""
    answer = read(b"HTTP/1.0 200 OK\r\n\r\nhel", b"lo")
    assert (answer.done, answer.take()) == (False, b"hello")
    answer.end()
    assert (answer.done, answer.keep_alive) == (True, False)


@pytest.mark.parametrize("head", [b"HTTP/1.1 204 No Content", b"HTTP/1.1 200 OK\r\ncontent-length: 0"])
def test_no_body(head: bytes):
    """Done with the head."""
    assert read(head + b"\r\n\r\n").done


@pytest.mark.parametrize(
    "raw",
    [
        COUNTED.replace(b"HTTP/1.1", b"HTTP/1.0"),
        COUNTED.replace(b"Content-Type: a", b"Connection: Close"),
        COUNTED + b"HTTP/1.1 200 OK\r\n\r\n",
    ],
)
def test_connections_that_carry_no_more(raw: bytes):
    """Old, told to close, or out of step."""
    answer = read(raw)
    assert (answer.done, answer.keep_alive) == (True, False)


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1, 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-5\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc",
        b"x" * 70_000,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"1" * 2_000,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n" + b"t" * 70_000,
    ],
)
def test_what_is_no_answer_is_refused(raw: bytes):
    """Whatever else is listening there."""
    with pytest.raises(Malformed):
        read(raw)


def test_headers_by_name():
    """Whole names only; absent ones are empty."""
    answer = read(b"HTTP/1.1 429 No\r\nX-Retry-After: 9\r\nRetry-After:  7 \r\ncontent-length: 0\r\n\r\n")
    assert (answer.header(b"retry-after"), answer.header(b"after"), answer.header(b"date")) == ("7", "", "")
