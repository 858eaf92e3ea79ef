"""What owners of executions and agents are told by webhook, and how it reaches the tasks service."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from mesh.tasks.v1 import webhooks_pb2
from prometheus_client import CollectorRegistry

from chassis.errors import Invalid, MeshError, Unavailable
from chassis.messaging.message import Message
from services.agents.model import steps
from services.agents.model.agent import Figures, Measured
from services.agents.model.execution import Answer, Event, RunStatus, Step
from services.agents.model.order import Order
from services.agents.peers import Webhooks
from services.agents.wire import webhooks
from tests.unit.agents.fakes import NOW, agent, news

# The contract's bound on `data`.
_MOST_DATA_BYTES = 16 * 1024


def _begun(owner_id: str = "u") -> Step:
    order = Order(owner_id=owner_id, agent_ids=(), parallel=True, timeout_seconds=1, input="", idempotency_key="")
    return steps.begin(order, [Measured(agent=agent("a"), figures=Figures())], ["e", "r"], NOW, "00-tp")


def _ended(status: RunStatus = RunStatus.SUCCESS, **given: Any) -> list[Event]:
    execution = _begun().execution
    told = news(execution, execution.runs[0], status, started_at=NOW, **given)
    return list(steps.hear(execution, told, NOW).events)


def _event(message: Message | None) -> tuple[webhooks_pb2.WebhookEvent, dict[str, Any]]:
    assert message is not None
    event = webhooks_pb2.WebhookEvent.FromString(message.body)
    return event, json.loads(event.data)


def test_a_finished_run_is_told_in_the_documented_keys():
    """Exactly those, with an answer that is an object as it is."""
    event, data = _event(
        webhooks.tell_owner(_ended(answer=Answer(output='{"savings_identified": 12345678901234567890123}'))[0])
    )
    assert (event.type, event.owner_id) == ("agent.execution.completed", "u")
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,100}", event.id)
    assert data == {
        "execution_id": "e",
        "agent_id": "a",
        "agent_name": "a",
        "status": "success",
        "duration_ms": 0,
        "result": {"savings_identified": 12345678901234567890123},
    }


@pytest.mark.parametrize("status", [RunStatus.FAILED, RunStatus.TIMEOUT, RunStatus.CANCELLED])
def test_every_other_end_is_a_failure_with_its_reason(status: RunStatus):
    """The status says which."""
    event, data = _event(webhooks.tell_owner(_ended(status, error="why" * 9_999)[0]))
    assert event.type == "agent.execution.failed"
    assert len(event.data) <= _MOST_DATA_BYTES
    assert (data["status"], data["result"]["error"][:6]) == (status.value, "whywhy")


@pytest.mark.parametrize(
    "output",
    ["plain", "[1]", "{", '{"a": NaN}', '{"a": "\\ud800"}', '{"a": "\\u0000"}', '{"a": %s}' % ("[" * 62 + "]" * 62)],
)
def test_an_answer_that_is_no_object_is_put_into_one(output: str):
    """Also one that only looks like it, or that no receiver could read."""
    _, data = _event(webhooks.tell_owner(_ended(answer=Answer(output=output))[0]))
    assert data["result"] == {"output": output}


@pytest.mark.parametrize("output", ["x" * 20_000, "\x01" * 20_000, "€" * 20_000, '{"long": "%s"}' % ("x" * 20_000)])
def test_a_long_answer_is_cut(output: str):
    """To what an event may hold, and it says so."""
    event, data = _event(webhooks.tell_owner(_ended(answer=Answer(output=output))[0]))
    assert len(event.data) <= _MOST_DATA_BYTES
    assert data["result"]["truncated"]
    assert output.startswith(data["result"]["output"])


def test_an_answer_that_would_grow_stays_text():
    """Numbers with exponents are written out in what is signed."""
    output = json.dumps({"many": ["x"] * 900}).replace('"x"', "1e20")
    _, data = _event(webhooks.tell_owner(_ended(answer=Answer(output=output))[0]))
    assert data["result"] == {"output": output}


def test_executions_are_told_from_their_start_to_their_end():
    """Under ids that are the same whenever they are made."""
    begun, ended = _begun().events[0], _ended()[-1]
    (started, data), (completed, figures) = _event(webhooks.tell_owner(begun)), _event(webhooks.tell_owner(ended))
    assert (started.type, started.id, data["agent_count"]) == ("execution.started", "e-1", 1)
    assert (completed.type, completed.id) == ("execution.completed", "e-3")
    assert figures == {"execution_id": "e", "status": "completed", "total_agents": 1, "successful": 1, "failed": 0}


def test_a_new_agent_is_told_to_whoever_made_it():
    """With its name."""
    event, data = _event(webhooks.tell_owner_of_agent(agent("a", name="Ada")))
    assert (event.type, event.owner_id, data) == ("agent.created", "admin", {"agent_id": "a", "name": "Ada"})


def test_without_an_owner_nobody_is_told():
    """Nobody could have a webhook for it."""
    assert webhooks.tell_owner(_begun("").events[0]) is None


class _Service:
    """Takes what it is given unless it is told to refuse."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.calls: list[int] = []
        self.refuses = ""
        self.error: MeshError | None = None

    async def Emit(self, request: webhooks_pb2.EmitRequest) -> webhooks_pb2.EmitResponse:  # noqa: N802 - the contract's name
        self.calls.append(len(request.events))
        ids = [event.id for event in request.events]
        if self.error is not None:
            raise self.error
        if self.refuses in ids:
            raise Invalid
        self.taken += ids
        return webhooks_pb2.EmitResponse()


def _messages(count: int) -> list[Message]:
    begun = _begun()
    events = (replace(begun.events[0], sequence=number) for number in range(1, count + 1))
    return [message for event in events if (message := webhooks.tell_owner(event)) is not None]


def _hooks(service: _Service, registry: CollectorRegistry | None = None) -> Webhooks:
    return Webhooks(service, registry or CollectorRegistry())  # type: ignore[arg-type]  # a stand-in


async def test_events_go_in_bounded_calls():
    """In order, whatever their number."""
    service = _Service()
    assert await _hooks(service).publish_many(_messages(250)) == [True] * 250
    assert service.calls == [100, 100, 50]
    assert service.taken == [f"e-{number}" for number in range(1, 251)]


async def test_an_event_that_is_refused_is_dropped_and_holds_up_no_other():
    """It would be refused for ever; a figure tells of it."""
    service, registry = _Service(), CollectorRegistry()
    service.refuses = "e-2"
    assert await _hooks(service, registry).publish_many(_messages(3)) == [True] * 3
    assert service.taken == ["e-1", "e-3"]
    assert registry.get_sample_value("mesh_agents_webhook_events_refused_total") == 1


@pytest.mark.parametrize("error", [Unavailable(), MeshError()])
async def test_a_service_that_does_not_take_them_is_away(error: MeshError):
    """Whatever it says: the relay waits and comes again."""
    service = _Service()
    service.error = error
    with pytest.raises(Unavailable):
        await _hooks(service).publish_many(_messages(2))
