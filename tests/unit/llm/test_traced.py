"""Spans by the conventions for generative AI, asserted by their names."""

from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from chassis import telemetry
from chassis.errors import Unavailable
from services.llm.model import Chat, Message
from services.llm.providers.traced import Traced
from tests.unit.llm.fakes import FakeProvider

CHAT = Chat(model="", messages=(Message(role="user", content="hi"),), temperature=0.5, max_tokens=9, choices=2)
ASKED = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "gcp.gemini",
    "gen_ai.request.model": "m",
    "gen_ai.request.temperature": 0.5,
    "gen_ai.request.max_tokens": 9,
    "gen_ai.request.choice.count": 2,
}
ANSWERED = {"gen_ai.response.model": "m", "gen_ai.usage.input_tokens": 3, "gen_ai.usage.output_tokens": 2}


class Spans:
    """What was exported."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    @property
    def only(self) -> ReadableSpan:
        [span] = self._exporter.get_finished_spans()
        return span


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    """Every span of this test, inside a sampled request."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(telemetry, "_tracer", provider.get_tracer("test"))
    token = telemetry.use_traceparent(telemetry.new_traceparent(sampled=True))
    yield Spans(exporter)
    telemetry.drop_traceparent(token)


async def test_an_answer_is_a_span(spans: Spans):
    """Named after the model, with what was asked and what it came to."""
    await Traced(FakeProvider("gemini", "m")).chat(CHAT, "m")
    assert (spans.only.name, spans.only.kind) == ("chat m", SpanKind.CLIENT)
    answered = {"gen_ai.response.id": "answer-1", "gen_ai.response.finish_reasons": ("stop",), **ANSWERED}
    assert dict(spans.only.attributes or {}) == {**ASKED, "gen_ai.request.stream": False, **answered}


async def test_a_stream_is_a_span(spans: Spans):
    """It ends with the stream."""
    _ = [piece async for piece in Traced(FakeProvider("gemini", "m")).stream(CHAT, "m")]
    answered = {"gen_ai.response.id": "answer", "gen_ai.response.finish_reasons": (), **ANSWERED}
    assert dict(spans.only.attributes or {}) == {**ASKED, "gen_ai.request.stream": True, **answered}


async def test_a_failure_marks_its_span(spans: Spans):
    """And passes through as it is."""
    provider = FakeProvider("openai", "m")
    provider.error = Unavailable()
    with pytest.raises(Unavailable):
        await Traced(provider).chat(CHAT, "m")
    assert spans.only.status.status_code is StatusCode.ERROR
