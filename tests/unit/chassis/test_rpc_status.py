"""Errors survive the trip over gRPC with everything public and nothing private."""

import pytest
from google.rpc import status_pb2

from chassis import errors
from chassis.rpc.status import code_of, from_status, to_status

KINDS = [
    errors.Invalid,
    errors.Unauthenticated,
    errors.Forbidden,
    errors.NotFound,
    errors.Conflict,
    errors.Exhausted,
    errors.Unavailable,
    errors.DeadlineExceeded,
    errors.Internal,
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_comes_back_as_itself(kind: type[errors.MeshError]):
    """Kind, code, message, details and delay are the same on the other side."""
    sent = kind("Told", code="TOLD", details={"field": "x"}, private="secret", retry_after_seconds=1.25)
    wire = to_status(sent).SerializeToString()
    assert b"secret" not in wire
    got = from_status(status_pb2.Status.FromString(wire), "peer")
    assert (type(got), got.code, got.message, got.details, got.retry_after_seconds) == (
        kind, "TOLD", "Told", {"field": "x"}, 1.25,
    )  # fmt: skip


def test_what_grpc_itself_says_stays_private():
    """The transport's text may name addresses and must not reach a client."""
    status = status_pb2.Status(code=14, message="failed to connect to 10.0.0.1:99")
    got = from_status(status, "llm")
    assert isinstance(got, errors.Unavailable)
    assert "10.0.0.1" not in got.message
    assert "10.0.0.1" in got.private


def test_unknown_codes_are_internal():
    """A status outside the table is our fault, not the caller's."""
    assert isinstance(from_status(status_pb2.Status(code=2, message="?"), "llm"), errors.Internal)


def test_the_table_is_complete():
    """Every error of the vocabulary has a code of its own."""
    assert len({code_of(kind()) for kind in KINDS}) == len(KINDS)
