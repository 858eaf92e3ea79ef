"""What a request may say, and when two requests ask the same."""

import math
from dataclasses import replace

import pytest

from chassis.errors import Invalid
from services.llm.model import MAX_CHARACTERS, MAX_MESSAGES, Chat, Message, estimate_tokens

HELLO = Message(role="user", content="hello")
CHAT = Chat(model="m", messages=(HELLO,))


def test_a_plain_request_is_fine():
    """Nothing but a message is needed, and the bounds themselves are allowed."""
    CHAT.check()
    replace(CHAT, temperature=2.0, top_p=1.0, max_tokens=1, choices=16, stop=("x",) * 16).check()


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("messages", {"messages": ()}),
        ("messages", {"messages": (HELLO,) * (MAX_MESSAGES + 1)}),
        ("messages", {"messages": (Message(role="user", content="x" * (MAX_CHARACTERS + 1)),)}),
        ("role", {"messages": (Message(role="robot", content="x"),)}),
        ("content", {"messages": (Message(role="user", content=" \n"),)}),
        ("tool_call_id", {"messages": (Message(role="tool", content="x"),)}),
        ("temperature", {"temperature": -0.1}),
        ("temperature", {"temperature": 2.1}),
        ("temperature", {"temperature": math.nan}),
        ("top_p", {"top_p": 1.1}),
        ("max_tokens", {"max_tokens": 0}),
        ("n", {"choices": 17}),
        ("stop", {"stop": ("x",) * 17}),
        ("idempotency_key", {"idempotency_key": "k" * 256}),
        ("idempotency_key", {"idempotency_key": "a\0b"}),
    ],
)
def test_what_can_never_be_answered_is_refused(field, wrong):
    """The error names the field."""
    with pytest.raises(Invalid) as refused:
        replace(CHAT, **wrong).check()
    assert refused.value.details == {"field": field}


def test_a_tool_call_needs_no_words():
    """Only a user's message may not be empty."""
    call = Message(role="assistant", tool_calls=({"id": "1"},))
    replace(CHAT, messages=(HELLO, call, Message(role="tool", tool_call_id="1"))).check()


def test_the_fingerprint_is_of_the_question():
    """Who asks, and under which key, makes no difference; anything else does."""
    same = replace(CHAT, user_id="u", api_key_id="a", idempotency_key="k")
    assert same.fingerprint == CHAT.fingerprint
    others: list[dict[str, object]] = [{"model": "n"}, {"temperature": 0.0}, {"options": {"tools": []}}]
    for other in [*others, {"messages": (HELLO, HELLO)}]:
        assert replace(CHAT, **other).fingerprint != CHAT.fingerprint  # type: ignore[arg-type]  # fields by name


def test_the_order_of_options_makes_no_difference():
    """Two clients may write the same object differently."""
    one, two = {"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 3, "c": 2}, "a": 1}
    assert replace(CHAT, options=one).fingerprint == replace(CHAT, options=two).fingerprint


def test_parts_read_as_text():
    """Pictures say nothing in words."""
    parts = ({"type": "text", "text": "look"}, {"type": "image_url", "image_url": {}}, {"type": "text", "text": "here"})
    assert Message(role="user", parts=parts).text == "look\nhere"


@pytest.mark.parametrize(("texts", "tokens"), [([], 0), ([""], 0), (["a"], 1), (["abcd", "e"], 2)])
def test_tokens_are_estimated_upwards(texts, tokens):
    """Four characters a token, never nothing for something."""
    assert estimate_tokens(texts) == tokens
