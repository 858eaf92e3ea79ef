"""The ports over other services: tasks, which keeps and hands out the work, and llm, which thinks."""

import json
from collections.abc import Sequence
from datetime import UTC

from mesh.llm.v1 import llm_pb2, llm_pb2_grpc
from mesh.tasks.v1 import tasks_pb2, tasks_pb2_grpc, webhooks_pb2, webhooks_pb2_grpc
from prometheus_client import CollectorRegistry, Counter

from chassis import telemetry
from chassis.errors import Conflict, Invalid, MeshError, Unavailable
from chassis.logging import get_logger
from chassis.messaging.message import Message
from services.agents.model.agent import Question
from services.agents.model.execution import Answer, Execution, News, Run, RunStatus, answer_of, failed_as

log = get_logger(__name__)

AGENT_RUN = "agent.run"
# In one call: the contract takes a thousand, and a message of four megabytes; one event has at most 16 KiB.
_EMITTED_AT_ONCE = 100
# Short, because a caller waits for it and what is not submitted now is submitted by the repair.
_SUBMIT_TIMEOUT_SECONDS = 3.0

_STATUS = {
    tasks_pb2.STATE_SCHEDULED: RunStatus.PENDING,
    tasks_pb2.STATE_QUEUED: RunStatus.PENDING,
    tasks_pb2.STATE_RUNNING: RunStatus.RUNNING,
    tasks_pb2.STATE_SUCCEEDED: RunStatus.SUCCESS,
    tasks_pb2.STATE_FAILED: RunStatus.FAILED,
    tasks_pb2.STATE_DEAD: RunStatus.FAILED,
    tasks_pb2.STATE_CANCELLED: RunStatus.CANCELLED,
    tasks_pb2.STATE_EXPIRED: RunStatus.TIMEOUT,
}


class TasksPeer:
    """`services.agents.ports.Tasks` over gRPC."""

    def __init__(self, stub: "tasks_pb2_grpc.TaskServiceAsyncStub") -> None:
        self._stub = stub

    async def submit(self, execution: Execution, run: Run) -> str:
        order = execution.order
        payload = {"agent_id": run.agent_id, "run_id": run.id, "input": order.input}
        labels = {"execution_id": execution.id, "run_id": run.id, "title": f"Run of {run.agent_name}"}
        request = tasks_pb2.SubmitRequest(
            kind=AGENT_RUN,
            payload=json.dumps(payload).encode(),
            owner_id=order.owner_id,
            timeout_seconds=order.timeout_seconds,
            idempotency_key=f"{execution.id}:{run.agent_id}",
            labels=json.dumps(labels).encode(),
        )
        if run.deadline_at is not None:
            request.deadline_at.FromDatetime(run.deadline_at)
        # The task belongs to the trace of the request that wanted the execution, also when it is submitted later.
        with telemetry.span("submit agent.run", telemetry.INTERNAL, execution.traceparent):
            try:
                response = await self._stub.Submit(request, timeout=_SUBMIT_TIMEOUT_SECONDS)
            except Invalid as error:
                if error.code != "UNKNOWN_KIND":
                    raise
                # True only until the first runner of this service has announced itself.
                raise Unavailable(private=str(error), retry_after_seconds=1.0) from error
        return response.task.id

    async def look(self, execution: Execution, run: Run) -> News:
        request = tasks_pb2.GetTaskRequest(id=run.task_id, owner_id=execution.order.owner_id)
        task = (await self._stub.GetTask(request)).task
        status = _STATUS[task.state]
        ended = status.is_end
        at = task.finished_at if ended else task.started_at
        return News(
            execution_id=execution.id,
            run_id=run.id,
            task_id=task.id,
            owner_id=task.owner_id,
            status=failed_as(task.error.code) if status is RunStatus.FAILED else status,
            at=at.ToDatetime(UTC),
            started_at=task.started_at.ToDatetime(UTC) if task.HasField("started_at") else None,
            answer=answer_of(task.result) if status is RunStatus.SUCCESS else None,
            error=task.error.message,
            is_whole=True,
        )

    async def cancel(self, execution: Execution, run: Run) -> None:
        request = tasks_pb2.CancelTaskRequest(id=run.task_id, owner_id=execution.order.owner_id)
        try:
            await self._stub.CancelTask(request)
        except Conflict:
            # It has ended already; how, the news of it tells.
            return


class Webhooks:
    """Where the outbox for owners goes: the tasks service, which delivers to their webhooks. An event is taken once."""

    def __init__(self, stub: "webhooks_pb2_grpc.WebhookServiceAsyncStub", registry: CollectorRegistry) -> None:
        self._stub = stub
        self._refused = Counter(
            "mesh_agents_webhook_events_refused", "Events for owners that were dropped as invalid", registry=registry
        )

    async def publish_many(self, messages: Sequence[Message]) -> list[bool]:
        """Each is committed there then, or refused for good and needs no other try. Raises Unavailable."""
        for start in range(0, len(messages), _EMITTED_AT_ONCE):
            await self._emit(messages[start : start + _EMITTED_AT_ONCE])
        return [True] * len(messages)

    async def _emit(self, messages: Sequence[Message]) -> None:
        events = [webhooks_pb2.WebhookEvent.FromString(message.body) for message in messages]
        try:
            await self._stub.Emit(webhooks_pb2.EmitRequest(events=events))
        except Invalid:
            if len(messages) > 1:
                # One that is refused must not hold up the others.
                for message in messages:
                    await self._emit([message])
                return
            # What breaks the contract breaks it at every try.
            self._refused.inc()
            event = messages[0]
            log.exception("A webhook event is refused and dropped", event_id=event.id, type=event.routing_key)
        except MeshError as error:
            raise Unavailable(private=str(error)) from error


class LlmPeer:
    """`services.agents.ports.Models` over gRPC."""

    def __init__(self, stub: "llm_pb2_grpc.LlmServiceAsyncStub") -> None:
        self._stub = stub

    async def ask(self, question: Question, *, user_id: str, key: str, timeout_seconds: float) -> Answer:
        request = llm_pb2.ChatRequest(
            model=question.model,
            messages=[
                llm_pb2.Message(role="system", content=question.system),
                llm_pb2.Message(role="user", content=question.user),
            ],
            user_id=user_id,
            idempotency_key=key,
        )
        response = await self._stub.Chat(request, timeout=timeout_seconds)
        output = response.choices[0].message.content if response.choices else ""
        tokens = response.usage.input_tokens + response.usage.output_tokens
        return Answer(output=output, model=response.model, tokens=tokens)
