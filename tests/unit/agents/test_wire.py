"""Model ↔ proto of the agents service."""

import json
from datetime import timedelta

from mesh.agents.v1 import agents_pb2, events_pb2
from mesh.tasks.v1 import events_pb2 as task_events_pb2

from services.agents.model import steps
from services.agents.model.agent import AgentChange, Figures, Measured
from services.agents.model.execution import Answer, News, RunStatus, answer_of
from services.agents.model.order import Order
from services.agents.wire import calls, events
from tests.unit.agents.fakes import NOW, agent, news


def _changed(type_: str, **fields: object) -> task_events_pb2.TaskChanged:
    labels = json.dumps({"execution_id": "e", "run_id": "r"}).encode()
    given = {"kind": "agent.run", "labels": labels, "task_id": "t", "owner_id": "u", "type": type_} | fields
    return task_events_pb2.TaskChanged(**given)  # type: ignore[arg-type]  # the contract's own fields


def _news(type_: str, **fields: object) -> News:
    told = events.to_news(_changed(type_, **fields))
    assert told is not None
    return told


def test_news_is_read_from_task_events():
    """Each end has its status; a time that was over is a timeout whatever the task is called then."""
    assert _news("started").status is RunStatus.RUNNING
    done = _news("succeeded", result=b'{"output": "hi", "model": "m", "tokens": 2}')
    assert (done.execution_id, done.run_id) == ("e", "r")
    assert done.answer == Answer(output="hi", model="m", tokens=2)
    for code, status in (("TIMEOUT", RunStatus.TIMEOUT), ("INVALID_INPUT", RunStatus.FAILED)):
        data = json.dumps({"error": {"code": code, "message": "why"}}).encode()
        told = _news("dead", data=data)
        assert (told.status, told.error) == (status, "why")


def test_other_events_are_no_news():
    """Other kinds, tasks without our labels, and events that change no run."""
    assert events.to_news(_changed("succeeded", kind="automation")) is None
    assert events.to_news(_changed("succeeded", labels=b"")) is None
    assert events.to_news(_changed("succeeded", labels=b'["run_id"]')) is None
    assert events.to_news(_changed("progress")) is None


def test_results_of_any_shape_are_shown():
    """A task that somebody else completed may say anything."""
    assert answer_of(b'"plain"').output == "plain"
    assert answer_of(b"\xff{").output
    assert answer_of(b'{"tokens": -1}').tokens == 0


def test_absent_fields_change_nothing():
    """Presence is what counts, not emptiness."""
    request = agents_pb2.UpdateAgentRequest(id="a", role="", capabilities=agents_pb2.CapabilityList())
    assert calls.from_update(request) == AgentChange(role="", capabilities=())


def test_an_agent_is_served_when_a_runner_is_there():
    """Its port is the runner's, and figures come along."""
    figures = Figures(runs=3, successful_runs=2, last_run_at=NOW)
    seen = calls.to_agent(Measured(agent=agent("a"), figures=figures), 4711)
    assert (seen.served, seen.port, seen.runs, seen.successful_runs) == (True, 4711, 3, 2)
    assert not calls.to_agent(Measured(agent=agent("a"), figures=Figures()), 0).served
    assert not calls.to_agent(Measured(agent=agent("a"), figures=Figures()), 0).HasField("last_run_at")


def test_events_travel_with_their_names():
    """Routing key, type, subject, sequence and a stable id."""
    order = Order(owner_id="u", agent_ids=(), parallel=True, timeout_seconds=1, input="", idempotency_key="")
    step = steps.begin(order, [Measured(agent=agent("a"), figures=Figures())], ["e", "r"], NOW, "00-tp")
    message = events.announce(step.events[0])
    assert (message.routing_key, message.id, message.sequence) == ("agents.execution.started", "e:1", 1)
    assert (message.type, message.traceparent) == ("mesh.agents.v1.ExecutionStarted", "00-tp")
    assert events_pb2.ExecutionStarted.FromString(message.body).agent_count == 1


def test_a_run_lasts_as_long_in_its_record_as_in_its_event():
    """To the millisecond, however it is rounded; it lasts nothing before its end."""
    order = Order(owner_id="u", agent_ids=(), parallel=True, timeout_seconds=1, input="", idempotency_key="")
    execution = steps.begin(order, [Measured(agent=agent("a"), figures=Figures())], ["e", "r"], NOW, "").execution
    for at, status in ((NOW, RunStatus.RUNNING), (NOW + timedelta(microseconds=2_500_900), RunStatus.SUCCESS)):
        assert not calls.to_run(execution.runs[0]).HasField("duration_ms")
        step = steps.hear(execution, news(execution, execution.runs[0], status, at=at), at)
        execution = step.execution
    told = events_pb2.RunFinished.FromString(events.announce(step.events[0]).body)
    assert told.duration_ms == calls.to_run(execution.runs[0]).duration_ms == 2501
