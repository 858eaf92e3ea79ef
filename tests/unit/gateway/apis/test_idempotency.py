"""The Idempotency-Key header."""

import pytest

from chassis.errors import Invalid
from services.gateway.apis.idempotency import idempotency_key


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("", ""),
        ("abc-123", "abc-123"),
        ('"abc-123"', "abc-123"),
        ('"with space"', "with space"),
        (r'"a\"b\\c"', r'a"b\c'),
        ("  abc ", "abc"),
        ("x" * 255, "x" * 255),
    ],
)
def test_quoted_and_bare_keys_are_read(value, key):
    """The draft wants a structured-field string; clients send words."""
    assert idempotency_key(value) == key


@pytest.mark.parametrize("value", ["two words", '"', '""', '"open', 'a"b', "naïve", "x" * 256, "tab\there", '"nul\0"'])
def test_what_is_no_key_is_refused(value):
    """A key that is read differently by two sides would be none."""
    with pytest.raises(Invalid):
        idempotency_key(value)
