"""Trace context without an exporter, and with one."""

import contextvars
from collections.abc import Iterator

import pytest

from chassis import telemetry
from chassis.config import Telemetry

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    "bad",
    ["", "x", PARENT.upper(), PARENT[:-3], PARENT + "-1", "00-" + "0" * 32 + "-b7ad6b7169203331-01",
     "00-0af7651916cd43dd8448eb211c80319c-" + "0" * 16 + "-01"],
)  # fmt: skip
def test_a_malformed_traceparent_starts_a_fresh_trace(bad: str):
    """What a stranger sends is only believed when it is well-formed."""
    fresh = telemetry.accept_traceparent(bad)
    assert fresh != bad
    assert telemetry.accept_traceparent(fresh) == fresh


@pytest.mark.parametrize("bad", ["z" * 54 + "1", PARENT.upper(), "00-" + "0" * 32 + PARENT[35:]])
def test_of_a_malformed_traceparent_nothing_is_recorded(bad: str):
    """It fails nobody: a lane carries the calls of others beside the one that came with it."""
    with telemetry.open_telemetry("x", "x", Telemetry(endpoint="http://127.0.0.1:1")):
        assert telemetry.open_span("x", telemetry.SERVER, bad).traceparent == bad
        telemetry.record("x", telemetry.SERVER, bad, 0)


def test_nothing_is_sampled_without_an_endpoint():
    """A fresh trace says that nobody records it."""
    assert telemetry.accept_traceparent("").endswith("-00")


def test_the_context_travels_without_an_exporter():
    """Inside a span the parent's context is current, and it ends with it."""
    with telemetry.span("x", telemetry.SERVER, PARENT) as recording:
        recording.set("a", 1)
        assert telemetry.current_traceparent() == PARENT
    assert telemetry.current_traceparent() == ""


def test_a_span_without_parent_keeps_the_current_context():
    """Inner work belongs to the request that runs."""
    token = telemetry.use_traceparent(PARENT)
    try:
        with telemetry.span("x", telemetry.INTERNAL):
            assert telemetry.current_traceparent() == PARENT
    finally:
        telemetry.drop_traceparent(token)


def test_a_span_that_ends_in_another_context_hides_nothing():
    """A dropped generator is ended by the collector, wherever that runs; what ends it stays what it is."""

    def spoken() -> Iterator[int]:
        with telemetry.span("x", telemetry.SERVER, PARENT):
            yield 1

    answers = spoken()
    contextvars.copy_context().run(next, answers)
    with pytest.raises(KeyError):
        answers.throw(KeyError)  # type: ignore[attr-defined]  # a generator
    assert telemetry.current_traceparent() == ""
