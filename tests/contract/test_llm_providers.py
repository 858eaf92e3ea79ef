"""How every provider behaves: the built-in echo, and Ollama and OpenAI-compatible servers over real sockets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

import pytest

from chassis.errors import DeadlineExceeded, Exhausted, Invalid, MeshError, Unavailable
from services.llm.model import Chat, Message, ModelStatus, Piece
from services.llm.ports import Provider
from services.llm.providers.connections import open_session
from services.llm.providers.echo import Echo
from services.llm.providers.http import Client, Site
from services.llm.providers.ollama import Ollama
from services.llm.providers.openai import Dialect, OpenAI
from services.llm.providers.traced import Traced
from tests.support.clock import FakeClock
from tests.support.upstream import KEY, MODEL, Upstream, upstream

CODES = {"openai": "PROVIDER_ERROR", "ollama": "OLLAMA_ERROR"}
QUESTION = Chat(model="", messages=(Message(role="user", content="good morning"),))


@dataclass
class Case:
    """A provider, and the server behind it where there is one."""

    provider: Provider
    model: str
    server: Upstream | None = None

    @property
    def behind(self) -> Upstream:
        assert self.server is not None
        return self.server

    @property
    def code(self) -> str:
        return CODES[self.provider.name]


@asynccontextmanager
async def opened(name: str, patience_seconds: float) -> AsyncIterator[Case]:
    """The provider of that name, which may be silent for so long."""
    clock = FakeClock()
    if name == "echo":
        yield Case(Traced(Echo(clock)), "echo")
        return
    async with upstream() as server, open_session(connections=8) as session:
        site = Site(
            provider=name,
            url=server.url + ("/v1" if name == "openai" else ""),
            headers={"authorization": f"Bearer {KEY}"},
            error_code=CODES[name],
            timeout_seconds=patience_seconds,
            idle_seconds=patience_seconds,
        )
        client = Client(session, site, clock)
        dialect = Dialect(name="openai", default_model=MODEL)
        inner = OpenAI(client, dialect, clock) if name == "openai" else Ollama(client, MODEL, clock)
        yield Case(Traced(inner), MODEL, server)


@pytest.fixture
def patience_seconds() -> float:
    """Short only where silence is what a test is about: a machine may be slow as well."""
    return 20.0


@pytest.fixture(params=["echo", "openai", "ollama"])
async def case(request: pytest.FixtureRequest, patience_seconds: float) -> AsyncIterator[Case]:
    """Every provider."""
    async with opened(request.param, patience_seconds) as found:
        yield found


@pytest.fixture(params=["openai", "ollama"])
async def remote(request: pytest.FixtureRequest, patience_seconds: float) -> AsyncIterator[Case]:
    """Every provider over HTTP."""
    async with opened(request.param, patience_seconds) as found:
        yield found


async def collect(case: Case, chat: Chat = QUESTION) -> list[Piece]:
    return [piece async for piece in case.provider.stream(chat, case.model)]


async def _exhaust(pieces: AsyncIterator[Piece]) -> None:
    async for _ in pieces:
        pass


def text(pieces: list[Piece]) -> str:
    return "".join(delta.content for piece in pieces for delta in piece.deltas)


async def test_an_answer_in_one_piece(case: Case):
    """It repeats what was said, ended by itself, counted, under the model's name."""
    answer = await case.provider.chat(QUESTION, case.model)
    assert answer.choices[0].message.content.endswith("You said: good morning")
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.model, answer.provider) == (case.model, case.provider.name)
    assert answer.usage.input_tokens == 2
    assert answer.usage.output_tokens == len(answer.choices[0].message.content.split())


async def test_a_streamed_answer_says_the_same(case: Case):
    """The pieces add up to the answer, one ends the choice, and the last one alone has the usage."""
    answer = await case.provider.chat(QUESTION, case.model)
    pieces = await collect(case)
    assert text(pieces) == answer.choices[0].message.content
    assert [d.finish_reason for p in pieces for d in p.deltas if d.finish_reason] == ["stop"]
    assert [piece.usage for piece in pieces] == [None] * (len(pieces) - 1) + [answer.usage]
    assert len({piece.id for piece in pieces}) == 1
    assert len(pieces) > 4


async def test_the_length_is_bounded(case: Case):
    """With max_tokens the answer is cut and says so."""
    chat = Chat(model="", messages=QUESTION.messages, max_tokens=2)
    answer = await case.provider.chat(chat, case.model)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.output_tokens == 2


async def test_it_lists_its_models(case: Case):
    """Its default model is among them."""
    models = await case.provider.models()
    assert case.provider.default_model in [model.name for model in models]
    assert {model.provider for model in models} == {case.provider.name}


async def test_a_stream_may_be_left(case: Case):
    """Who has heard enough leaves, and the next request is answered."""
    async with aclosing(case.provider.stream(QUESTION, case.model)) as pieces:
        await anext(pieces)
    assert text(await collect(case))


@pytest.mark.parametrize(
    ("trouble", "kind", "code", "patience_seconds"),
    [
        ("500", Unavailable, None, 20.0),
        ("503", Unavailable, None, 20.0),
        ("401", Unavailable, None, 20.0),
        ("garbage", Unavailable, None, 20.0),
        ("400", Invalid, "VALIDATION_ERROR", 20.0),
        ("404", Invalid, "MODEL_NOT_FOUND", 20.0),
        ("429", Exhausted, "RATE_LIMITED", 20.0),
        ("silent", DeadlineExceeded, "DEADLINE_EXCEEDED", 0.5),
    ],
)
async def test_failures_have_their_names(remote: Case, trouble: str, kind: type[MeshError], code: str | None):
    """Each is the same error in one piece and streamed; None stands for the provider's own code."""
    remote.behind.trouble = trouble
    with pytest.raises(kind) as whole:
        await remote.provider.chat(QUESTION, remote.model)
    with pytest.raises(kind) as streamed:
        await collect(remote)
    assert whole.value.code == streamed.value.code == (code or remote.code)


async def test_a_refusal_keeps_the_upstreams_words(remote: Case):
    """What is wrong with the request, its author must be told; of our own trouble nothing shows."""
    remote.behind.trouble = "400"
    with pytest.raises(Invalid, match="the upstream's own words"):
        await remote.provider.chat(QUESTION, remote.model)
    remote.behind.trouble = "500"
    with pytest.raises(Unavailable) as failed:
        await remote.provider.chat(QUESTION, remote.model)
    assert "own words" not in failed.value.message
    assert "own words" in failed.value.private


@pytest.mark.parametrize(
    ("header", "value", "seconds"),
    [
        ("retry-after", "7", 7.0),
        ("retry-after-ms", "250", 0.25),
        ("retry-after", "Thu, 01 Jan 2026 00:00:09 GMT", 9.0),
        ("retry-after", "soon", 1.0),
    ],
)
async def test_a_limit_says_when_to_come_back(remote: Case, header: str, value: str, seconds: float):
    """The upstream's retry-after is passed on, in all its forms."""
    remote.behind.trouble, remote.behind.headers = "429", {header: value}
    with pytest.raises(Exhausted) as limited:
        await remote.provider.chat(QUESTION, remote.model)
    assert limited.value.retry_after_seconds == seconds


@pytest.mark.parametrize("trouble", ["die", "error", "end"])
async def test_an_answer_that_breaks_off_is_an_error(remote: Case, trouble: str):
    """A dead connection, an error event, an end without an ending: never a clean end."""
    remote.behind.trouble = trouble
    pieces = remote.provider.stream(QUESTION, remote.model)
    assert text([await anext(pieces)]) == "You"
    with pytest.raises(Unavailable) as failed:
        await asyncio.wait_for(_exhaust(pieces), 20)
    assert failed.value.code == remote.code


@pytest.mark.parametrize("patience_seconds", [0.5])
async def test_a_silent_stream_is_given_up(remote: Case):
    """The idle limit holds between two tokens, and the upstream is left."""
    remote.behind.trouble = "stall"
    with pytest.raises(DeadlineExceeded):
        await collect(remote)
    async with asyncio.timeout(20):
        await remote.behind.left.wait()


@pytest.mark.parametrize(("trouble", "streamed"), [("silent", False), ("silent", True), ("stall", True)])
async def test_a_caller_that_leaves_closes_the_socket(remote: Case, trouble: str, streamed: bool):
    """Before the head, and in the middle of a stream: the upstream sees the connection end."""
    remote.behind.trouble = trouble
    work = collect(remote) if streamed else remote.provider.chat(QUESTION, remote.model)
    asking = asyncio.ensure_future(work)
    await remote.behind.asked.wait()
    if trouble == "stall":
        await asyncio.sleep(0.05)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    async with asyncio.timeout(20):
        await remote.behind.left.wait()


async def test_a_list_that_fails(remote: Case):
    """No list of models is the provider's failure, too."""
    remote.behind.trouble = "500"
    with pytest.raises(Unavailable) as failed:
        await remote.provider.models()
    assert failed.value.code == remote.code


async def test_tokens_are_estimated_where_they_are_not_counted(remote: Case):
    """About one token for four characters, never nothing."""
    remote.behind.counts_tokens = False
    answer = await remote.provider.chat(QUESTION, remote.model)
    assert answer.usage.input_tokens == 3
    assert (await collect(remote))[-1].usage == answer.usage


@pytest.mark.parametrize("remote", ["openai"], indirect=True)
async def test_openai_gets_every_field(remote: Case):
    """Ours, and the further ones as they came; ours win."""
    chat = Chat(
        model="", messages=QUESTION.messages, temperature=0.5, top_p=0.9, stop=("x",), seed=7, choices=2,
        options={"response_format": {"type": "json_object"}, "model": "other", "stream": True},
    )  # fmt: skip
    await remote.provider.chat(chat, remote.model)
    body = remote.behind.received[0]
    assert body.pop("messages") == [{"role": "user", "content": "good morning"}]
    assert body == {
        "model": MODEL, "temperature": 0.5, "top_p": 0.9, "stop": ["x"], "seed": 7, "n": 2,
        "response_format": {"type": "json_object"},
    }  # fmt: skip


@pytest.mark.parametrize("remote", ["ollama"], indirect=True)
async def test_ollama_gets_its_own_names(remote: Case):
    """Options, format, pictures and tool calls are translated."""
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    chat = Chat(
        model="", max_tokens=9, temperature=0.5,
        messages=(
            Message(role="developer", content="be brief"),
            Message(role="assistant", tool_calls=(call,)),
            Message(role="user", parts=({"type": "text", "text": "what is this"}, picture)),
        ),
        options={"response_format": {"type": "json_object"}},
    )  # fmt: skip
    await remote.provider.chat(chat, remote.model)
    body = remote.behind.received[0]
    assert (body["format"], body["options"]) == ("json", {"temperature": 0.5, "num_predict": 9})
    assert body["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
        {"role": "user", "content": "what is this", "images": ["QUJD"]},
    ]


@pytest.mark.parametrize("remote", ["ollama"], indirect=True)
async def test_ollamas_models_are_described(remote: Case):
    """Size, whether it is in memory, and the name with and without its tag."""
    big, tiny = await remote.provider.models()
    assert (big.name, big.size_bytes, big.status) == ("big:7b", 4_000_000_000, ModelStatus.AVAILABLE)
    assert (tiny.name, tiny.aliases, tiny.status) == ("tiny", ("tiny:latest",), ModelStatus.LOADED)


@pytest.mark.parametrize(
    ("remote", "calls"),
    [
        ("openai", [{"id": "call_0", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}]),
        ("ollama", [{"function": {"name": "f", "arguments": {"a": 1}}}]),
    ],
    indirect=["remote"],
)
async def test_tool_calls_come_back_alike(remote: Case, calls: list[dict[str, object]]):
    """Whoever answers, a tool call looks as the OpenAI API has it."""
    remote.behind.message_extra = {"tool_calls": calls}
    answer = await remote.provider.chat(QUESTION, remote.model)
    expected = {"id": "call_0", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    assert list(answer.choices[0].message.tool_calls) == [expected]
