"""The table from what a handler raised to what the tasks service is told."""

import pytest

from chassis import errors
from worker.handler import Reject, Retry, failure_of


@pytest.mark.parametrize(
    ("error", "code", "retryable", "after_ms"),
    [
        (Reject("INVALID_INPUT", "no text"), "INVALID_INPUT", False, 0),
        (Retry("busy", after_seconds=1.5), "HANDLER_ERROR", True, 1500),
        (errors.Invalid("wrong", code="MODEL_NOT_FOUND"), "MODEL_NOT_FOUND", False, 0),
        (errors.NotFound("gone"), "NOT_FOUND", False, 0),
        (errors.Conflict("inactive"), "CONFLICT", False, 0),
        (errors.Unavailable(code="CIRCUIT_OPEN", retry_after_seconds=30), "CIRCUIT_OPEN", True, 30_000),
        (errors.DeadlineExceeded(), "DEADLINE_EXCEEDED", True, 0),
        (errors.Exhausted(retry_after_seconds=2), "RATE_LIMITED", True, 2000),
        (errors.Internal(), "INTERNAL", True, 0),
    ],
)
def test_each_error_has_one_translation(error: Exception, code: str, retryable: bool, after_ms: int):
    """Code, whether to try again, and when."""
    failure = failure_of(error)
    assert (failure.error.code, failure.retryable, failure.retry_after_ms) == (code, retryable, after_ms)


def test_foreign_errors_keep_their_words_to_themselves():
    """A handler's own exception is retryable and tells the owner nothing of its insides."""
    failure = failure_of(KeyError("password of the database"))
    assert (failure.error.code, failure.retryable) == ("HANDLER_ERROR", True)
    assert "password" not in failure.error.message
