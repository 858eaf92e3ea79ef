"""The only error vocabulary of the mesh, without a word about transports.

    MeshError
    ├── Invalid            the request is wrong and will stay wrong
    ├── Unauthenticated    no credential, or a bad one
    ├── Forbidden          the credential does not allow it
    ├── NotFound
    ├── Conflict           the state of things does not allow it
    ├── Exhausted          a limit is reached; `retry_after_seconds` says when to come back
    ├── Unavailable        something behind us is away; `retry_after_seconds` says when to come back
    ├── DeadlineExceeded   the time the caller gave is over
    └── Internal           our fault

Each boundary has one table that translates: `chassis.rpc.status` (gRPC), the gateway's dialects (JSON). Handlers
raise; they never catch, log and raise again.
"""

from collections.abc import Mapping


class MeshError(Exception):
    """An error with a stable code, a public message and a private detail for the log.

    Args:
        message: for the caller: a sentence without internals.
        code: stable and part of the contract, as in ``TASK_NOT_FOUND``; the class's own when absent.
        details: for the caller: names and values, as in ``{"field": "model"}``.
        private: for the log alone.
        retry_after_seconds: when the same request may succeed; None when nobody knows.
    """

    default_code = "INTERNAL"
    default_message = "Internal error"

    def __init__(
        self,
        message: str = "",
        *,
        code: str = "",
        details: Mapping[str, str] | None = None,
        private: str = "",
        retry_after_seconds: float | None = None,
    ) -> None:
        self.message = message or self.default_message
        self.code = code or self.default_code
        self.details = dict(details or {})
        self.private = private
        self.retry_after_seconds = retry_after_seconds
        super().__init__(f"{self.code}: {self.message}" + (f" [{private}]" if private else ""))


class Invalid(MeshError):
    """The request is wrong and will stay wrong."""

    default_code = "VALIDATION_ERROR"
    default_message = "Invalid request"


class Unauthenticated(MeshError):
    """No credential, or a bad one."""

    default_code = "AUTH_FAILED"
    default_message = "Authentication failed"


class Forbidden(MeshError):
    """The credential does not allow it."""

    default_code = "PERMISSION_DENIED"
    default_message = "Insufficient permissions"


class NotFound(MeshError):
    """There is no such thing, or it is not the caller's to see."""

    default_code = "NOT_FOUND"
    default_message = "Not found"


class Conflict(MeshError):
    """The state of things does not allow it."""

    default_code = "CONFLICT"
    default_message = "Conflict with the current state"


class Exhausted(MeshError):
    """A limit is reached."""

    default_code = "RATE_LIMITED"
    default_message = "Too many requests"


class Unavailable(MeshError):
    """Something behind us is away for now. Whether the request took effect is unknown."""

    default_code = "UNAVAILABLE"
    default_message = "Service temporarily unavailable"


class DeadlineExceeded(MeshError):
    """The time the caller gave is over. Whether the request took effect is unknown."""

    default_code = "DEADLINE_EXCEEDED"
    default_message = "The deadline of the request has passed"


class Internal(MeshError):
    """Our fault."""
