"""The built-in kinds, without a network."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.tasks.worker.handlers.actions import Automation, summarise
from services.tasks.worker.handlers.fetching import Fetcher
from services.tasks.worker.handlers.sentiment import Sentiment, judge, split
from tests.support.clock import FakeClock
from worker.handler import Assignment, Reject, Retry


async def _unheard(fraction: float, message: str) -> None:
    del fraction, message


def _assignment(payload: Any) -> Assignment:
    return Assignment(
        task_id="t", attempt=3, kind="k", payload=payload, owner_id="u", timeout_seconds=60, report=_unheard
    )


async def _automate(payload: Any, allowed: str = "") -> dict[str, Any]:
    automation = Automation(Fetcher(frozenset(allowed.split(",")) - {""}))
    return await automation.handle(_assignment(payload))


@pytest.mark.parametrize(
    ("text", "sentiment"),
    [
        ("I love this product, it is wonderful!", "positive"),
        ("The table is made of wood.", "neutral"),
        ("This is the worst service I ever had. Horrible.", "negative"),
    ],
)
def test_a_text_has_its_sentiment(text: str, sentiment: str):
    """The three words of the answer, with a confidence and a measured time."""
    result = Sentiment(FakeClock()).handle(_assignment({"text": text, "channel": "email"}))
    assert result["sentiment"] == sentiment
    assert 0.5 <= result["confidence"] <= 1
    assert result["processing_time"] == "0.000000s"


@pytest.mark.parametrize("payload", [None, [], {}, {"text": 7}, {"text": "  "}, {"text": "x" * 100_001}])
def test_what_is_no_text_is_rejected(payload: Any):
    """Permanently, because it would not get better."""
    with pytest.raises(Reject) as rejected:
        Sentiment(FakeClock()).handle(_assignment(payload))
    assert rejected.value.code == "INVALID_INPUT"


@given(st.floats(-1, 1), st.floats(0, 1))
def test_confidence_stays_within_its_bounds(compound: float, neutral: float):
    """0 to 1 for every score, and at least a half for those that take sides."""
    sentiment, confidence = judge(compound, neutral)
    assert 0 <= confidence <= 1
    assert sentiment == "neutral" or confidence >= 0.5


@given(st.text(alphabet="ab .!\n", max_size=5000))
def test_splitting_loses_no_character_but_blanks(text: str):
    """All parts are short, and together they are the text."""
    parts = split(text)
    assert all(0 < len(part) <= 1000 for part in parts)
    assert "".join("".join(parts).split()) == "".join(text.split())


async def test_process_data_adds_numbers_up():
    """Every numeric field gets its figures; truth values and texts are no numbers."""
    result = await _automate({"action": "process_data", "data": [{"a": 1, "b": "x"}, {"a": 3.0, "c": True}, 5]})
    assert result["records"] == 3
    assert result["fields"] == {
        "a": {"count": 2, "sum": 4, "min": 1, "max": 3, "mean": 2},
        "value": {"count": 1, "sum": 5, "min": 5, "max": 5, "mean": 5},
    }
    assert await _automate({"action": "process_data"}) == {"action": "process_data", "records": 0, "fields": {}}


@given(st.lists(st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3) | st.none())))
def test_figures_agree_with_each_other(records: list[Any]):
    """Count times mean is the sum, and the mean lies between the ends; all of it is JSON."""
    for figures in summarise(records).values():
        assert figures["min"] <= figures["max"]
        assert figures["count"] >= 1
    json.dumps(summarise(records))


async def test_test_and_delay_succeed():
    """The two actions that only show that work is done."""
    assert await _automate({"action": "test"}) == {"action": "test", "ok": True, "attempt": 3}
    assert (await _automate({"action": "delay", "seconds": 0}))["waited_seconds"] == 0


async def test_fail_fails_as_asked():
    """Retryable with its wait, or permanent."""
    with pytest.raises(Retry) as again:
        await _automate({"action": "fail", "message": "busy", "after_seconds": 2})
    assert (again.value.message, again.value.after_seconds) == ("busy", 2)
    with pytest.raises(Reject):
        await _automate({"action": "fail", "permanent": True})


@pytest.mark.parametrize(
    "payload",
    [
        None,
        {},
        {"action": 1},
        {"action": "dance"},
        {"action": "process_data", "data": 7},
        {"action": "delay", "seconds": "long"},
        {"action": "delay", "seconds": -1},
        {"action": "delay", "seconds": float("nan")},
        {"action": "fail", "message": []},
        {"action": "http_request"},
        {"action": "http_request", "url": "ftp://example.com/"},
        {"action": "http_request", "url": "http://u:p@example.com/"},
        {"action": "http_request", "url": "http://[broken/"},
    ],
)
async def test_bad_parameters_are_rejected(payload: Any):
    """Whatever is wrong with them, the task ends with INVALID_INPUT."""
    with pytest.raises(Reject) as rejected:
        await _automate(payload, allowed="example.com")
    assert rejected.value.code == "INVALID_INPUT"


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("http://example.com/", ""),
        ("http://example.com:81/", "example.com:80"),
        ("http://127.0.0.1/", "example.com"),
        ("http://169.254.169.254/latest", "example.com"),
        ("http://example.com@127.0.0.1/", "example.com,"),
        ("http://2130706433/", "127.0.0.1"),
    ],
)
async def test_hosts_that_are_not_listed_are_not_called(url: str, allowed: str):
    """Neither by another port, nor by an address, nor by a login that looks like a host."""
    with pytest.raises(Reject):
        await _automate({"action": "http_request", "url": url}, allowed=allowed)


async def test_a_listed_name_may_not_lead_inside(monkeypatch: pytest.MonkeyPatch):
    """A name that resolves to a private address is refused even when the name is listed."""
    fetcher = Fetcher(frozenset({"inside.example"}))

    async def resolve(*_: Any, **__: Any) -> list[Any]:
        return [(2, 1, 6, "", ("10.0.0.5", 80))]

    monkeypatch.setattr("asyncio.base_events.BaseEventLoop.getaddrinfo", resolve)
    with pytest.raises(Reject) as rejected:
        await fetcher.fetch({"url": "http://inside.example/"})
    assert rejected.value.code == "HOST_NOT_ALLOWED"
