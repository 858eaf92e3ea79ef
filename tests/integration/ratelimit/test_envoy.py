"""In the place of envoyproxy/ratelimit, as a process over a real Redis: sequences, faces, reloading."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import redis
from envoy.service.ratelimit.v3 import rls_pb2 as pb
from envoy.service.ratelimit.v3.rls_pb2_grpc import RateLimitServiceStub
from google.protobuf import json_format
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.integration.ratelimit.conftest import Deciding, starting
from tests.integration.ratelimit.envoy import OK, OVER, EnvoyService, limits_over, request, swap, write
from tests.support.stores import Stores

# Windows of a year: none of these tests sees one end.
LIMITS = """\
domain: shop
descriptors:
  - { key: twenty, rate_limit: { unit: year, requests_per_unit: 20 } }
  - { key: ours, rate_limit: { window_seconds: 90, requests_per_unit: 5 } }
  - { key: ten, rate_limit: { unit: year, requests_per_unit: 10 } }
  - { key: day, rate_limit: { unit: day, requests_per_unit: 1000 } }
  - key: user
    rate_limit: &one { unit: year, requests_per_unit: 1 }
    descriptors:
      - { key: path, rate_limit: *one }
"""
BODY = {"domain": "shop", "descriptors": [{"entries": [{"key": "ten", "value": "json"}]}]}

Start = Callable[..., Any]

pytestmark = pytest.mark.redis


@pytest.fixture(scope="module")
def envoy(stores: Stores, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnvoyService]:
    """One service for the tests that leave its files alone; each asks for descriptors of its own."""
    folder = tmp_path_factory.mktemp("envoy")
    write(folder / "one", LIMITS)
    swap(folder, "one")
    stores.redis.flush()
    with starting() as start:
        yield EnvoyService(folder, start, stores.redis.url, USE_STATSD="false")


def ask(stub: RateLimitServiceStub, times: int, *descriptors: dict[str, str]) -> list[pb.RateLimitResponse]:
    return [stub.ShouldRateLimit(request(*descriptors), timeout=20) for _ in range(times)]


def remaining(answers: list[pb.RateLimitResponse], index: int = 0) -> list[int]:
    return [one.statuses[index].limit_remaining for one in answers]


def serving(address: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        check = health_pb2.HealthCheckRequest(service="ratelimit")
        found = health_pb2_grpc.HealthStub(channel).Check(check, timeout=20)
    return bool(found.status == health_pb2.HealthCheckResponse.SERVING)


def test_sequences_are_those_of_envoys_service(envoy: EnvoyService) -> None:
    """Twenty pass and the next does not; of two rules the wide one keeps falling; on its own port and the mesh's."""
    start = "ratelimit.service.rate_limit.shop.twenty."
    names = [start + name for name in ("total_hits", "within_limit", "over_limit")]
    before = envoy.figures()
    with envoy.stub() as own, envoy.stub(envoy.mesh) as mesh:
        answers = [*ask(own, 10, {"twenty": "a"}), *ask(mesh, 10, {"twenty": "a"}), *ask(own, 2, {"twenty": "a"})]
        assert [one.overall_code for one in answers] == [OK] * 20 + [OVER] * 2
        assert remaining(answers) == [*range(19, -1, -1), 0, 0]
        both = ask(own, 12, {"twenty": "b"}, {"ten": "b"})
        assert [one.overall_code for one in both] == [OK] * 10 + [OVER] * 2
        assert remaining(both, 0) == list(range(19, 7, -1))
        assert remaining(both, 1) == [*range(9, -1, -1), 0, 0]
    assert serving(envoy.grpc)
    assert serving(envoy.mesh)
    after = envoy.figures()
    assert [after[name] - before.get(name, 0) for name in names] == [34, 32, 2]


def test_keys_cannot_be_forged_and_may_be_long(envoy: EnvoyService) -> None:
    """What joins to one text counts apart; 64 KB are a key as any other."""
    with envoy.stub() as stub:
        assert [one.overall_code for one in ask(stub, 1, {"user": "x_path_y"})] == [OK]
        assert [one.overall_code for one in ask(stub, 2, {"user": "x", "path": "y"})] == [OK, OVER]
        for value in ("v" * 65535 + "a", "v" * 65535 + "b"):
            assert [one.overall_code for one in ask(stub, 2, {"user": value})] == [OK, OVER]


def test_a_day_ends_a_little_earlier_later(envoy: EnvoyService) -> None:
    """The seconds until the reset fall with time."""
    with envoy.stub() as stub:
        first = ask(stub, 1, {"day": "x"})[0].statuses[0].duration_until_reset.seconds
        time.sleep(1.5)
        second = ask(stub, 1, {"day": "x"})[0].statuses[0].duration_until_reset.seconds
    assert 1 <= (first - second) % 86400 < 60


def test_bad_requests_are_errors(envoy: EnvoyService) -> None:
    """No domain, no descriptors, hits beyond counting: named, and nothing is counted."""
    huge = request({"ten": "x"})
    huge.descriptors[0].hits_addend.value = 2**63
    with envoy.stub() as stub:
        for bad in (request({"ten": "x"}, domain=""), request(), huge):
            with pytest.raises(grpc.RpcError) as refused:
                stub.ShouldRateLimit(bad, timeout=20)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert remaining(ask(stub, 1, {"ten": "x"})) == [9]


def test_json_is_answered_over_http(envoy: EnvoyService) -> None:
    """200 while there is something left, then 429 with the same body; 400 for what is no request."""
    answers = [envoy.get("PORT", "/json", BODY) for _ in range(11)]
    assert [status for status, _ in answers] == [200] * 10 + [429]
    found = json_format.Parse(answers[-1][1], pb.RateLimitResponse())
    assert (found.overall_code, found.statuses[0].current_limit.requests_per_unit) == (OVER, 10)
    for bad in (b"{", b"\xff", b'{"domian": "shop"}', b'{"domain": "shop"}', b"[]"):
        assert envoy.get("PORT", "/json", bad)[0] == 400
    status, text = envoy.get("DEBUG_PORT", "/rlconfig")
    line = "shop.twenty: unit=YEAR requests_per_unit=20, shadow_mode: false, quota_mode: false"
    assert (status, text.splitlines()[0]) == (200, line)
    assert "shop.ours: unit=90s requests_per_unit=5," in text
    assert "/stats" in envoy.get("DEBUG_PORT", "/")[1]


def test_requests_that_wait_share_script_calls(envoy: EnvoyService, stores: Stores) -> None:
    """Many callers at once, each with two descriptors: fewer script calls than requests, and exact counts."""
    with envoy.stub() as stub, redis.Redis.from_url(stores.redis.url) as client, ThreadPoolExecutor(16) as pool:
        ask(stub, 1, {"twenty": "warm"})
        client.config_resetstat()
        codes = list(pool.map(lambda _: ask(stub, 1, {"twenty": "c"}, {"day": "c"})[0].overall_code, range(200)))
        calls = client.info("commandstats")["cmdstat_evalsha"]["calls"]
    assert sorted(codes) == [OK] * 20 + [OVER] * 180
    assert calls < 200


def test_a_swapped_folder_is_in_force_and_usage_stays(start_service: Start, redis_url: str, tmp_path: Path) -> None:
    """A raised limit works at once with what was used; a wrong configuration changes nothing and is counted."""
    write(tmp_path / "one", LIMITS)
    swap(tmp_path, "one")
    envoy = EnvoyService(tmp_path, start_service, redis_url)
    with envoy.stub() as stub:
        ask(stub, 10, {"ten": "swapped"})
        write(tmp_path / "two", LIMITS.replace("requests_per_unit: 10 ", "requests_per_unit: 15 "))
        swap(tmp_path, "two")
        envoy.until("the raised limit", lambda: "requests_per_unit=15" in envoy.get("DEBUG_PORT", "/rlconfig")[1])
        assert remaining(ask(stub, 2, {"ten": "swapped"})) == [4, 3]
        write(tmp_path / "three", "domain: shop\nkay: 1\n")
        swap(tmp_path, "three")
        envoy.until("the refusal", lambda: envoy.figures()["ratelimit.service.config_load_error"] == 1)
        assert remaining(ask(stub, 1, {"ten": "swapped"})) == [2]
        assert envoy.figures()["ratelimit.service.config_load_success"] == 2


def test_other_settings_of_envoys_service(start_service: Start, redis_url: str, tmp_path: Path) -> None:
    """Files followed in place, all or nothing, headers, a prefix, a socket, and a wrong configuration at the start."""
    (tmp_path / "current").mkdir()
    write(tmp_path / "current", "domain: ''")
    settings = {
        "RUNTIME_WATCH_ROOT": "false",
        "STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT": "true",
        "LIMIT_RESPONSE_HEADERS_ENABLED": "true",
        "LIMIT_RESET_HEADER": "X-Reset",
        "CACHE_KEY_PREFIX": "edge:",
        "GRPC_UDS": str(tmp_path / "envoy.sock"),
    }
    envoy = EnvoyService(tmp_path, start_service, redis_url, **settings)
    with envoy.stub(f"unix:{tmp_path}/envoy.sock") as stub:
        with pytest.raises(grpc.RpcError) as refused:
            ask(stub, 1, {"ten": "x"})
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        write(tmp_path / "current", LIMITS)
        envoy.until("the configuration", lambda: "shop.ten" in envoy.get("DEBUG_PORT", "/rlconfig")[1])
        answers = ask(stub, 12, {"twenty": "x"}, {"ten": "x"})
    assert remaining(answers, 0) == [*range(19, 9, -1), 10, 10]
    assert [(one.key, one.value) for one in answers[-1].response_headers_to_add][:2] == [
        ("RateLimit-Limit", "10"),
        ("RateLimit-Remaining", "0"),
    ]
    assert answers[-1].response_headers_to_add[2].key == "X-Reset"
    with redis.Redis.from_url(redis_url) as client:
        assert len(list(client.scan_iter("edge:rls:*"))) == 2


def test_processes_may_share_their_ports(start_service: Start, redis_url: str, tmp_path: Path) -> None:
    """Two on one port, where it is asked for: one counter, and the second goes on when the first has ended."""
    write(tmp_path / "one", LIMITS)
    swap(tmp_path, "one")
    first = EnvoyService(tmp_path, start_service, redis_url, MESH_ENVOY_REUSE_PORTS="true")
    second = EnvoyService(tmp_path, start_service, redis_url, MESH_ENVOY_REUSE_PORTS="true", **first.ports)
    with second.stub(second.mesh) as stub:
        ask(stub, 1, {"ten": "shared"})
    with first.stub() as stub:
        assert remaining(ask(stub, 2, {"ten": "shared"})) == [8, 7]
    first.process.terminate()
    first.process.wait(timeout=30)
    with second.stub() as stub:
        assert remaining(ask(stub, 2, {"ten": "shared"})) == [6, 5]


async def test_without_redis_there_are_answers_all_the_same(tmp_path: Path) -> None:
    """The memory of this instance decides, by its share of the limit, and nobody gets an error."""
    write(tmp_path, LIMITS)
    deciding = Deciding("redis://127.0.0.1:1/0", instances=2)
    limits = limits_over(deciding, tmp_path)
    raw = request({"ten": "x"}).SerializeToString()
    codes = [pb.RateLimitResponse.FromString(await limits.answer(raw)).overall_code for _ in range(7)]
    await deciding.close()
    assert codes == [OK] * 5 + [OVER] * 2
