"""Between the contract and the model nothing is lost and nothing is invented."""

from datetime import UTC, datetime

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from mesh.llm.v1 import llm_pb2

from chassis.errors import Invalid
from services.llm import wire
from services.llm.model import (
    Answer,
    Chat,
    Choice,
    Delta,
    Message,
    Model,
    ModelStatus,
    ModelUsage,
    Piece,
    ProviderState,
    Usage,
)

AT = datetime(2026, 1, 2, 3, 4, 5, 600_000, tzinfo=UTC)


def test_a_full_request():
    """Every field arrives, JSON parsed."""
    turn = llm_pb2.Message(role="assistant", name="n", tool_calls=b'[{"id":"1"}]', tool_call_id="t", parts=b'[{"a":1}]')
    request = llm_pb2.ChatRequest(
        model="m", messages=[turn], temperature=0.0, max_tokens=5, top_p=0.5, stop=["x"], seed=-1, choices=2,
        options=b'{"tools": []}', user_id="u", api_key_id="a", idempotency_key="k",
    )  # fmt: skip
    message = Message(role="assistant", name="n", tool_calls=({"id": "1"},), tool_call_id="t", parts=({"a": 1},))
    assert wire.read_chat(request) == Chat(
        model="m", messages=(message,), temperature=0.0, max_tokens=5, top_p=0.5, stop=("x",), seed=-1, choices=2,
        options={"tools": []}, user_id="u", api_key_id="a", idempotency_key="k",
    )  # fmt: skip


def test_what_is_absent_stays_absent():
    """No zero is taken for a wish."""
    chat = wire.read_chat(llm_pb2.ChatRequest(messages=[llm_pb2.Message(role="user", content="hi")]))
    assert chat == Chat(model="", messages=(Message(role="user", content="hi"),))


@pytest.mark.parametrize(
    ("field", "request_"),
    [
        ("options", llm_pb2.ChatRequest(options=b"{")),
        ("options", llm_pb2.ChatRequest(options=b"[]")),
        ("parts", llm_pb2.ChatRequest(messages=[llm_pb2.Message(parts=b'{"a":1}')])),
        ("tool_calls", llm_pb2.ChatRequest(messages=[llm_pb2.Message(tool_calls=b"[1]")])),
    ],
)
def test_bad_json_is_the_callers(field, request_):
    """The error names the field."""
    with pytest.raises(Invalid) as refused:
        wire.read_chat(request_)
    assert refused.value.details == {"field": field}


def test_a_whole_answer():
    """Choices, tool calls, usage, time."""
    message = Message(role="assistant", content="hi", tool_calls=({"id": "1"},))
    answer = Answer(
        id="i", model="m", provider="p", usage=Usage(input_tokens=1, output_tokens=2), created_at=AT,
        choices=(Choice(index=1, message=message, finish_reason="stop"),),
    )  # fmt: skip
    written = wire.write_answer(answer)
    assert written == llm_pb2.ChatResponse(
        id="i", model="m", provider="p", usage=llm_pb2.Usage(input_tokens=1, output_tokens=2),
        created_at=Timestamp(seconds=1_767_323_045, nanos=600_000_000),
        choices=[llm_pb2.Choice(
            index=1, finish_reason="stop",
            message=llm_pb2.Message(role="assistant", content="hi", tool_calls=b'[{"id":"1"}]'),
        )],
    )  # fmt: skip


def test_pieces():
    """Only the last has usage; its absence is visible."""
    delta = Delta(index=1, content="x", tool_calls=({"id": "1"},), finish_reason="stop")
    written = wire.write_piece(Piece(id="i", model="m", provider="p", deltas=(delta,)))
    assert written.deltas[0] == llm_pb2.Delta(index=1, content="x", tool_calls=b'[{"id":"1"}]', finish_reason="stop")
    assert not written.HasField("usage")
    assert wire.write_piece(Piece(id="i", model="m", provider="p", usage=Usage())).HasField("usage")


def test_models_and_providers():
    """Absent times stay absent."""
    written = wire.write_model(Model(name="m", provider="p", size_bytes=7, status=ModelStatus.LOADED, created_at=AT))
    assert (written.name, written.status, written.size_bytes) == ("m", "loaded", 7)
    assert written.HasField("created_at")
    assert not written.HasField("last_used_at")
    state = ProviderState(name="p", available=True, circuit="closed")
    assert wire.write_provider(state) == llm_pb2.Provider(name="p", available=True, circuit="closed")


def test_usage():
    """The sums, and the time they begin at."""
    total = ModelUsage(model="m", requests=1, failures=2, input_tokens=3, output_tokens=4)
    assert wire.write_total(total).output_tokens == 4
    assert wire.read_since(llm_pb2.GetUsageRequest()) is None
    assert wire.read_since(llm_pb2.GetUsageRequest(since=Timestamp(seconds=0))) == datetime(1970, 1, 1, tzinfo=UTC)
    with pytest.raises(Invalid):
        wire.read_since(llm_pb2.GetUsageRequest(since=Timestamp(seconds=10**15)))
