import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.errors import Invalid
from services.gateway.edge.body import MOST_DEPTH, parse_json


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{", id="cut off"),
        pytest.param(b'{"a": NaN}', id="NaN"),
        pytest.param(b"Infinity", id="Infinity"),
        pytest.param(b'"\xff\xfe"', id="bad UTF-8"),
        pytest.param(b'"\\ud800"', id="lone surrogate"),
        pytest.param(b'{"\\udc00": 1}', id="lone surrogate in a name"),
        pytest.param(b'"\xed\xa0\x80"', id="encoded surrogate"),
        pytest.param(b'"a\\u0000b"', id="NUL escaped"),
        pytest.param(b'{"a": {"b\\u0000": [1]}}', id="NUL in a name"),
        pytest.param(b'"a\x00b"', id="NUL"),
        pytest.param(nested(MOST_DEPTH + 1), id="one too deep"),
        pytest.param(nested(100_000), id="far too deep"),
        pytest.param(b'{"a":' * 65 + b"1" + b"}" * 65, id="objects too deep"),
        pytest.param(b"{} {}", id="two values"),
        pytest.param(b"\xef\xbb\xbf{}", id="byte order mark"),
        pytest.param(b'{"n": 18446744073709551616}', id="2^64"),
        pytest.param(b'["\\"", -9223372036854775809]', id="below -2^63"),
        pytest.param(b"[1," + b"9" * 309 + b"]", id="beyond a double"),
    ],
)
def test_what_is_refused(body: bytes):
    """Each is the caller's mistake, with one code."""
    with pytest.raises(Invalid, match="INVALID_JSON"):
        parse_json(body)


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"null", None),
        (b'"\\\\u0000"', "\\u0000"),
        (b'"\\ud83d\\ude00"', "\U0001f600"),
        (b'["' + b"[" * 100 + b'"]', ["[" * 100]),
        (b"[" + b"{}," * 200 + b"{}]", [{}] * 201),
        (b"[18446744073709551615, -9223372036854775808]", [2**64 - 1, -(2**63)]),
        (b'["99999999999999999999", "\\"99999999999999999999"]', ["9" * 20, '"' + "9" * 20]),
        (b"[0.12345678901234567890123, 123456789012345678901.5]", [0.12345678901234568, 123456789012345678901.5]),
        (b"[1e0000000000000000000000001, 100000000000000000000e1]", [10.0, 1e21]),
    ],
)
def test_what_only_looks_suspicious(body: bytes, value: object):
    """Brackets in text, wide bodies, escaped escapes, surrogate pairs, and rows of digits that are no integer."""
    assert parse_json(body) == value


@given(st.lists(st.integers(-(2**66), 2**66) | st.floats(allow_nan=False, allow_infinity=False) | st.text('\\"09.-e')))
def test_every_integer_is_kept_exactly_or_refused(values: list[object]):
    """None is rounded, whatever stands beside it."""
    body = json.dumps(values).encode()
    if all(-(2**63) <= value < 2**64 for value in values if isinstance(value, int)):
        assert parse_json(body) == values
    else:
        with pytest.raises(Invalid, match="more than 64 bits"):
            parse_json(body)


def test_the_deepest_body_passes():
    """Sixty-four levels are allowed."""
    assert parse_json(nested(MOST_DEPTH))


@given(st.binary())
def test_no_body_is_an_error_of_ours(body: bytes):
    """Whatever comes is a value or Invalid."""
    try:
        parse_json(body)
    except Invalid:
        return
