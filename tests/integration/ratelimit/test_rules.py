"""Rules over processes: what is put is in force in all, the file is followed, watchers and usage are answered."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
import redis
from mesh.ratelimit.v1 import ratelimit_pb2 as pb

from chassis.errors import Conflict, Invalid, MeshError
from chassis.rpc.status import from_rpc_error
from deploy.local.stores.redis import Redis
from tests.integration.ratelimit.conftest import Service

NOWHERE = "redis://127.0.0.1:1/0"
# Everything is promised within a second; a busy machine is given time besides to schedule it, and more to start.
PROMISED_SECONDS, PATIENCE_SECONDS = 5.0, 30.0
# A machine that is busy is not a Redis that hangs: what is decided here must not be degraded.
PATIENT = {"MESH_RATE_LIMITS_STORE_DEADLINE_SECONDS": "2"}

Start = Callable[..., Service]


def rules(limit: int, window: str = "1h") -> str:
    return (
        "version: 1\nclasses:\n  chat:\n"
        f"    - {{ name: chat, algorithm: sliding_window, per: user, limit: {limit}, window: {window} }}\n"
    )


def decide(stub: Any, user: str = "anna") -> pb.Decision:
    return stub.Decide(pb.DecideRequest(subjects=[pb.Subject(route_class="chat", user=user)])).decisions[0]  # type: ignore[no-any-return]


def in_force(stub: Any) -> pb.GetRulesResponse:
    return stub.GetRules(pb.GetRulesRequest())  # type: ignore[no-any-return]


def until(what: str, seconds: float, condition: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.01)


def until_connected(stub: Any) -> None:
    until("decisions with Redis", PATIENCE_SECONDS, lambda: stub.GetStatus(pb.GetStatusRequest()).store_connected)


def failure(call: Callable[[], object]) -> MeshError:
    with pytest.raises(grpc.RpcError) as refused:
        call()
    return from_rpc_error(refused.value, "ratelimit")  # type: ignore[arg-type]  # both kinds of gRPC's errors tell the same


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "limits.yaml"
    path.write_text(rules(3))
    return path


@pytest.fixture
def stubs(start_service: Start, redis_url: str, path: Path) -> Iterator[list[Any]]:
    """Two processes that decide with Redis."""
    services = [start_service(MESH_RATE_LIMITS_FILE=str(path), REDIS_URL=redis_url, **PATIENT) for _ in range(2)]
    with ExitStack() as stack:
        stubs = [stack.enter_context(service.stub()) for service in services]
        for stub in stubs:
            until_connected(stub)
        yield stubs


@pytest.mark.redis
def test_a_put_is_in_force_everywhere_and_keeps_what_was_used(stubs: list[Any]) -> None:
    """Who was denied passes within a second after the limit was raised, in the other process; and lowering denies."""
    first, second = stubs
    assert [decide(second).allowed for _ in range(4)] == [True, True, True, False]
    first.PutRules(pb.PutRulesRequest(source=rules(5)))
    until("the raised limit lets pass", PROMISED_SECONDS, lambda: decide(second).allowed)
    assert (decide(second).rules[0].remaining, decide(first).allowed) == (0, False)
    put = second.PutRules(pb.PutRulesRequest(source=rules(4)))
    until("the lowered limit", PROMISED_SECONDS, lambda: in_force(first).generation == put.generation)
    assert (decide(first, "berta").rules[0].remaining, in_force(first).origin) == (3, "api")
    assert [one.allowed for one in (decide(first), decide(second))] == [False, False]


@pytest.mark.redis
def test_a_put_survives_restarts_and_a_lost_redis(
    stubs: list[Any], start_service: Start, redis_server: Redis, path: Path
) -> None:
    """Nothing is put while Redis is away; a process that starts after Redis has lost everything has what was put."""
    put = stubs[0].PutRules(pb.PutRulesRequest(source=rules(7)))
    redis_server.kill()
    refused = failure(lambda: stubs[0].PutRules(pb.PutRulesRequest(source=rules(8))))
    assert refused.code == "UNAVAILABLE"
    redis_server.start()
    redis_server.flush()
    with redis.Redis.from_url(redis_server.url) as client:
        until("the rules are put back", PATIENCE_SECONDS, lambda: bool(client.exists("rl:{rules}")))
    with start_service(MESH_RATE_LIMITS_FILE=str(path), REDIS_URL=redis_server.url).stub() as stub:
        # On a machine that is very slow, a start does not wait until Redis has answered.
        until("what was put", PROMISED_SECONDS, lambda: in_force(stub).origin == "api")
        found = in_force(stub)
    assert (found.generation, found.origin, found.source) == (put.generation, "api", rules(7))


@pytest.mark.redis
def test_the_newest_of_file_and_put_wins(stubs: list[Any], path: Path) -> None:
    """A later change of the file ends what was put, in both processes within a second."""
    stubs[0].PutRules(pb.PutRulesRequest(source=rules(7)))
    until("the put", PROMISED_SECONDS, lambda: in_force(stubs[1]).origin == "api")
    path.write_text(rules(8))
    changed = (rules(8), "file")
    until(
        "the changed file",
        PROMISED_SECONDS,
        lambda: all((in_force(stub).source, in_force(stub).origin) == changed for stub in stubs),
    )


@pytest.mark.redis
def test_what_cannot_be_put_changes_nothing(stubs: list[Any]) -> None:
    """A wrong text with its line and reason; rules that are others than expected."""
    before = in_force(stubs[0])
    wrong = failure(lambda: stubs[0].PutRules(pb.PutRulesRequest(source=rules(0))))
    assert isinstance(wrong, Invalid)
    assert wrong.details == {"line": "4", "reason": "limit must be between 1 and 1000000000000, not 0"}
    request = pb.PutRulesRequest(source=rules(9), expected_generation=before.generation + 1)
    changed = failure(lambda: stubs[0].PutRules(request))
    assert (type(changed), changed.code) == (Conflict, "RULES_CHANGED")
    assert in_force(stubs[0]) == before
    request.expected_generation = before.generation
    stubs[0].PutRules(request)
    assert in_force(stubs[0]).source == rules(9)


def test_without_redis_nothing_is_put(start_service: Start, path: Path) -> None:
    """UNAVAILABLE, and the rules stay."""
    with start_service(MESH_RATE_LIMITS_FILE=str(path), REDIS_URL=NOWHERE).stub() as stub:
        refused = failure(lambda: stub.PutRules(pb.PutRulesRequest(source=rules(9))))
        found = in_force(stub)
    assert refused.code == "UNAVAILABLE"
    assert (found.source, found.origin, found.problem) == (rules(3), "file", "")


def swap(folder: Path, text: str) -> None:
    """As Kubernetes changes a ConfigMap: a new folder, and one symbolic link that is replaced."""
    version = folder / f"..{time.monotonic_ns()}"
    version.mkdir()
    (version / "limits.yaml").write_text(text)
    (folder / "..data_tmp").symlink_to(version.name)
    (folder / "..data_tmp").replace(folder / "..data")


def test_the_file_is_followed_however_it_changes(start_service: Start, tmp_path: Path) -> None:
    """A swapped link, as Kubernetes does it; a file that is away for a while; a replaced one; a wrong one."""
    path = tmp_path / "limits.yaml"
    swap(tmp_path, rules(1))
    path.symlink_to("..data/limits.yaml")
    with start_service(MESH_RATE_LIMITS_FILE=str(path), REDIS_URL=NOWHERE).stub() as stub:
        assert in_force(stub).source == rules(1)
        swap(tmp_path, rules(2))
        until("the swapped link", PROMISED_SECONDS, lambda: in_force(stub).source == rules(2))
        path.unlink()
        until("a problem", PROMISED_SECONDS, lambda: "cannot be read" in in_force(stub).problem)
        assert in_force(stub).source == rules(2)
        path.with_suffix(".new").write_text(rules(3))
        path.with_suffix(".new").replace(path)
        until("the replaced file", PROMISED_SECONDS, lambda: in_force(stub).source == rules(3))
        path.write_text(rules(0))
        sentence = f"{path}:4: limit must be between 1 and 1000000000000, not 0"
        until("a problem", PROMISED_SECONDS, lambda: in_force(stub).problem == sentence)
        assert in_force(stub).source == rules(3)


def test_watchers_hear_of_changes_and_of_the_end(start_service: Start, path: Path) -> None:
    """The generation at once and when it changes; a process that ends says so in good order."""
    service = start_service(MESH_RATE_LIMITS_FILE=str(path), REDIS_URL=NOWHERE)
    with service.stub() as stub:
        watching = stub.WatchRules(pb.WatchRulesRequest(), timeout=PATIENCE_SECONDS)
        assert next(watching).generation == in_force(stub).generation
        path.write_text(rules(4))
        heard = next(watching).generation
        assert (heard, in_force(stub).source) == (in_force(stub).generation, rules(4))
        service.process.terminate()
        assert list(watching) == []
        assert watching.code() is grpc.StatusCode.OK


@pytest.mark.redis
def test_usage_is_told_and_takes_nothing(start_service: Start, redis_url: str) -> None:
    """Of one class or of all; of a class by its name though its rules are another's; an unknown one is refused."""
    with start_service(REDIS_URL=redis_url, **PATIENT).stub() as stub:
        until_connected(stub)
        anna = pb.Subject(route_class="v1.chat", user="anna", role="user")
        stub.Decide(pb.DecideRequest(subjects=[anna]))
        for _ in range(2):
            (usage,) = stub.GetUsage(pb.GetUsageRequest(subject=anna)).classes
            assert [(one.name, one.remaining) for one in usage.rules] == [("v1_chat", 9), ("v1_chat_in_flight", 5)]
        everything = stub.GetUsage(pb.GetUsageRequest(subject=pb.Subject(user="anna", role="user")))
        found = {one.route_class: [rule.remaining for rule in one.rules] for one in everything.classes}
        assert found["v1.chat"] == [9, 5]
        assert found["cwmai.default"] == found["cwmai.general"] == [60, 1000, 10]
        assert not everything.degraded
        moon = pb.GetUsageRequest(subject=pb.Subject(route_class="moon", user="anna"))
        assert isinstance(failure(lambda: stub.GetUsage(moon)), Invalid)
        assert stub.GetStatus(pb.GetStatusRequest()).decisions == 1


@pytest.mark.redis
def test_no_decision_is_lost_while_rules_change(start_service: Start, redis_url: str) -> None:
    """Rules are put again and again while callers ask: each is answered, by the rules before or by those after."""
    with start_service(REDIS_URL=redis_url, **PATIENT).stub() as stub, ThreadPoolExecutor() as threads:
        until_connected(stub)
        stub.PutRules(pb.PutRulesRequest(source=rules(1000)))
        changing = threads.submit(
            lambda: [stub.PutRules(pb.PutRulesRequest(source=rules(1000 + number))) for number in range(30)]
        )
        asked: list[pb.Decision] = []
        while not changing.done() or not asked:
            asked.append(decide(stub))
        assert len(changing.result()) == 30
        assert all(one.allowed and not one.degraded and 1000 <= one.rules[0].limit < 1030 for one in asked)
        # One counter all the time.
        assert decide(stub).rules[0].remaining == 1029 - len(asked) - 1
