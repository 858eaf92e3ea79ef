"""Shapes that several resources of the native API share."""

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from services.gateway.views import Instant

T = TypeVar("T")

Page = Annotated[int, Field(ge=1, le=1_000_000)]
PerPage = Annotated[int, Field(ge=1, le=100)]


class Paginated(BaseModel, Generic[T]):
    """One page of a list."""

    items: list[T]
    total: int
    page: int
    per_page: int
    has_next: bool
    has_prev: bool


def paginated(items: list[T], *, total: int, page: int, per_page: int) -> Paginated[T]:
    """A page with its neighbours worked out."""
    return Paginated[T](
        items=items, total=total, page=page, per_page=per_page, has_next=page * per_page < total, has_prev=page > 1
    )


class V1ErrorDetail(TypedDict):
    """What went wrong. `code` is stable; `details` names the field and the reason where there is one."""

    code: str
    message: str
    details: dict[str, Any]


class V1ErrorMetadata(TypedDict):
    """When, and by which id the log knows it."""

    timestamp: Instant
    request_id: str


class V1Error(TypedDict):
    """The body of every answer that is no success."""

    success: Literal[False]
    data: None
    error: V1ErrorDetail
    metadata: V1ErrorMetadata
