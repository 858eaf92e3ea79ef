"""What is refused before anything is written: fields out of range, documents that are not clean JSON, foreign ids."""

import hashlib
import re
from datetime import UTC, datetime, timedelta

import orjson

from chassis.errors import Invalid
from services.tasks.model.states import Join, Priority
from services.tasks.model.task import Draft, Kind, RetryPolicy, Submission, TaskError

MOST_PAYLOAD_BYTES = 256 * 1024
MOST_LABEL_BYTES = 16 * 1024
MOST_RESULT_BYTES = 4 * 1024 * 1024
MOST_PARTIAL_BYTES = 64 * 1024
MOST_DEPTH = 64
MOST_ATTEMPTS = 100
MOST_TIMEOUT_SECONDS = 7 * 24 * 3600
MOST_RUNNING = 1_000_000
MOST_PREREQUISITES = 100
_MOST_CHANNEL = 50
_MOST_RETRY_BASE_SECONDS = 86_400
_MOST_RETRY_FACTOR = 10
_MOST_RETRY_SECONDS = 604_800
_MOST_AHEAD = timedelta(days=366)
_MOST_NAME = 200
_MOST_TEXT = 4000

PAGE, MOST_PER_PAGE = 20, 1000
_MOST_OFFSET = 1_000_000

_TASK_ID = re.compile(r"task_[0-9A-HJKMNP-TV-Z]{26}\Z")
_SCHEDULE_ID = re.compile(r"sched_[0-9A-HJKMNP-TV-Z]{26}\Z")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:\-]{0,99}\Z")
_GROUP = re.compile(r"[a-z0-9][a-z0-9_\-]{0,49}\Z")
_NUL_ESCAPE = b"\\u0000"
# Looping over an enum costs more than all other checks of a field together.
_PRIORITIES = frozenset({0, *Priority})
_JOINS = frozenset({0, *Join})


def is_task_id(value: str) -> bool:
    """Whether it can be a task's id at all; what cannot needs no look-up."""
    return _TASK_ID.match(value) is not None


def is_schedule_id(value: str) -> bool:
    """The same for schedules."""
    return _SCHEDULE_ID.match(value) is not None


def check_page(offset: int, limit: int) -> None:
    """Raises Invalid for a page that is too large or too far away."""
    if limit > MOST_PER_PAGE:
        raise _bad("limit", f"At most {MOST_PER_PAGE}")
    if offset > _MOST_OFFSET:
        raise _bad("offset", f"At most {_MOST_OFFSET}")


def check_draft(draft: Draft, kind: Kind, task_id: str, now: datetime) -> Submission:
    """The submission that a draft of a known kind makes. Raises Invalid with the field in its details."""
    check_text("owner_id", draft.owner_id, required=True)
    check_text("idempotency_key", draft.idempotency_key)
    payload = check_document("payload", draft.payload, MOST_PAYLOAD_BYTES)
    if draft.labels and not isinstance(check_document("labels", draft.labels, MOST_LABEL_BYTES), dict):
        raise _bad("labels", "Labels are a JSON object")
    if draft.priority not in _PRIORITIES:
        raise _bad("priority", "Unknown priority")
    if draft.max_attempts > MOST_ATTEMPTS:
        raise _bad("max_attempts", f"At most {MOST_ATTEMPTS} attempts")
    if draft.timeout_seconds > MOST_TIMEOUT_SECONDS:
        raise _bad("timeout_seconds", f"At most {MOST_TIMEOUT_SECONDS} seconds")
    _check_times(draft, now)
    check_text("unique_key", draft.unique_key)
    _check_run_after(draft)
    return Submission(
        task_id=task_id,
        owner_id=draft.owner_id,
        kind=kind.kind,
        group=kind.group,
        priority=Priority(draft.priority) if draft.priority else Priority.NORMAL,
        payload=draft.payload,
        labels=draft.labels,
        max_attempts=draft.max_attempts or kind.max_attempts,
        timeout_seconds=draft.timeout_seconds or kind.timeout_seconds,
        run_at=draft.run_at,
        deadline_at=draft.deadline_at,
        traceparent=draft.traceparent,
        idempotency_key=draft.idempotency_key,
        fingerprint=_fingerprint(draft) if draft.idempotency_key else b"",
        channel=channel_of(payload),
        run_after=tuple(dict.fromkeys(draft.run_after)) if draft.run_after else (),
        join_any=draft.join == Join.ANY,
        unique_key=draft.unique_key,
        schedule_id=draft.schedule_id,
    )


def channel_of(payload: object) -> str:
    """The channel that a customer came through, as the payload has it; empty for none."""
    channel = payload.get("channel") if isinstance(payload, dict) else None
    return channel if isinstance(channel, str) and len(channel) <= _MOST_CHANNEL else ""


def check_document(field: str, value: bytes, most_bytes: int) -> object:
    """The parsed document. Raises Invalid unless it is JSON in clean UTF-8, not too large or deep, and without NUL."""
    if len(value) > most_bytes:
        raise _bad(field, f"At most {most_bytes} bytes", code="PAYLOAD_TOO_LARGE")
    try:
        # Strict: no NaN, no lone surrogates, no broken UTF-8, and an error of its own for absurd depth.
        parsed = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise _bad(field, f"Not a JSON document: {error.msg}") from error
    # Nothing is walked unless it could be too deep, or could hold a NUL, which only comes in as an escape.
    if value.count(b"[") + value.count(b"{") > MOST_DEPTH or _NUL_ESCAPE in value:
        _walk(field, parsed)
    return parsed


def check_text(field: str, value: str, *, required: bool = False, most: int = _MOST_NAME) -> None:
    """Raises Invalid for text that is missing, too long, or holds a NUL, which Postgres cannot keep."""
    if not value:
        if required:
            raise _bad(field, "It must not be empty")
        return
    if len(value) > most or "\x00" in value:
        raise _bad(field, f"Text of at most {most} characters without NUL")


def check_kind(kind: Kind) -> None:
    """Raises Invalid for a kind that a worker may not announce."""
    if not _NAME.match(kind.kind):
        raise _bad("kind", "Kinds are letters, digits and _.:-, at most 100 of them")
    if not _GROUP.match(kind.group):
        raise _bad("group", "Groups are small letters, digits, _ and -, at most 50 of them")
    if not 1 <= kind.max_attempts <= MOST_ATTEMPTS:
        raise _bad("default_max_attempts", f"Between 1 and {MOST_ATTEMPTS}")
    if not 1 <= kind.timeout_seconds <= MOST_TIMEOUT_SECONDS:
        raise _bad("default_timeout_seconds", f"Between 1 and {MOST_TIMEOUT_SECONDS}")
    if kind.max_running > MOST_RUNNING:
        raise _bad("max_running", f"At most {MOST_RUNNING}")
    _check_retry(kind.retry)


def _check_retry(retry: RetryPolicy) -> None:
    # Written so that what is no number fails too.
    if not 0 < retry.base_seconds <= _MOST_RETRY_BASE_SECONDS:
        raise _bad("retry.base_seconds", f"Above 0, at most {_MOST_RETRY_BASE_SECONDS}")
    if not 1 <= retry.factor <= _MOST_RETRY_FACTOR:
        raise _bad("retry.factor", f"Between 1 and {_MOST_RETRY_FACTOR}")
    if not retry.base_seconds <= retry.max_seconds <= _MOST_RETRY_SECONDS:
        raise _bad("retry.max_seconds", f"Between base_seconds and {_MOST_RETRY_SECONDS}")
    if not 0 <= retry.jitter <= 1:
        raise _bad("retry.jitter", "Between 0 and 1")


def clean_error(error: TaskError) -> TaskError:
    """A worker's error as it can be kept: handlers put anything into their messages."""
    return TaskError(code=clean_text(error.code, _MOST_NAME) or "HANDLER_ERROR", message=clean_text(error.message))


def clean_text(value: str, most: int = _MOST_TEXT) -> str:
    """Text without NUL, cut to a length."""
    return value[:most].replace("\x00", "\ufffd")


def _check_times(draft: Draft, now: datetime) -> None:
    for field, at in (("run_at", draft.run_at), ("deadline_at", draft.deadline_at)):
        if at is not None and at > now + _MOST_AHEAD:
            raise _bad(field, "At most a year ahead")
    # A start that lies in the past means "now", also after a slow way here; a deadline that does means nothing.
    if draft.deadline_at is not None and draft.deadline_at <= max(now, draft.run_at or now):
        raise _bad("deadline_at", "It must lie ahead, and after run_at")


def _check_run_after(draft: Draft) -> None:
    if draft.join not in _JOINS:
        raise _bad("join", "Unknown join")
    if len(draft.run_after) > MOST_PREREQUISITES:
        raise _bad("run_after", f"At most {MOST_PREREQUISITES} tasks")
    for task_id in draft.run_after:
        if not is_task_id(task_id):
            shown = clean_text(task_id, _MOST_NAME)
            raise Invalid(
                f"run_after: There is no task {shown}",
                code="UNKNOWN_PREREQUISITE",
                details={"field": "run_after", "task_id": shown},
            )


def _fingerprint(draft: Draft) -> bytes:
    digest = hashlib.sha256()
    for part in (
        draft.kind.encode(),
        draft.payload,
        draft.labels,
        str((draft.priority, draft.max_attempts, draft.timeout_seconds)).encode(),
        _stamp(draft.run_at),
        _stamp(draft.deadline_at),
        # Left out where there are none, so that a key means the same as before there were any.
        *(
            (str((draft.run_after, draft.join, draft.unique_key)).encode(),)
            if draft.run_after or draft.unique_key
            else ()
        ),
    ):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()


def _stamp(at: datetime | None) -> bytes:
    return b"" if at is None else at.astimezone(UTC).isoformat().encode()


def _walk(field: str, document: object) -> None:
    level: list[object] = [document]
    for _ in range(MOST_DEPTH):
        texts = [item for item in level if isinstance(item, str)]
        texts += [key for item in level if isinstance(item, dict) for key in item]
        if any("\x00" in text for text in texts):
            raise _bad(field, "A NUL character")
        level = [part for item in level for part in _parts(item)]
        if not level:
            return
    raise _bad(field, f"Nested deeper than {MOST_DEPTH} levels")


def _parts(item: object) -> list[object]:
    if isinstance(item, dict):
        return list(item.values())
    return item if isinstance(item, list) else []


def _bad(field: str, message: str, code: str = "") -> Invalid:
    return Invalid(f"{field}: {message}", code=code, details={"field": field})
