"""The service as a process: its gRPC face, its rules file, and its start without Redis."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
import redis
from mesh.ratelimit.v1 import ratelimit_pb2 as pb
from mesh.ratelimit.v1.ratelimit_pb2_grpc import RatelimitServiceStub

from chassis.clock import SystemClock
from chassis.config import Discovery, Process
from chassis.errors import Invalid
from chassis.lifecycle import Host
from chassis.rpc.lane import open_lane
from tests.integration.ratelimit.conftest import Service
from tests.integration.ratelimit.test_rules import PATIENCE_SECONDS, PATIENT, until, until_connected

RULES = """\
version: 1
classes:
  test.default:
    - { name: test, algorithm: sliding_window, per: user, limit: 3, window: 1s }
"""
NOWHERE = "redis://127.0.0.1:1/0"

Start = Callable[..., Service]


def ask(route_class: str = "test.one", cost: int = 1) -> pb.DecideRequest:
    return pb.DecideRequest(subjects=[pb.Subject(route_class=route_class, user="anna", cost=cost)])


@pytest.mark.redis
async def test_a_lane_frame_is_one_script_call(start_service: Start, redis_url: str) -> None:
    """A hundred calls that wait together on a lane: a handful of script calls, each call with its own answer."""
    service = start_service(REDIS_URL=redis_url, **PATIENT)
    settings = Discovery(backend="static", ratelimit_address=service.address)
    with service.stub():
        # A lane does not wait for a service that is not there.
        pass
    async with AsyncExitStack() as stack:
        host = Host("test", Process(), SystemClock(), stack)
        stub: Any = RatelimitServiceStub(await host.enter(open_lane(host, "ratelimit", settings)))
        while (await stub.Decide(ask("v1.chat"), timeout=30)).decisions[0].degraded:
            await asyncio.sleep(0.05)
        with redis.Redis.from_url(redis_url) as client:
            client.config_resetstat()
            calls = [stub.Decide(ask("v1.cache" if number else "moon"), timeout=30) for number in range(100)]
            found: list[Any] = await asyncio.gather(*calls, return_exceptions=True)
            assert client.info("commandstats")["cmdstat_evalsha"]["calls"] <= 4
    assert isinstance(found[0], Invalid)
    assert sorted(one.decisions[0].rules[0].remaining for one in found[1:]) == list(range(901, 1000))


@pytest.mark.redis
def test_a_retry_at_the_hint_passes(start_service: Start, redis_url: str, tmp_path: Path) -> None:
    """Denied with a hint; a retry at exactly that time succeeds, over real gRPC and a real Redis."""
    path = tmp_path / "limits.yaml"
    path.write_text(RULES)
    with start_service(MESH_RATE_LIMITS_FILE=str(path), REDIS_URL=redis_url, **PATIENT).stub() as stub:
        until_connected(stub)
        while (last := stub.Decide(ask()).decisions[0]).allowed:
            assert last.rules[0].limit == 3
        assert 0 < last.retry_after_ms <= 1000
        time.sleep(last.retry_after_ms / 1000)
        assert stub.Decide(ask()).decisions[0].allowed


@pytest.mark.redis
def test_one_pull_of_a_model_at_the_same_time(start_service: Start, redis_url: str) -> None:
    """By the built-in rules a user's second pull waits for the end of the first, and nobody else's does."""
    with start_service(REDIS_URL=redis_url, **PATIENT).stub() as stub:
        until_connected(stub)
        anna, second, bert = (
            pb.Subject(route_class="v1.models.pull", user=user, role="user", hold=hold)
            for user, hold in (("anna", "1"), ("anna", "2"), ("bert", "3"))
        )
        first, refused, other = stub.Decide(pb.DecideRequest(subjects=[anna, second, bert])).decisions
        assert [first.allowed, refused.allowed, other.allowed] == [True, False, True]
        tightest = refused.rules[refused.tightest]
        assert (tightest.name, tightest.limit, tightest.concurrent) == ("v1_model_pull_in_flight", 1, True)
        assert not refused.HasField("retry_after_ms")
        assert stub.Decide(pb.DecideRequest(subjects=[second], releases=[anna])).decisions[0].allowed


def test_it_starts_and_decides_without_redis(start_service: Start) -> None:
    """No Redis at start: decisions come from memory and say so, and so does the status."""
    with start_service(REDIS_URL=NOWHERE).stub() as stub:
        decisions = [stub.Decide(ask("v1.chat")).decisions[0] for _ in range(11)]
        status = stub.GetStatus(pb.GetStatusRequest())
    assert [one.allowed for one in decisions] == [True] * 10 + [False]
    assert all(one.degraded for one in decisions)
    assert (status.store_connected, status.decisions, status.denied) == (False, 11, 1)
    assert status.degraded_decisions == 11


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (ask("moon.landing"), "moon.landing"),
        (ask("v1.chat", cost=4_000_000_000), "4000000000"),
        (pb.DecideRequest(subjects=[pb.Subject(route_class="v1.chat", user="anna")] * 1001), "subjects must have"),
        (pb.DecideRequest(subjects=[pb.Subject(route_class="v1.chat", user="x" * 1025)]), "user must have"),
    ],
    ids=["class", "cost", "many", "long"],
)
def test_bad_requests_are_named(start_service: Start, request_: pb.DecideRequest, words: str) -> None:
    """INVALID_ARGUMENT that says what is wrong, and nothing is counted."""
    with start_service(REDIS_URL=NOWHERE).stub() as stub:
        with pytest.raises(grpc.RpcError) as refused:
            stub.Decide(request_)
        assert stub.GetStatus(pb.GetStatusRequest()).decisions == 0
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert words in (refused.value.details() or "")


def test_a_new_file_is_in_force_and_a_bad_one_is_not(start_service: Start, tmp_path: Path) -> None:
    """Written and soon in force; a bad text changes nothing; usage stays when a limit is raised."""
    path = tmp_path / "limits.yaml"
    path.write_text(RULES.replace("1s", "1h"))
    with start_service(MESH_RATE_LIMITS_FILE=str(path), REDIS_URL=NOWHERE).stub() as stub:
        assert [stub.Decide(ask()).decisions[0].allowed for _ in range(4)] == [True] * 3 + [False]
        first = stub.GetRules(pb.GetRulesRequest())
        path.write_text("version: 1\nclasses: 7\n")
        until("a problem", PATIENCE_SECONDS, lambda: bool(stub.GetRules(pb.GetRulesRequest()).problem))
        bad = stub.GetRules(pb.GetRulesRequest())
        assert (bad.source, bad.generation) == (first.source, first.generation)
        path.with_suffix(".new").write_text(RULES.replace("1s", "1h").replace("limit: 3", "limit: 5"))
        path.with_suffix(".new").replace(path)
        while (rules := stub.GetRules(pb.GetRulesRequest())).generation == first.generation:
            time.sleep(0.02)
        assert "limit: 5" in rules.source
        assert [stub.Decide(ask()).decisions[0].allowed for _ in range(3)] == [True, True, False]


def test_a_bad_file_refuses_the_start(start_service: Start, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The process ends and says file, line and reason."""
    path = tmp_path / "limits.yaml"
    path.write_text(RULES.replace("limit: 3", "limit: 0"))
    service = start_service(MESH_RATE_LIMITS_FILE=str(path), REDIS_URL=NOWHERE)
    assert service.process.wait(timeout=30) == 1
    assert f"{path}:4: limit must be between 1 and" in capfd.readouterr().out
