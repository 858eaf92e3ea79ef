"""Answers to Envoy's requests over counters in memory: codes, what remains, modes, headers, figures."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from envoy.extensions.common.ratelimit.v3.ratelimit_pb2 import RateLimitDescriptor
from envoy.service.ratelimit.v3 import rls_pb2 as pb
from google.protobuf import json_format

from chassis.errors import Invalid, Unavailable
from services.ratelimit.descriptors.denials import Denials
from services.ratelimit.descriptors.limits import DescriptorLimits, Manner
from services.ratelimit.descriptors.plan import Planner
from services.ratelimit.descriptors.request import Headers
from services.ratelimit.memory import MemoryShadow
from services.ratelimit.model.decisions import Verdict
from services.ratelimit.model.descriptors import DescriptorBook
from services.ratelimit.model.limits import Ask
from services.ratelimit.rules.envoy import load_descriptors
from tests.support.clock import FakeClock

FILE = """\
domain: shop
descriptors:
  - { key: five, rate_limit: { unit: minute, requests_per_unit: 5 } }
  - { key: two, rate_limit: { unit: hour, requests_per_unit: 2, name: two } }
  - { key: shade, rate_limit: { unit: minute, requests_per_unit: 1 }, shadow_mode: true }
  - { key: quota, rate_limit: { unit: minute, requests_per_unit: 1 }, quota_mode: true }
  - { key: more, rate_limit: { unit: minute, requests_per_unit: 3 }, quota_mode: true, metadata: { tier: gold } }
  - { key: free, rate_limit: { unlimited: true } }
  - { key: shut, rate_limit: { unit: day, requests_per_unit: 0 } }
  - { key: over, rate_limit: { unit: minute, requests_per_unit: 9, replaces: [{ name: two }] } }
  - { key: slide, rate_limit: { unit: minute, requests_per_unit: 2, algorithm: sliding_window } }
"""
OK, OVER, UNKNOWN = pb.RateLimitResponse.OK, pb.RateLimitResponse.OVER_LIMIT, pb.RateLimitResponse.UNKNOWN


class Counting:
    """Decides in memory, and remembers what it was asked."""

    def __init__(self, clock: FakeClock) -> None:
        self.shadow = MemoryShadow(clock, lambda: 1, cap=1000)
        self.calls: list[Sequence[Ask]] = []

    async def verdicts(self, asks: Sequence[Ask]) -> tuple[Sequence[Verdict], Sequence[bool]]:
        self.calls.append(asks)
        return self.shadow.decide(asks), [False] * len(asks)


class Configured:
    book: DescriptorBook | None
    problem = ""

    def __init__(self, *, counts_denied: bool) -> None:
        self.book = load_descriptors([("shop.yaml", FILE)], counts_denied=counts_denied)


class Desk:
    """Limits in memory, and a way to ask them in a few characters."""

    def __init__(self, *, all_or_nothing: bool = False, cache_bytes: int = 0, **manner: Any) -> None:
        self.clock = FakeClock()
        self.counting = Counting(self.clock)
        self.configured = Configured(counts_denied=not all_or_nothing)
        self.limits = DescriptorLimits(
            deciding=self.counting,
            configuration=self.configured,
            planner=Planner(prefix="", counts_denied=not all_or_nothing, watching="quota" in manner),
            manner=Manner(**manner),
            denials=Denials(cache_bytes, self.clock.monotonic),
            now_us=lambda: self.counting.shadow.now_us,
        )

    async def ask(self, *descriptors: Mapping[str, Any] | str, hits: int = 0) -> pb.RateLimitResponse:
        """Each descriptor as its key, or in the protocol's JSON but for its entries."""
        full = [{"key": one} if isinstance(one, str) else one for one in descriptors]
        bodies = [
            {"entries": [{"key": one["key"]}], **{name: value for name, value in one.items() if name != "key"}}
            for one in full
        ]
        message = json_format.ParseDict(
            {"domain": "shop", "descriptors": bodies, "hitsAddend": hits}, pb.RateLimitRequest()
        )
        return pb.RateLimitResponse.FromString(await self.limits.answer(message.SerializeToString()))

    def figures(self, name: str) -> dict[str, int]:
        """What is not 0 of a rule's statistics."""
        start = f"ratelimit.service.rate_limit.shop.{name}."
        found = dict(self.limits.statistics.lines())
        return {one.removeprefix(start): value for one, value in found.items() if one.startswith(start) and value}


def remaining(answers: Sequence[pb.RateLimitResponse], index: int = 0) -> list[int]:
    return [one.statuses[index].limit_remaining for one in answers]


async def test_five_pass_and_the_sixth_does_not() -> None:
    """What remains falls to 0; then the request is over its limit until the window ends."""
    desk = Desk()
    answers = [await desk.ask("five") for _ in range(6)]
    assert [one.overall_code for one in answers] == [OK] * 5 + [OVER]
    assert remaining(answers) == [4, 3, 2, 1, 0, 0]
    status = answers[0].statuses[0]
    assert (status.current_limit.requests_per_unit, status.current_limit.unit) == (5, 2)
    assert status.duration_until_reset.seconds == 60
    desk.clock.advance(60)
    assert (await desk.ask("five")).overall_code == OK


async def test_each_descriptor_counts_although_another_denies() -> None:
    """As in Envoy's service: the first keeps falling while the second is over; one frame for all."""
    desk = Desk()
    answers = [await desk.ask("five", "two") for _ in range(4)]
    assert [one.overall_code for one in answers] == [OK, OK, OVER, OVER]
    assert remaining(answers, 0) == [4, 3, 2, 1]
    assert [one.statuses[0].code for one in answers] == [OK] * 4
    assert [len(call) for call in desk.counting.calls] == [2] * 4


async def test_all_or_nothing_keeps_what_the_others_have() -> None:
    """With STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT a denied request takes from none."""
    desk = Desk(all_or_nothing=True)
    answers = [await desk.ask("five", "two") for _ in range(4)]
    assert [one.overall_code for one in answers] == [OK, OK, OVER, OVER]
    assert remaining(answers, 0) == [4, 3, 3, 3]
    assert [one.statuses[0].code for one in answers] == [OK] * 4
    assert [[len(ask.keys) for ask in call] for call in desk.counting.calls] == [[2]] * 4


async def test_a_shadow_that_is_over_takes_nothing_from_others() -> None:
    """All or nothing is among those that can deny: a rule that only watches stops no counter."""
    desk = Desk(all_or_nothing=True)
    answers = [await desk.ask("five", "shade") for _ in range(3)]
    assert [one.overall_code for one in answers] == [OK] * 3
    assert remaining(answers, 0) == [4, 3, 2]


async def test_the_same_descriptor_twice_counts_twice() -> None:
    """Also all or nothing, where the second is taken by itself and the others stay together."""
    for desk in (Desk(), Desk(all_or_nothing=True)):
        answers = [await desk.ask("five", "five", "two") for _ in range(2)]
        assert [[one.limit_remaining for one in answer.statuses] for answer in answers] == [[4, 3, 1], [2, 1, 0]]
    assert [len(ask.keys) for ask in desk.counting.calls[0]] == [2, 1]


async def test_where_all_are_quotas_none_stops_another() -> None:
    """All or nothing would leave a quota uncounted for which the request passes because of another."""
    desk = Desk(all_or_nothing=True, quota=True)
    answers = [await desk.ask("five", "two") for _ in range(6)]
    assert remaining(answers, 0) == [4, 3, 2, 1, 0, 0]
    assert [one.overall_code for one in answers] == [OK] * 5 + [OVER]


async def test_hits_count_as_many_and_zero_looks() -> None:
    """The descriptor's own hits beat the request's; 0 tells without counting; at the limit nobody is over it."""
    desk = Desk()
    many = await desk.ask("five", {"key": "two", "hitsAddend": "0"}, hits=5)
    looks = [await desk.ask({"key": "five", "hitsAddend": "0"}) for _ in range(2)]
    over = await desk.ask({"key": "five", "hitsAddend": "3"})
    after = await desk.ask({"key": "five", "hitsAddend": "0"})
    assert [one.overall_code for one in (many, *looks, over, after)] == [OK, OK, OK, OVER, OVER]
    assert [one.limit_remaining for one in many.statuses] == [0, 2]


async def test_an_empty_window_tells_when_it_ends() -> None:
    """Looking at a counter that nobody used: the window's end all the same."""
    desk = Desk()
    desk.clock.advance(20.5)
    found = await desk.ask({"key": "five", "hitsAddend": "0"}, "shut")
    assert [one.duration_until_reset.seconds for one in found.statuses] == [40, 24 * 3600 - 20]


async def test_negative_hits_are_given_back() -> None:
    """What was reserved and not used is there again, and nobody is denied for giving."""
    desk = Desk(cache_bytes=10_000)
    await desk.ask("five", hits=6)
    assert (await desk.ask("five")).overall_code == OVER
    given = await desk.ask({"key": "five", "hitsAddend": "4", "isNegativeHits": True})
    assert (given.overall_code, given.statuses[0].limit_remaining) == (OK, 3)
    assert (await desk.ask("five")).statuses[0].limit_remaining == 2


async def test_what_has_no_limit_passes() -> None:
    """No rule: no limit is told. Unlimited: everything remains. No counter is asked for either."""
    desk = Desk()
    found = await desk.ask("nothing", "free")
    assert (found.overall_code, desk.counting.calls) == (OK, [])
    assert not found.statuses[0].HasField("current_limit")
    assert [one.limit_remaining for one in found.statuses] == [0, 2**32 - 1]


async def test_a_limit_of_zero_lets_nothing_pass() -> None:
    """Counted or taken all or nothing, once or again."""
    for desk in (Desk(), Desk(all_or_nothing=True), Desk(cache_bytes=10_000)):
        answers = [await desk.ask("shut") for _ in range(2)]
        assert [one.overall_code for one in answers] == [OVER, OVER]
        assert remaining(answers) == [0, 0]
        assert desk.figures("shut")["over_limit"] == 2


async def test_a_request_that_can_never_pass_takes_nothing() -> None:
    """All or nothing, and one of two lets nothing pass: the other keeps what it has."""
    desk = Desk(all_or_nothing=True)
    answers = [await desk.ask("five", "shut") for _ in range(2)]
    assert [one.overall_code for one in answers] == [OVER, OVER]
    assert remaining(answers, 0) == [5, 5]


async def test_shadow_mode_counts_and_passes() -> None:
    """The answer is OK with nothing remaining, and the figures say what would have been denied."""
    desk = Desk()
    answers = [await desk.ask("shade") for _ in range(3)]
    assert [one.statuses[0].code for one in answers] == [OK] * 3
    assert desk.figures("shade") == {
        "total_hits": 3, "over_limit": 2, "near_limit": 1, "within_limit": 1, "shadow_mode": 2
    }  # fmt: skip


async def test_the_whole_service_can_watch_only() -> None:
    """SHADOW_MODE: statuses say who is over, the request passes, and that is counted."""
    desk = Desk(shadow=True)
    found = await desk.ask("shut")
    assert (found.overall_code, found.statuses[0].code) == (OK, OVER)
    assert desk.limits.statistics.service["global_shadow_mode"] == 1


async def test_quotas_deny_when_all_of_them_are_exceeded() -> None:
    """One exceeded of two is only told of; both deny."""
    desk = Desk(metadata=True)
    answers = [await desk.ask("quota", "more") for _ in range(4)]
    assert [one.overall_code for one in answers] == [OK, OK, OK, OVER]
    told = [json_format.MessageToDict(one.dynamic_metadata) for one in answers]
    assert [one.get("quotaModeViolations") for one in told] == [None, [0], [0], [0, 1]]
    assert [one.get("metadata") for one in told] == [{"tier": "gold"}] * 3 + [None]
    assert told[0]["descriptors"] == [{"entries": ["quota="]}, {"entries": ["more="]}]


async def test_a_rule_replaces_another_in_one_request() -> None:
    """The replaced one neither counts nor denies there; alone it holds."""
    desk = Desk()
    answers = [await desk.ask("two", "over") for _ in range(4)]
    assert [one.overall_code for one in answers] == [OK] * 4
    assert not answers[0].statuses[0].HasField("current_limit")
    assert (await desk.ask("two")).statuses[0].limit_remaining == 1


async def test_a_request_may_bring_its_own_limit() -> None:
    """It beats the configuration and its shadow mode; without a unit it is refused and nothing is counted."""
    desk = Desk()
    own = {"key": "shade", "limit": {"requestsPerUnit": 2, "unit": "HOUR"}}
    assert [(await desk.ask(own)).overall_code for _ in range(3)] == [OK, OK, OVER]
    with pytest.raises(Invalid, match="needs a unit"):
        await desk.ask("five", {"key": "two", "limit": {"requestsPerUnit": 2}})
    assert (await desk.ask("five")).statuses[0].limit_remaining == 4


async def test_algorithms_of_ours_hold_where_they_are_named() -> None:
    """A sliding window: what was taken late in a minute still counts early in the next, and denials do not count."""
    desk = Desk()
    desk.clock.advance(50)
    assert [(await desk.ask("slide")).overall_code for _ in range(3)] == [OK, OK, OVER]
    desk.clock.advance(20)
    assert (await desk.ask("slide")).overall_code == OVER
    desk.clock.advance(45)
    assert (await desk.ask("slide")).statuses[0].limit_remaining == 1


async def test_headers_tell_of_the_tightest_descriptor() -> None:
    """Names as configured; of one that denies rather than of one that passes."""
    desk = Desk(headers=Headers(limit="L", remaining="Rem", reset="Res"))
    first, *_, last = [await desk.ask("five", "two") for _ in range(3)]
    assert [(one.key, one.value) for one in first.response_headers_to_add] == [
        ("L", "2"),
        ("Rem", "1"),
        ("Res", "3600"),
    ]
    assert [one.value for one in last.response_headers_to_add] == ["2", "0", "3600"]
    assert not (await desk.ask("nothing", "free")).response_headers_to_add


async def test_a_known_denial_costs_no_call() -> None:
    """With a local cache a counter that is over is not asked again before its window ends."""
    desk = Desk(cache_bytes=10_000)
    await desk.ask("two", hits=3)
    calls = len(desk.counting.calls)
    assert [(await desk.ask("two")).overall_code for _ in range(3)] == [OVER] * 3
    assert len(desk.counting.calls) == calls
    assert desk.figures("two")["over_limit_with_local_cache"] == 3
    desk.clock.advance(3600)
    assert (await desk.ask("two")).overall_code == OK


async def test_a_raised_limit_is_asked_about_at_once() -> None:
    """What is known of a small limit says nothing of a larger one on the same counter."""
    desk = Desk(cache_bytes=10_000)
    assert [(await desk.ask("two", hits=3)).overall_code, (await desk.ask("two")).overall_code] == [OVER, OVER]
    raised = {"key": "two", "limit": {"requestsPerUnit": 9, "unit": "HOUR"}}
    assert (await desk.ask(raised)).statuses[0].limit_remaining == 5


BAD: list[tuple[pb.RateLimitRequest, str]] = [
    (pb.RateLimitRequest(), "domain must not be empty"),
    (pb.RateLimitRequest(domain="shop"), "between 1 and 128 descriptors, not 0"),
    (pb.RateLimitRequest(domain="shop", descriptors=[RateLimitDescriptor()] * 129), "not 129"),
]


@pytest.mark.parametrize(("request_", "reason"), BAD, ids=[reason for _, reason in BAD])
async def test_bad_requests_are_refused(request_: pb.RateLimitRequest, reason: str) -> None:
    """With a sentence; nothing is counted, and the refusal is."""
    desk = Desk()
    with pytest.raises(Invalid, match=reason):
        await desk.limits.answer(request_.SerializeToString())
    assert desk.counting.calls == []
    assert desk.limits.statistics.service["call.should_rate_limit.service_error"] == 1


async def test_huge_hits_and_long_descriptors_are_refused() -> None:
    """More hits than the request's own field can hold, more entries than anybody means."""
    desk = Desk()
    with pytest.raises(Invalid, match="hits_addend must be at most 4294967295"):
        await desk.ask({"key": "five", "hitsAddend": str(2**32)})
    with pytest.raises(Invalid, match="at most 64 entries"):
        await desk.ask({"key": "five", "entries": [{"key": "five"}] * 65})


async def test_bytes_that_are_no_request_are_refused() -> None:
    """They are told so, and are no error of ours."""
    with pytest.raises(Invalid, match="no RateLimitRequest"):
        await Desk().limits.answer(b"\xff\xff")


async def test_without_a_configuration_there_is_no_answer() -> None:
    """None could be loaded yet: an error, as from Envoy's service."""
    desk = Desk()
    desk.configured.book = None
    with pytest.raises(Unavailable):
        await desk.ask("five")


async def test_figures_take_a_request_apart() -> None:
    """Of several hits some can be within the limit, some near and some over it; addresses and colons are tamed."""
    desk = Desk()
    await desk.ask("five", hits=3)
    await desk.ask("five", hits=4)
    assert desk.figures("five") == {"total_hits": 7, "over_limit": 2, "near_limit": 1, "within_limit": 3}
    desk.limits.statistics.of("shop.ip_10.0.0.1:80").total_hits += 1
    assert desk.figures("ip_10_0_0_1_80") == {"total_hits": 1}


async def test_names_from_requests_do_not_fill_the_memory() -> None:
    """Ten thousand names have figures of their own; the others share some."""
    statistics = Desk().limits.statistics
    for number in range(20_000):
        statistics.of(f"name-{number}").total_hits += 1
        statistics.count_unknown_domain(f"domain-{number}", 1)
    lines = dict(statistics.lines())
    assert len(lines) < 75_000
    assert lines["ratelimit.service.rate_limit.other.total_hits"] == 10_000
    assert lines["ratelimit.service.rate_limit.other.domain_not_found"] == 10_000


async def test_what_requests_ask_does_not_fill_the_memory() -> None:
    """Remembered are the newest, as many as have a bounded number of descriptors, each once under any configuration."""
    desk = Desk()
    free = [RateLimitDescriptor(entries=[RateLimitDescriptor.Entry(key="free")])] * 32
    requests = [pb.RateLimitRequest(domain="shop", descriptors=free, hits_addend=hits) for hits in range(1100)]
    raws = [request.SerializeToString() for request in requests]
    await desk.limits.answer_all(raws)
    assert list(desk.limits._plans) == raws[-1024:]
    desk.configured.book = Configured(counts_denied=True).book
    await desk.limits.answer_all(raws[-100:])
    assert len(desk.limits._plans) == 1024


def test_known_denials_are_bounded() -> None:
    """The first that was learnt goes; a size of 0 keeps none."""
    clock = FakeClock()
    few, none = Denials(512, clock.monotonic), Denials(0, clock.monotonic)
    for denials in (few, none):
        for name in "abc":
            denials.remember(name, 5, asked_at_seconds=clock.monotonic(), reset_us=1_000_000)
    assert [few.holds(name, 5) for name in "abc"] == [False, True, True]
    assert (few.holds("c", 6), len(none)) == (False, 0)
