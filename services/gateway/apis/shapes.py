"""Shapes that no dialect owns."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("NUL characters are not allowed")
    return text


# What comes from a query or a form has not been through the edge's JSON reader, and no store takes a NUL.
Plain = Annotated[str, AfterValidator(_without_nul), Field(json_schema_extra={"pattern": r"^[^\u0000]*$"})]


class Body(BaseModel):
    """A request body: types as in JSON, no coercion; fields that are not documented are passed over."""

    model_config = ConfigDict(strict=True)
