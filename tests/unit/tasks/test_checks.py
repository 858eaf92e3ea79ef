"""What is refused before anything is written."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.errors import Invalid
from services.tasks.model.states import Priority
from services.tasks.model.task import Draft, Kind, RetryPolicy, Submission, TaskError
from services.tasks.operations import checks

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KIND = Kind(kind="automation", group="builtin", max_attempts=3, timeout_seconds=60)
JSON = st.recursive(st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(), st.lists, max_leaves=20)


def draft(**changes: Any) -> Draft:
    values: dict[str, Any] = {
        "owner_id": "ann",
        "kind": "automation",
        "priority": 0,
        "payload": b"{}",
        "labels": b"",
        "max_attempts": 0,
        "timeout_seconds": 0,
        "run_at": None,
        "deadline_at": None,
        "traceparent": "",
        "idempotency_key": "",
    }
    return Draft(**{**values, **changes})


def check(**changes: Any) -> Submission:
    return checks.check_draft(draft(**changes), KIND, "task_1", NOW)


def test_defaults_come_from_the_kind() -> None:
    """What is not given is the kind's, and the class is the normal one."""
    submission = check()
    assert (submission.group, submission.priority) == ("builtin", Priority.NORMAL)
    assert (submission.max_attempts, submission.timeout_seconds) == (3, 60)
    given = check(priority=4, max_attempts=7, timeout_seconds=9)
    assert (given.priority, given.max_attempts, given.timeout_seconds) == (Priority.CRITICAL, 7, 9)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"owner_id": ""}, "owner_id"),
        ({"owner_id": "a\x00"}, "owner_id"),
        ({"idempotency_key": "k" * 201}, "idempotency_key"),
        ({"payload": b""}, "payload"),
        ({"payload": b"{'a': 1}"}, "payload"),
        ({"payload": b"NaN"}, "payload"),
        ({"payload": b'"\xff"'}, "payload"),
        ({"payload": b'"\\ud800"'}, "payload"),
        ({"payload": b'"a\\u0000"'}, "payload"),
        ({"payload": b'{"\\u0000": 1}'}, "payload"),
        ({"payload": b"[" * 65 + b"]" * 65}, "payload"),
        ({"payload": b"[" * 100_000}, "payload"),
        ({"payload": b'"' + b"x" * checks.MOST_PAYLOAD_BYTES + b'"'}, "payload"),
        ({"labels": b"[]"}, "labels"),
        ({"labels": b"{"}, "labels"),
        ({"priority": 5}, "priority"),
        ({"priority": -1}, "priority"),
        ({"max_attempts": 101}, "max_attempts"),
        ({"timeout_seconds": 604_801}, "timeout_seconds"),
        ({"run_at": NOW + timedelta(days=400)}, "run_at"),
        ({"deadline_at": NOW}, "deadline_at"),
        ({"deadline_at": NOW + timedelta(1), "run_at": NOW + timedelta(2)}, "deadline_at"),
    ],
)
def test_bad_fields_are_named(changes: dict[str, Any], field: str) -> None:
    """Each is Invalid with the field in its details."""
    with pytest.raises(Invalid) as caught:
        check(**changes)
    assert caught.value.details["field"] == field


@given(JSON)
def test_what_json_can_say_is_accepted_unless_it_holds_a_nul(document: Any) -> None:
    """Any document that is not too large or deep, and the one character that cannot be kept."""
    encoded = orjson.dumps(document)
    if b"\\u0000" in encoded and "\x00" in str(document).replace("\\x00", "\x00"):
        with pytest.raises(Invalid):
            checks.check_document("payload", encoded, 10**6)
    else:
        assert checks.check_document("payload", encoded, 10**6) == document


def test_a_written_out_escape_is_no_nul() -> None:
    """A backslash followed by u0000 in the text is just text; 64 levels are allowed."""
    assert checks.check_document("payload", b'"\\\\u0000"', 100) == "\\u0000"
    assert checks.check_document("payload", b"[" * 64 + b"]" * 64, 1000)


def test_a_fingerprint_tells_requests_apart() -> None:
    """Equal requests have equal ones; each field counts; without a key none is made."""
    base = check(idempotency_key="k").fingerprint
    assert check(idempotency_key="other").fingerprint == base
    assert check().fingerprint == b""
    for changes in ({"payload": b"[]"}, {"priority": 3}, {"labels": b"{}"}, {"run_at": NOW}, {"max_attempts": 1}):
        assert check(idempotency_key="k", **changes).fingerprint != base


def test_only_real_ids_are_looked_up() -> None:
    """A task's id is its prefix and a ULID."""
    assert checks.is_task_id("task_01J0000000000000000000000A")
    for other in ("", "task_", "task_01J0000000000000000000000A\n", "task_01j0000000000000000000000a", "x\x00"):
        assert not checks.is_task_id(other)


def test_errors_of_handlers_are_made_keepable() -> None:
    """NULs go, length is bounded, and there is always a code."""
    clean = checks.clean_error(TaskError(code="", message="a\x00" + "b" * 9000))
    assert (clean.code, len(clean.message), "\x00" in clean.message) == ("HANDLER_ERROR", 4000, False)


@pytest.mark.parametrize(
    "changes",
    [{"kind": ""}, {"kind": "a b"}, {"group": "A"}, {"group": "a.b"}, {"max_attempts": 0}, {"timeout_seconds": 0}],
)
def test_bad_kinds_cannot_be_announced(changes: dict[str, Any]) -> None:
    """A group becomes a part of a queue's name, a kind is shown to everybody."""
    values: dict[str, Any] = {"kind": "a.b", "group": "g", "max_attempts": 1, "timeout_seconds": 1}
    checks.check_kind(Kind(**values))
    with pytest.raises(Invalid):
        checks.check_kind(Kind(**{**values, **changes}))


@pytest.mark.parametrize(
    "changes",
    [
        {"max_running": 1_000_001},
        {"retry": RetryPolicy(base_seconds=0.0)},
        {"retry": RetryPolicy(base_seconds=float("nan"))},
        {"retry": RetryPolicy(factor=0.5)},
        {"retry": RetryPolicy(factor=11.0)},
        {"retry": RetryPolicy(max_seconds=0.5)},
        {"retry": RetryPolicy(max_seconds=float("inf"))},
        {"retry": RetryPolicy(jitter=1.5)},
        {"retry": RetryPolicy(jitter=float("nan"))},
    ],
)
def test_bounds_and_policies_of_kinds_have_bounds(changes: dict[str, Any]) -> None:
    """Also what is no number at all."""
    checks.check_kind(KIND)
    with pytest.raises(Invalid):
        checks.check_kind(replace(KIND, **changes))


def test_a_channel_is_a_short_text_at_the_top() -> None:
    """Anything else in its place is the task's own business."""
    assert check(payload=b'{"channel":"chat"}').channel == "chat"
    for payload in (b'{"channel":1}', b'{"channel":"' + b"x" * 51 + b'"}', b'["channel"]', b'{"a":{"channel":"b"}}'):
        assert check(payload=payload).channel == ""


def test_prerequisites_are_bounded_and_named_once() -> None:
    """A repeated one counts once; another join than the two is refused."""
    task_id = "task_01J0000000000000000000000A"
    submission = check(run_after=(task_id, task_id), join=2)
    assert (submission.run_after, submission.join_any) == ((task_id,), True)
    for changes in ({"run_after": (task_id,) * 101}, {"run_after": (task_id,), "join": 3}, {"unique_key": "x" * 201}):
        with pytest.raises(Invalid):
            check(**changes)
