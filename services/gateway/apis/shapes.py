"""Shapes that no dialect owns."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("NUL characters are not allowed")
    return text


# What comes from a query or a form has not been through the edge's JSON reader, and no store takes a NUL.
Plain = Annotated[str, AfterValidator(_without_nul), Field(json_schema_extra={"pattern": r"^[^\u0000]*$"})]


def _whole(value: Any) -> Any:
    return int(value) if type(value) is float and value.is_integer() else value


# For integers, after their bounds: JSON Schema does not tell 5 from 5.0; everything else that is no integer is refused.
WHOLE = BeforeValidator(_whole)


def _in_utc(moment: datetime) -> datetime:
    try:
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError:
        raise ValueError("The year is out of range") from None


_DATE_FIRST = re.compile(r"\d{4}-\d\d-\d\d")


def _written(value: Any) -> Any:
    """A number might be seconds or milliseconds, also in a string, and whoever guesses is wrong by a factor of 1000."""
    if isinstance(value, str) and _DATE_FIRST.match(value):
        return value
    raise ValueError("Input should be a string with an ISO 8601 date and time")


# A moment that a client names: in UTC unless it says otherwise, and within the years that every store knows.
Moment = Annotated[datetime, Field(strict=False), AfterValidator(_in_utc), BeforeValidator(_written)]


class Body(BaseModel):
    """A request body: types as in JSON, no coercion; fields that are not documented are passed over."""

    model_config = ConfigDict(strict=True)
