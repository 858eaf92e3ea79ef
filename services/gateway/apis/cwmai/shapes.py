"""Shapes that several resources of the CWMAI API share."""

from typing import NotRequired

from typing_extensions import TypedDict

from services.gateway.views import Instant


class CwmaiError(TypedDict):
    """The body of every answer that is no success. `retry_after` is seconds, where waiting helps."""

    error: str
    detail: str
    code: str
    timestamp: Instant
    request_id: str
    retry_after: NotRequired[int]
