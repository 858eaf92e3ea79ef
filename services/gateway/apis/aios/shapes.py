"""Shapes that several resources of the AI OS API share."""

from typing import NotRequired

from typing_extensions import TypedDict


class AiosFieldError(TypedDict):
    """A field and what is wrong with it."""

    field: str
    message: str


class AiosError(TypedDict):
    """The body of every answer that is no success.

    `code` (stable) says what went wrong, to programs. `type` and `errors` come with bad input, `retry_after` (seconds)
    where waiting helps, `error_id` with a fault of ours.
    """

    detail: str
    type: NotRequired[str]
    errors: NotRequired[list[AiosFieldError]]
    error_id: NotRequired[str]
    retry_after: NotRequired[int]
    code: NotRequired[str]
