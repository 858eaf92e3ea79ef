"""``POST /api/v1/chat/batch``: many messages in one request, answered at once when they are few, else as a task."""

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Annotated, Any

import orjson
from mesh.llm.v1 import llm_pb2, llm_pb2_grpc
from mesh.tasks.v1 import tasks_pb2
from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from chassis.errors import Conflict, Invalid, MeshError
from services.gateway.apis.exchange import Attendance, header, read_body, send_json
from services.gateway.apis.idempotency import IDEMPOTENCY_KEY, idempotency_key
from services.gateway.apis.llm import prompt_tokens
from services.gateway.apis.problems import refused
from services.gateway.apis.special_kinds import BATCH
from services.gateway.apis.submissions import Submissions
from services.gateway.apis.v1 import task_shapes
from services.gateway.apis.v1.chat import ChatAnswer, ChatBody, spoken, to_request
from services.gateway.edge.asgi import Receive, Scope, Send
from services.gateway.edge.body import parse_json
from services.gateway.edge.context import current, require_scope
from services.gateway.edge.errors import PayloadTooLarge
from services.gateway.edge.tokens import Reservation
from services.gateway.identity.model import Principal

# So many are answered while the client waits; more are a task.
_MOST_AT_ONCE = 20
_MOST = 500
# The payload of a task has no more, whoever submits it.
MOST_TASK_BYTES = 256 * 1024
# Of one batch; it holds one place of its user's.
_SIDE_BY_SIDE = 4


class ChatError(TypedDict):
    """Why one of a batch has no answer."""

    code: str
    message: str


class ChatFailure(TypedDict):
    """In the place of the answer that could not be had."""

    error: ChatError


_DESCRIPTION = (
    "Up to 20 messages are answered in their order, each with an answer or an error. More become a task of kind "
    "`llm.batch`, whose result has the same under `items`; as a task they may have 256 KiB together (413). It counts "
    "as one request, and reserves of the caller's tokens a minute the `max_tokens` of every message (2048 where it has "
    "none) and those of its text; of a task none go back. What needs more than a minute has at all is refused as "
    "`TOKENS_BEYOND_LIMIT`."
)
BATCH_BODY: TypeAdapter[list[ChatBody]] = TypeAdapter(
    Annotated[list[ChatBody], Field(min_length=1, max_length=_MOST, title="ChatBatch", description=_DESCRIPTION)]
)
BATCH_ANSWER: TypeAdapter[list[ChatAnswer | ChatFailure]] = TypeAdapter(list[ChatAnswer | ChatFailure])


class ChatBatch:
    """The handler. `timeout_seconds` bounds one answer, not all."""

    def __init__(
        self, llm: "llm_pb2_grpc.LlmServiceAsyncStub", submissions: Submissions, timeout_seconds: float
    ) -> None:
        self._llm = llm
        self._submissions = submissions
        self._timeout_seconds = timeout_seconds

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI handler. Raises what is wrong with the request as a whole; of one item its place in the answer tells."""
        principal = require_scope(scope, "chat")
        bodies = _checked(parse_json(await read_body(receive)))
        key = idempotency_key(header(scope, IDEMPOTENCY_KEY))
        requests = [to_request(body, principal, _item_key(key, index)) for index, body in enumerate(bodies)]
        if len(requests) > _MOST_AT_ONCE:
            await send_json(send, await self._submit(scope, requests, principal, key), 202)
            return
        tokens = current(scope).tokens
        if tokens is not None:
            await tokens.need(sum(prompt_tokens(each) + each.max_tokens for each in requests))
        with Attendance(receive):
            answers = await self._answers(requests, tokens)
        await send_json(send, answers)

    async def _answers(
        self, requests: Sequence[llm_pb2.ChatRequest], tokens: Reservation | None
    ) -> list[ChatAnswer | ChatFailure]:
        room = asyncio.Semaphore(_SIDE_BY_SIDE)

        async def ask(request: llm_pb2.ChatRequest) -> ChatAnswer | ChatFailure | Conflict:
            async with room:
                if tokens is not None:
                    tokens.used += prompt_tokens(request)
                try:
                    response = await self._llm.Chat(request, timeout=self._timeout_seconds)
                except Conflict as error:
                    return error
                except MeshError as error:
                    return ChatFailure(error=ChatError(code=error.code, message=error.message))
                if tokens is not None:
                    tokens.used += spoken(response)["tokens_used"] - prompt_tokens(request)
                return spoken(response)

        async with asyncio.TaskGroup() as group:
            asking = [group.create_task(ask(request)) for request in requests]
        answers: list[ChatAnswer | ChatFailure] = []
        for each in asking:
            answer = each.result()
            if isinstance(answer, Conflict):
                # The key was used for another batch, or that one is under way: this concerns all of them.
                raise answer
            answers.append(answer)
        return answers

    async def _submit(
        self, scope: Scope, requests: Sequence[llm_pb2.ChatRequest], principal: Principal, key: str
    ) -> dict[str, Any]:
        items = [
            {
                "message": request.messages[0].content,
                "model": request.model,
                "temperature": request.temperature,
                "max_tokens": request.max_tokens,
            }
            for request in requests
        ]
        payload = orjson.dumps({"items": items})
        if len(payload) > MOST_TASK_BYTES:
            raise PayloadTooLarge(
                f"More than {_MOST_AT_ONCE} messages become a task, which may have {MOST_TASK_BYTES} bytes; these make "
                f"{len(payload)}: send fewer in one request",
                details={"field": "body", "most_bytes": str(MOST_TASK_BYTES), "bytes": str(len(payload))},
            )
        submission = tasks_pb2.SubmitRequest(
            owner_id=principal.user_id,
            kind=BATCH,
            payload=payload,
            priority=tasks_pb2.PRIORITY_NORMAL,
            idempotency_key=key,
        )
        return task_shapes.accepted(await self._submissions.submit(scope, submission)).model_dump(mode="json")


def _checked(body: Any) -> list[ChatBody]:
    try:
        bodies = BATCH_BODY.validate_python(body, strict=True)
    except ValidationError as error:
        raise refused(error) from None
    for index, each in enumerate(bodies):
        if each["message"].isspace():
            details = {"field": f"{index}.message", "reason": "Message is empty"}
            raise Invalid("Message is empty", details=details)
    return bodies


def _item_key(key: str, index: int) -> str:
    """The key of one item; a digest, because the caller's may be as long as a key can be."""
    return f"batch:{hashlib.sha256(key.encode()).hexdigest()}:{index}" if key else ""
