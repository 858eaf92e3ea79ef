"""What is posted to webhooks: canonical, signed in the body and in the headers, so that receivers' own ways agree."""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime
from typing import Any

import pytest
import rfc8785
from standardwebhooks import Webhook as Receiver
from standardwebhooks import WebhookVerificationError

from chassis.errors import Invalid
from services.tasks.model import signing
from services.tasks.model.webhooks import EVENTS, Facts, is_known, patterns_of

AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER = "whsec_" + base64.b64encode(bytes(range(1, 33))).decode()


def payload(**data: Any) -> bytes:
    return signing.payload_of("task.completed", AT, data)


def facts(result: bytes | None, type_: str = "task.completed") -> Facts:
    return Facts(type=type_, at=AT, data={"task_id": "task_1", "status": "completed"}, result=result)


def test_the_payload_has_the_documented_members() -> None:
    """Event, timestamp with a Z, data; nothing else."""
    assert json.loads(payload(n=1)) == {
        "event": "task.completed",
        "timestamp": "2026-01-02T03:04:05.678901Z",
        "data": {"n": 1},
    }


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"b": 1, "a": {"d": [1, 2.5, None, True], "c": "ü€😀\n\u2028"}},
        {"\ue000": 1, "😀": 2, "a\u0007": '"\\/'},
        {"x": 1e21, "y": 1e-7, "z": -0.0, "v": 333333333.33333329, "w": 4.50, "u": 2e-3},
        {"big": 2**53, "small": -(2**70), "last": 2**53 - 1},
    ],
)
def test_who_takes_the_signature_out_can_write_down_what_was_signed(data: dict[str, Any]) -> None:
    """Parsed, without `signature`, and canonical again: the bytes that were signed."""
    body = signing.body_of(payload(**data), SECRET)
    document = json.loads(body)
    signature = document.pop("signature")
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    # rfc8785 knows no integers that only a float can hold; what was 1e21 is written in that form and is no integer.
    expected = hmac.new(key, rfc8785.dumps(document), hashlib.sha256).hexdigest()
    assert signature == f"sha256={expected}"


def test_plain_sorted_json_is_the_signed_form_for_plain_data() -> None:
    """Who has no library for it: sorted members, no spaces, UTF-8 as it is."""
    body = signing.body_of(payload(name="Ä", list=[1, {"y": 1.5, "x": None}]), SECRET)
    document = json.loads(body)
    del document["signature"]
    plain = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert plain == payload(name="Ä", list=[1, {"y": 1.5, "x": None}])


def test_integers_that_no_float_holds_become_strings() -> None:
    """Also deep inside; true stays true."""
    document = json.loads(payload(a=[{"n": 2**64, "t": True}], m=-(2**53)))
    assert document["data"] == {"a": [{"n": "18446744073709551616", "t": True}], "m": "-9007199254740992"}


def test_the_headers_verify_with_the_reference_library() -> None:
    """For the new secret and for the old one while both sign; for no other, and for no other body or id."""
    now = datetime.now(UTC)
    body = signing.body_of(payload(n=1), SECRET)
    headers = signing.headers_of("evt_1", now, body, [SECRET, OTHER])
    assert Receiver(SECRET).verify(body, headers)["data"] == {"n": 1}
    assert Receiver(OTHER).verify(body, headers)["data"] == {"n": 1}
    stranger = "whsec_" + base64.b64encode(bytes(range(2, 34))).decode()
    for secret, changed, said in (
        (stranger, body, headers),
        (SECRET, body.replace(b'"n":1', b'"n":2'), headers),
        (SECRET, body, {**headers, "webhook-id": "evt_2"}),
        (OTHER, body, signing.headers_of("evt_1", now, body, [SECRET])),
    ):
        with pytest.raises(WebhookVerificationError):
            Receiver(secret).verify(changed, said)


def test_the_header_is_the_standards_own_construction() -> None:
    """Written down by hand: base64 of HMAC-SHA256 over id, seconds and body, joined by dots."""
    headers = signing.headers_of("evt_1", AT, b"{}", [SECRET])
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    digest = hmac.new(key, f"evt_1.{int(AT.timestamp())}.{{}}".encode(), hashlib.sha256).digest()
    assert headers == {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(int(AT.timestamp())),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def test_a_result_is_told_as_it_is() -> None:
    """Canonical, and not marked as left out."""
    data = json.loads(signing.payload_of_task(facts(b' {"b":1, "a":[1.0, 12345678901234567890]}')))["data"]
    assert (data["result"], data["result_omitted"]) == ({"a": [1, "12345678901234567890"], "b": 1}, False)


@pytest.mark.parametrize(
    "result",
    [
        None,
        b'"' + b"x" * 19_800 + b'"',
        b"[" + b"1e20," * 1000 + b"1]",
        b'{"n":' + b"1" * 5000 + b"}",
    ],
    ids=["not-kept", "long", "longer-in-its-form", "a-number-of-5000-digits"],
)
def test_a_result_that_does_not_fit_is_left_out_and_said_so(result: bytes | None) -> None:
    """The body stays below its bound, and says where the result is."""
    made = signing.payload_of_task(facts(result))
    data = json.loads(made)["data"]
    assert (data["result"], data["result_omitted"]) == (None, True)
    assert data["result_path"] == "/api/v1/tasks/task_1/result"
    assert len(signing.body_of(made, SECRET)) < signing.MOST_BODY_BYTES


def test_the_longest_body_keeps_the_bound() -> None:
    """One byte more in the result, and it is left out."""
    room = signing.MOST_BODY_BYTES - len(signing.body_of(signing.payload_of_task(facts(b'""')), SECRET))
    fits = signing.payload_of_task(facts(b'"' + b"x" * room + b'"'))
    assert len(signing.body_of(fits, SECRET)) == signing.MOST_BODY_BYTES
    over = signing.payload_of_task(facts(b'"' + b"x" * (room + 1) + b'"'))
    assert json.loads(over)["data"]["result_omitted"]


def test_an_end_without_a_result_has_none_to_fetch() -> None:
    """A failed task's result is null, and nothing was left out."""
    data = json.loads(signing.payload_of_task(facts(None, "task.failed")))["data"]
    assert (data["result"], data["result_omitted"], "result_path" in data) == (None, False, False)


def test_secrets_are_made_anew_and_fit_the_standard() -> None:
    """32 random bytes each."""
    made = {signing.make_secret() for _ in range(50)}
    assert len(made) == 50
    assert all(signing.check_secret(secret) == secret for secret in made)


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "secret",
        "whsec_",
        "whsec_!!!!",
        "whsec_" + base64.b64encode(bytes(23)).decode(),
        "whsec_" + base64.b64encode(bytes(65)).decode(),
        "whsec_" + base64.b64encode(bytes(32)).decode().rstrip("="),
        "WHSEC_" + base64.b64encode(bytes(32)).decode(),
        "whsec_" + base64.b64encode(bytes(32)).decode() + "\n",
        "whsec_ü" + base64.b64encode(bytes(32)).decode(),
    ],
)
def test_what_is_no_secret_is_refused(secret: str) -> None:
    """With the code of the contract."""
    with pytest.raises(Invalid) as caught:
        signing.check_secret(secret)
    assert caught.value.code == "WEBHOOK_SECRET"


def test_patterns_of_events() -> None:
    """A type, all that begin so, or all; nothing in between."""
    assert list(patterns_of("agent.execution.failed")) == [
        "*",
        "agent.*",
        "agent.execution.*",
        "agent.execution.failed",
    ]
    assert all(is_known(event) for event in (*EVENTS, "*", "task.*", "agent.*", "agent.execution.*", "webhook.*"))
    assert not any(
        is_known(event) for event in ("", "task", "task.", "tas*", "task.comp*", "**", ".*", "Task.*", "x.*")
    )
