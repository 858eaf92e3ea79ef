"""The language of worker sockets: JSON objects with a `type`, one a message. Shapes in, documents out; pure.

Worker to gateway: register, accept, reject, progress, result, fail, cancelled, drain, ping, pong.
Gateway to worker: registered, assign, acknowledged, cancel, revoke, lease_lost, drain, drained, ping, pong, error.
"""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from chassis.errors import Invalid
from services.gateway.edge.body import field_path, parse_json

# A frame of a worker, with a result in it.
LARGEST_FRAME_BYTES = 512 * 1024
MOST_KINDS = 50
MOST_SLOTS = 1000

Kind = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]*$")]
TaskId = Annotated[str, StringConstraints(min_length=1, max_length=64)]
AttemptNumber = Annotated[int, Field(ge=1, le=2**31 - 1)]


class ProtocolError(Exception):
    """The worker said what it must not. It is told so and its socket is closed.

    Args:
        code: stable, as in ``OUT_OF_ORDER``.
        message: a sentence for whoever writes the worker.
        close: WebSocket close code.
    """

    def __init__(self, code: str, message: str, close: int = 4400) -> None:
        self.code = code
        self.message = message
        self.close = close
        super().__init__(f"{code}: {message}")


class _Frame(BaseModel):
    model_config = ConfigDict(strict=True)


class Offer(_Frame):
    """A kind that the worker does."""

    kind: Kind
    max_attempts: Annotated[int, Field(ge=1, le=100)] = 3
    timeout_seconds: Annotated[int, Field(ge=1, le=604_800)] = 300
    max_running: Annotated[int, Field(ge=0, le=1_000_000)] = 0


class Register(_Frame):
    """First of all. `session_id` is of one to go on with: its lease runs for two seconds after its socket."""

    type: Literal["register"]
    kinds: list[Kind | Offer] = Field(min_length=1, max_length=MOST_KINDS)
    slots: Annotated[int, Field(ge=1, le=MOST_SLOTS)] = 1
    session_id: Annotated[str, StringConstraints(max_length=64)] = ""
    version: Annotated[str, StringConstraints(max_length=100)] = ""

    def offers(self) -> list[Offer]:
        """The kinds with their figures."""
        return [each if isinstance(each, Offer) else Offer(kind=each) for each in self.kinds]


class _OfAttempt(_Frame):
    task_id: TaskId
    attempt: AttemptNumber


class Accept(_OfAttempt):
    """The worker begins."""

    type: Literal["accept"]


class Reject(_OfAttempt):
    """The worker will not do it; another may."""

    type: Literal["reject"]
    reason: Annotated[str, StringConstraints(max_length=1000)] = ""


class Progress(_OfAttempt):
    """How far it is. `partial` is what there is of the result so far."""

    type: Literal["progress"]
    progress: Annotated[float, Field(ge=0, le=1, strict=False)]
    message: Annotated[str, StringConstraints(max_length=1000)] = ""
    partial: Any = None


class Result(_Frame):
    """It is done. Workers that know nothing of attempts leave `type` and `attempt` out."""

    type: Literal["result"] = "result"
    task_id: TaskId
    attempt: AttemptNumber | None = None
    result: Any


class Problem(_Frame):
    """Why it is not done."""

    code: Annotated[str, StringConstraints(min_length=1, max_length=100)] = "WORKER_ERROR"
    message: Annotated[str, StringConstraints(max_length=4000)] = ""


class Fail(_OfAttempt):
    """It could not be done, now or ever."""

    type: Literal["fail"]
    error: Problem = Problem()
    retryable: bool = True
    retry_after_seconds: Annotated[float, Field(ge=0, le=86_400, strict=False)] = 0.0


class Cancelled(_OfAttempt):
    """The worker stopped because it was asked to."""

    type: Literal["cancelled"]


class Plain(_Frame):
    """What has nothing more to say."""

    type: Literal["drain", "ping", "pong"]


Said = Register | Accept | Reject | Progress | Result | Fail | Cancelled | Plain
OfAttempt = Accept | Reject | Progress | Fail | Cancelled
_SAID: TypeAdapter[Said] = TypeAdapter(
    Annotated[Register | Accept | Reject | Progress | Result | Fail | Cancelled | Plain, Field(discriminator="type")]
)


def parse(text: str) -> Said:
    """What a worker said. Raises ProtocolError."""
    if len(text) > LARGEST_FRAME_BYTES or len(encoded := text.encode(errors="replace")) > LARGEST_FRAME_BYTES:
        raise ProtocolError("FRAME_TOO_LARGE", f"At most {LARGEST_FRAME_BYTES} bytes a frame", close=1009)
    try:
        value = parse_json(encoded)
    except Invalid as error:
        raise ProtocolError("INVALID_JSON", error.message) from None
    if not isinstance(value, dict):
        raise ProtocolError("INVALID_FRAME", "A frame is a JSON object")
    if "type" not in value and "result" in value:
        value["type"] = "result"
    try:
        return _SAID.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        # The first part is the type, by which the shape was chosen.
        field = field_path(first["loc"][1:]) or "type"
        raise ProtocolError("INVALID_FRAME", f"{field}: {first['msg']}") from None


def encode(kind: str, **fields: Any) -> str:
    """A frame to a worker."""
    return orjson.dumps({"type": kind, **fields}).decode()


def attempts(keys: Iterable[tuple[str, int]]) -> list[dict[str, Any]]:
    """Attempts as frames name them."""
    return [{"task_id": task_id, "attempt": attempt} for task_id, attempt in keys]
