"""The worker protocol: sessions, pointers, claims and outcomes."""

# ruff: noqa: D103 - one function a message and direction; the names say it, and docstrings stand where one raises

from collections.abc import Iterable

from mesh.tasks.v1 import tasks_pb2

from chassis.errors import Invalid
from services.tasks.model.task import Kind, RetryPolicy, TaskError
from services.tasks.model.work import ClaimBatch, Claimed, Failure, Held, Opening, Outcome, OutcomeBatch, Pointer


def opening_from(request: tasks_pb2.OpenSessionRequest) -> Opening:
    return Opening(
        session_id="",
        worker_name=request.worker_name,
        host=request.host,
        slots=request.slots,
        resume_session_id=request.resume_session_id,
        external=request.external,
        kinds=tuple(
            Kind(
                kind=spec.kind,
                group=spec.group,
                max_attempts=spec.default_max_attempts,
                timeout_seconds=spec.default_timeout_seconds,
                max_running=spec.max_running,
                retry=_retry_from(spec),
            )
            for spec in request.kinds
        ),
    )


def _retry_from(spec: tasks_pb2.KindSpec) -> RetryPolicy:
    if not spec.HasField("retry"):
        return RetryPolicy()
    return RetryPolicy(
        base_seconds=spec.retry.base_seconds,
        factor=spec.retry.factor,
        max_seconds=spec.retry.max_seconds,
        jitter=spec.retry.jitter,
    )


def pointer_from(pointer: tasks_pb2.Pointer) -> Pointer:
    return Pointer(task_id=pointer.task_id, attempt=pointer.attempt)


def progress_pointer(request: tasks_pb2.ProgressRequest) -> Pointer:
    return Pointer(task_id=request.task_id, attempt=request.attempt)


def to_pointer(pointer: Pointer | Held) -> tasks_pb2.Pointer:
    return tasks_pb2.Pointer(task_id=pointer.task_id, attempt=pointer.attempt)


def claims_from(request: tasks_pb2.ClaimRequest) -> ClaimBatch:
    return ClaimBatch(session_id=request.session_id, pointers=tuple(map(pointer_from, request.pointers)))


def to_claims(claims: Iterable[Claimed]) -> tasks_pb2.ClaimResponse:
    response = tasks_pb2.ClaimResponse()
    _fill(response, claims)
    return response


def to_offer(claims: Iterable[Claimed], most: int, heard: int) -> tasks_pb2.OfferResponse:
    response = tasks_pb2.OfferResponse(most=most, heard=heard)
    _fill(response, claims)
    return response


def _fill(response: tasks_pb2.ClaimResponse | tasks_pb2.OfferResponse, claims: Iterable[Claimed]) -> None:
    for claimed in claims:
        # Field by field, in its place: to make a message of arguments, and to copy it, costs twice as much.
        message = response.claimed.add()
        message.task_id = claimed.task_id
        message.attempt = claimed.attempt
        message.kind = claimed.kind
        message.payload = claimed.payload
        message.owner_id = claimed.owner_id
        message.timeout_seconds = claimed.timeout_seconds
        message.max_attempts = claimed.max_attempts
        message.traceparent = claimed.traceparent
        message.pointer_attempt = claimed.attempt - 1


def outcomes_from(request: tasks_pb2.FinishRequest) -> OutcomeBatch:
    return OutcomeBatch(session_id=request.session_id, outcomes=tuple(map(_outcome_from, request.outcomes)))


def _outcome_from(outcome: tasks_pb2.Outcome) -> Outcome:
    which = outcome.WhichOneof("outcome")
    if which == "result":
        return Outcome(task_id=outcome.task_id, attempt=outcome.attempt, result=outcome.result)
    if which == "failure":
        failure = Failure(
            error=TaskError(code=outcome.failure.error.code, message=outcome.failure.error.message),
            retryable=outcome.failure.retryable,
            retry_after_seconds=outcome.failure.retry_after_ms / 1000,
        )
        return Outcome(task_id=outcome.task_id, attempt=outcome.attempt, failure=failure)
    if which == "cancelled":
        return Outcome(task_id=outcome.task_id, attempt=outcome.attempt)
    raise Invalid("outcomes: An outcome without a result, a failure or a cancellation", details={"field": "outcomes"})
