"""What owners are told by webhook: events of the contract `mesh.tasks.v1.WebhookService`, as rows of an outbox."""

import re
from datetime import datetime
from typing import Any

import orjson
from mesh.tasks.v1 import webhooks_pb2

from chassis.messaging.message import Message
from services.agents.model.agent import Agent
from services.agents.model.execution import Event, EventType, Run, RunStatus
from services.agents.wire.events import SOURCE
from services.agents.wire.times import stamp

_STARTED, _COMPLETED = "execution.started", "execution.completed"
_RUN_COMPLETED, _RUN_FAILED = "agent.execution.completed", "agent.execution.failed"
_CREATED = "agent.created"
# The webhooks' contract takes 16 KiB of data; the rest of it is names and figures.
_MOST_RESULT_BYTES = 15 * 1024
_EXPONENT = re.compile(r"[0-9][eE]")
# In the worst case a character takes six bytes.
_MOST_CHARACTERS = _MOST_RESULT_BYTES // 6
# Of an answer; the contract takes 64 levels in all.
_MOST_DEPTH = 60


def tell_owner_of_agent(agent: Agent) -> Message | None:
    """The webhook event of a new agent, for whoever made it."""
    data = {"agent_id": agent.id, "name": agent.name}
    return _hook(_CREATED, data, owner_id=agent.created_by, subject=agent.id, sequence=1, at=agent.created_at)


def tell_owner(event: Event) -> Message | None:
    """The webhook event for whoever started the execution; its id is the same whenever it is made again."""
    execution = event.execution
    type_, data = _told(event)
    return _hook(
        type_,
        data,
        owner_id=execution.order.owner_id,
        subject=execution.id,
        sequence=event.sequence,
        at=event.at,
        traceparent=execution.traceparent,
    )


def _told(event: Event) -> tuple[str, dict[str, Any]]:
    """Type and data of a webhook event, in the names of the AI OS API."""
    execution, run = event.execution, event.run
    if run is not None:
        type_ = _RUN_COMPLETED if run.status is RunStatus.SUCCESS else _RUN_FAILED
        return type_, {
            "execution_id": execution.id,
            "agent_id": run.agent_id,
            "agent_name": run.agent_name,
            "status": run.status.value,
            "duration_ms": run.duration_ms,
            "result": _result(run),
        }
    total = len(execution.runs)
    if event.type is EventType.STARTED:
        started = {"execution_id": execution.id, "agent_count": total, "parallel": execution.order.parallel}
        return _STARTED, started
    return _COMPLETED, {
        "execution_id": execution.id,
        "status": execution.status.value,
        "total_agents": total,
        "successful": execution.successful,
        "failed": total - execution.successful,
    }


def _result(run: Run) -> dict[str, Any] | orjson.Fragment:
    """What came of a run as an object: an answer that is one stands as it is, to the last digit."""
    if run.status is not RunStatus.SUCCESS:
        return {"error": run.error[:_MOST_CHARACTERS]}
    # In canonical form 1e20 takes five times its length.
    most_bytes = _MOST_RESULT_BYTES // 5 if _EXPONENT.search(run.output) else _MOST_RESULT_BYTES
    if len(run.output.encode()) <= most_bytes and _is_object(run.output):
        return orjson.Fragment(run.output)
    result = {"output": run.output}
    if len(orjson.dumps(result)) <= _MOST_RESULT_BYTES:
        return result
    return {"output": run.output[:_MOST_CHARACTERS], "truncated": True}


def _is_object(text: str) -> bool:
    """Whether a text is a JSON object that every receiver can read: without NUL, and of moderate depth."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return isinstance(value, dict) and "\\u0000" not in text and _is_shallow(value)


def _is_shallow(value: object) -> bool:
    level = [value]
    for _ in range(_MOST_DEPTH):
        level = [part for item in level for part in _parts(item)]
        if not level:
            return True
    return False


def _parts(item: object) -> list[object]:
    if isinstance(item, dict):
        return list(item.values())
    return item if isinstance(item, list) else []


def _hook(
    type_: str,
    data: dict[str, Any],
    *,
    owner_id: str,
    subject: str,
    sequence: int,
    at: datetime,
    traceparent: str = "",
) -> Message | None:
    if not owner_id:
        return None
    body = webhooks_pb2.WebhookEvent(
        id=f"{subject}-{sequence}", owner_id=owner_id, type=type_, at=stamp(at), data=orjson.dumps(data)
    )
    return Message(
        # No exchange: it goes to the tasks service.
        exchange="",
        routing_key=type_,
        type=body.DESCRIPTOR.full_name,
        body=body.SerializeToString(),
        id=body.id,
        time=at,
        source=SOURCE,
        subject=subject,
        sequence=sequence,
        traceparent=traceparent,
    )
