"""Holding, releasing and giving back over gRPC, in a process of the service's own."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from mesh.ratelimit.v1 import ratelimit_pb2 as pb
from mesh.ratelimit.v1.ratelimit_pb2_grpc import RatelimitServiceStub

from tests.integration.ratelimit.conftest import Service

pytestmark = pytest.mark.redis

RULES = """\
version: 1
classes:
  test.default:
    - { name: tokens, algorithm: sliding_window, per: user, limit: 10, window: 1h }
    - { name: in_flight, algorithm: concurrency, per: user, limit: 2, lease: 10s }
    - { name: watching, algorithm: fixed_window, per: user, limit: 1, window: 1h, shadow: true }
"""


@pytest.fixture
def stub(start_service: Callable[..., Service], redis_url: str, tmp_path: Path) -> Iterator[RatelimitServiceStub]:
    path = tmp_path / "limits.yaml"
    path.write_text(RULES)
    environment = {"MESH_RATE_LIMITS_FILE": str(path), "REDIS_URL": redis_url}
    # Generous, so that a busy machine is not taken for a Redis that hangs.
    environment["MESH_RATE_LIMITS_STORE_DEADLINE_SECONDS"] = "5"
    with start_service(**environment).stub() as found:
        until = time.monotonic() + 30
        while not found.GetStatus(pb.GetStatusRequest()).store_connected:
            assert time.monotonic() < until, "the service does not decide with Redis"
            time.sleep(0.02)
        yield found


def subject(hold: str = "", cost: int = 1) -> pb.Subject:
    return pb.Subject(route_class="test.one", user="anna", cost=cost, hold=hold)


def decide(stub: RatelimitServiceStub, hold: str = "", cost: int = 1) -> pb.Decision:
    return stub.Decide(pb.DecideRequest(subjects=[subject(hold, cost)])).decisions[0]


def test_holds_and_refunds_over_the_wire(stub: RatelimitServiceStub) -> None:
    """Two are held, the third is told why and not when; a release makes room; what was not used comes back."""
    assert [decide(stub, name).allowed for name in "ab"] == [True, True]
    third = decide(stub, "c")
    assert (third.allowed, third.HasField("retry_after_ms"), third.generation > 0) == (False, False, True)
    full = third.rules[third.tightest]
    assert (full.name, full.concurrent, full.violated, full.limit, full.window_seconds) == (
        "in_flight",
        True,
        True,
        2,
        10,
    )
    assert [rule.name for rule in third.rules] == ["tokens", "in_flight"]
    stub.Release(pb.ReleaseRequest(subjects=[subject("a"), subject("a"), subject("never")]))
    assert decide(stub, "c").allowed
    assert list(stub.Renew(pb.RenewRequest(subjects=[subject(name) for name in "abc"])).held) == [False, True, True]

    assert decide(stub, cost=7).rules[0].remaining == 0
    stub.Refund(pb.RefundRequest(refunds=[pb.Refund(subject=subject(cost=7), amount=6)]))
    found = stub.GetUsage(pb.GetUsageRequest(subject=subject())).classes[0]
    assert [(rule.name, rule.remaining) for rule in found.rules] == [("tokens", 6), ("in_flight", 0)]


def bad_calls(stub: RatelimitServiceStub) -> Iterator[tuple[str, Callable[[], object]]]:
    """What the refusal must say, and the call."""
    refund = pb.RefundRequest(refunds=[pb.Refund(subject=subject(cost=2), amount=3)])
    yield "not 3", lambda: stub.Refund(refund)
    yield "hold", lambda: stub.Renew(pb.RenewRequest(subjects=[subject("a"), subject()]))
    yield "hold", lambda: stub.Release(pb.ReleaseRequest(subjects=[subject("a"), subject("x" * 65)]))


def test_bad_errands_are_named(stub: RatelimitServiceStub) -> None:
    """INVALID_ARGUMENT that says what is wrong, and nothing of the call is done."""
    assert decide(stub, "a", cost=2).allowed
    for words, call in bad_calls(stub):
        with pytest.raises(grpc.RpcError) as refused:
            call()
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert words in (refused.value.details() or "")
    assert list(stub.Renew(pb.RenewRequest(subjects=[subject("a")])).held) == [True]
    assert decide(stub, cost=0).rules[0].remaining == 8


def test_of_a_class_that_has_gone_there_is_nothing_to_give_back(stub: RatelimitServiceStub) -> None:
    """Other rules may have come while a request ran: those beside it are renewed and released all the same."""
    assert [decide(stub, name).allowed for name in "ab"] == [True, True]
    gone = pb.Subject(route_class="moon", hold="a")
    assert list(stub.Renew(pb.RenewRequest(subjects=[gone, subject("a")])).held)[1]
    stub.Refund(pb.RefundRequest(refunds=[pb.Refund(subject=gone), pb.Refund(subject=subject(), amount=1)]))
    stub.Release(pb.ReleaseRequest(subjects=[gone, subject("a"), subject("b")]))
    usage = stub.GetUsage(pb.GetUsageRequest(subject=subject())).classes[0]
    assert [(rule.name, rule.remaining) for rule in usage.rules] == [("tokens", 9), ("in_flight", 2)]
