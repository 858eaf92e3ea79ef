"""The built-in model: what it says, and that it says what it is."""

import pytest

from services.llm.model import Chat, Message
from services.llm.providers.echo import Echo
from tests.support.clock import FakeClock


def asked(*texts: str, **fields: object) -> Chat:
    messages = tuple(Message(role="user", content=text) for text in texts)
    return Chat(model="echo", messages=messages, **fields)  # type: ignore[arg-type]  # fields by name


@pytest.fixture
def echo() -> Echo:
    return Echo(FakeClock())


async def say(echo: Echo, chat: Chat) -> str:
    return (await echo.chat(chat, "echo")).choices[0].message.content


async def test_it_says_what_it_is(echo):
    """Nobody takes it for a language model."""
    said = await say(echo, asked("hello"))
    assert said == "This is the built-in echo model; no language model answers here. You said: hello"


async def test_it_repeats_the_last_question(echo):
    """Always the same for the same, white space and all."""
    chat = asked("first", "  two\n lines \n")
    assert (await say(echo, chat)).endswith("You said:   two\n lines \n")
    assert await say(echo, chat) == await say(echo, chat)


async def test_without_a_question(echo):
    """A system's message alone is no question."""
    chat = Chat(model="echo", messages=(Message(role="system", content="be kind"),))
    assert (await say(echo, chat)).endswith("You said: nothing")


@pytest.mark.parametrize(("stop", "ending"), [(("You",), "here. "), (("zzz", "said"), "You "), (("",), "hello")])
async def test_stop_sequences(echo, stop, ending):
    """It ends before the first of them; an empty one is none."""
    assert (await say(echo, asked("hello", stop=stop))).endswith(ending)


async def test_many_choices(echo):
    """Each is whole, and each is counted."""
    chat = asked("hi", choices=3, max_tokens=2)
    answer = await echo.chat(chat, "echo")
    assert [(choice.index, choice.finish_reason) for choice in answer.choices] == [(i, "length") for i in range(3)]
    assert answer.usage.output_tokens == 6
    ends = [d.index for piece in [p async for p in echo.stream(chat, "echo")] for d in piece.deltas if d.finish_reason]
    assert ends == [0, 1, 2]
