"""The same requests to envoyproxy/ratelimit itself and to the service in its place: the same answers and figures."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy.service.ratelimit.v3 import rls_pb2 as pb
from google.protobuf import text_format

from bench.support.envoy_ratelimit import build, started
from tests.integration.ratelimit.envoy import EnvoyService, redis_settings, request, swap, write

# No window shorter than a year: none ends during a test.
LIMITS = """\
domain: shop
descriptors:
  - { key: plain, rate_limit: { unit: year, requests_per_unit: 5 } }
  - { key: named, value: v, rate_limit: { unit: year, requests_per_unit: 3, name: one } }
  - { key: named, rate_limit: { unit: year, requests_per_unit: 7, name: two, replaces: [{ name: one }] } }
  - { key: free, rate_limit: { unlimited: true } }
  - { key: shut, rate_limit: { unit: year, requests_per_unit: 0 } }
  - { key: shade, rate_limit: { unit: year, requests_per_unit: 2 }, shadow_mode: true }
  - { key: path, value: /api/*, rate_limit: { unit: year, requests_per_unit: 4 } }
  - { key: path, value: /api/x*, rate_limit: { unit: year, requests_per_unit: 40 } }
  - { key: path, value: /api/exact, rate_limit: { unit: year, requests_per_unit: 9 } }
  - { key: path, rate_limit: { unit: year, requests_per_unit: 11 } }
  - key: file
    value: "f*"
    share_threshold: true
    detailed_metric: true
    rate_limit: { unit: year, requests_per_unit: 3 }
  - key: tenant
    value_to_metric: true
    descriptors:
      - { key: route, value: chat, rate_limit: { unit: year, requests_per_unit: 4 } }
      - { key: route, rate_limit: { unit: year, requests_per_unit: 6 } }
      - { key: exact, detailed_metric: true, rate_limit: { unit: year, requests_per_unit: 6 } }
  - key: middle
    rate_limit: { unit: year, requests_per_unit: 2 }
    descriptors:
      - { key: leaf, rate_limit: { unit: year, requests_per_unit: 3 } }
"""
VALUES = {
    "plain": ("", "x", "y"),
    "named": ("v", "w"),
    "free": ("q",),
    "shut": ("z",),
    "shade": ("s",),
    "path": ("/api/1", "/api/2", "/api/xy", "/api/exact", "/other"),
    "file": ("f1", "f2", "g"),
    "tenant": ("t1", "t2", "10.1.2.3"),
    "middle": ("m",),
    "nothing": ("n",),
}
BELOW = (("route", "chat"), ("route", "x"), ("leaf", "l"), ("exact", "a"), ("exact", "b"))
REQUESTS = 2000

Start = Callable[..., Any]


def entries(dice: random.Random) -> dict[str, str]:
    key = dice.choice(list(VALUES))
    found = {key: dice.choice(VALUES[key])}
    if key == "tenant" or (key == "middle" and dice.random() < 0.6):
        found |= [dice.choice(BELOW)]
    if dice.random() < 0.05:
        found["deeper"] = "1"
    return found


def requests(seed: int) -> Iterator[pb.RateLimitRequest]:
    """Random requests: several descriptors, hits of their own, limits that they bring along."""
    dice = random.Random(seed)
    for _ in range(REQUESTS):
        domain = dice.choice(["shop"] * 9 + ["unknown"])
        found = request(*(entries(dice) for _ in range(dice.choice([1, 1, 2, 3]))), domain=domain)
        found.hits_addend = dice.choice([0, 0, 0, 1, 3])
        for one in found.descriptors:
            if dice.random() < 0.08:
                one.limit.requests_per_unit, one.limit.unit = dice.choice([0, 1, 6]), 6  # type: ignore[assignment]
            if dice.random() < 0.2:
                one.hits_addend.value = dice.choice([0, 0, 1, 2, 7])
        yield found


def shown(answer: pb.RateLimitResponse) -> str:
    """An answer without what changes from one second to the next, and with the limit's text as one would write it."""
    for status in answer.statuses:
        if status.HasField("duration_until_reset"):
            status.duration_until_reset.seconds = 1
    for header in answer.response_headers_to_add:
        header.value = "some" if header.key == "RateLimit-Reset" else header.value
    for one in answer.dynamic_metadata.fields["descriptors"].list_value.values:
        limit = one.struct_value.fields["limit"]
        # Go puts one blank there or two, at random, so that nobody relies on it.
        limit.string_value = limit.string_value.replace("  ", " ")
    return text_format.MessageToString(answer)


def figures(output: Path) -> dict[str, int]:
    """The counters that the peer has written so far."""
    totals: dict[str, int] = {}
    for line in output.read_text(encoding="utf-8").splitlines():
        found = json.loads(line).get("json", {}) if line.startswith("{") else {}
        if found.get("type") == "counter" and found["name"].startswith("ratelimit.service.rate_limit"):
            totals[found["name"]] = totals.get(found["name"], 0) + int(float(found["value"]))
    return {name: value for name, value in totals.items() if value}


MANNERS = {
    "plain": {},
    "told": {"LIMIT_RESPONSE_HEADERS_ENABLED": "true", "RESPONSE_DYNAMIC_METADATA": "true", "NEAR_LIMIT_RATIO": "0.5"},
    "shadow": {"SHADOW_MODE": "true"},
}


@pytest.mark.long
@pytest.mark.redis
@pytest.mark.parametrize("manner", MANNERS)
def test_answers_and_figures_are_the_peers(start_service: Start, redis_url: str, tmp_path: Path, manner: str) -> None:
    """Two thousand random requests, each to both, over one Redis."""
    peer = build()
    if peer.program is None:
        pytest.skip(peer.reason)
    write(tmp_path / "one", LIMITS)
    swap(tmp_path, "one")
    ours = EnvoyService(tmp_path, start_service, redis_url, **MANNERS[manner])
    output = tmp_path / "peer.log"
    theirs = started(
        peer.program,
        runtime_root=ours.root,
        subdirectory="rl",
        redis=redis_settings(redis_url)["REDIS_URL"],
        environment={"STATS_FLUSH_INTERVAL": "1s", **redis_settings(redis_url), **MANNERS[manner]},
        output=output,
    )
    with theirs as peer_, ours.stub() as stub, ours.stub(peer_.grpc) as other:
        for number, one in enumerate(requests(len(manner))):
            found, expected = (shown(face.ShouldRateLimit(one, timeout=20)) for face in (stub, other))
            assert found == expected, f"request {number}: {one}"
        for bad in (request(domain=""), request()):
            for face in (stub, other):
                with pytest.raises(grpc.RpcError):
                    face.ShouldRateLimit(bad, timeout=20)
        told = {name: value for name, value in ours.figures().items() if ".rate_limit." in name and value}
        EnvoyService.until("the peer's figures", lambda: figures(output) == told)
