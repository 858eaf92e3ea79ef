"""Errors that only a request's shape can have, and the statuses that codes of the contract bring with them.

Invalid
└── Misshapen    fields are missing, of the wrong type or out of their range; `problems` names them all
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from chassis.errors import Invalid, MeshError
from services.gateway.edge.body import field_path
from services.gateway.edge.errors import status_of

# A code whose meaning in the API has a status of its own, whatever kind of error carries it: a reused key with another
# body is 422 by the Idempotency-Key draft, a provider that fails is 500 by the native API's document, and rules that
# are not those of If-Match are 412 by RFC 9110.
_STATUS_OF_CODE = {"IDEMPOTENCY_MISMATCH": 422, "OLLAMA_ERROR": 500, "PROVIDER_ERROR": 500, "RULES_CHANGED": 412}
# Where FastAPI says that a parameter was; the next part is its name, also that of a header.
_PARAMETERS = frozenset({"query", "path", "header"})
_LONGEST_LIST = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One field and what is wrong with it, both for the caller. `field` is a dotted path, as in ``messages.0.role``."""

    field: str
    message: str


class Misshapen(Invalid):
    """The body or a parameter has not the documented shape.

    Args:
        problems: at least one.
        of_type: a field is missing or of the wrong type, in contrast to a value that is refused.
    """

    default_message = "Invalid input parameters"

    def __init__(self, problems: Sequence[Problem], *, of_type: bool) -> None:
        first = problems[0]
        super().__init__(details={"field": first.field, "reason": first.message})
        self.problems = tuple(problems[:_LONGEST_LIST])
        self.of_type = of_type


def misshapen(errors: Sequence[Mapping[str, Any]]) -> Misshapen:
    """The error for what pydantic found, from its ``errors()``."""
    problems = [Problem(field=_field(error["loc"]), message=_sentence(error)) for error in errors]
    return Misshapen(problems, of_type=any(_is_of_type(str(error["type"])) for error in errors))


def refused(error: ValidationError) -> Misshapen:
    """As `misshapen`, for an exception; what was sent is not repeated in the answer."""
    return misshapen(error.errors(include_url=False, include_context=False, include_input=False))


def status_for(error: MeshError) -> int:
    """The HTTP status of an error where the dialect has no say of its own."""
    return _STATUS_OF_CODE.get(error.code) or status_of(error)


def problems_of(error: MeshError) -> tuple[Problem, ...]:
    """The fields an error is about; empty when it is about none."""
    if isinstance(error, Misshapen):
        return error.problems
    field = error.details.get("field")
    return (Problem(field=field, message=error.details.get("reason", error.message)),) if field else ()


def _is_of_type(kind: str) -> bool:
    return kind == "missing" or kind.endswith(("_type", "_parsing", "_attributes_type"))


def _field(location: Sequence[str | int]) -> str:
    place, *rest = location or ("body",)
    if place in _PARAMETERS and rest:
        return ".".join(filter(None, (str(rest[0]), field_path(rest[1:]))))
    return field_path(rest if place == "body" else location) or "body"


def _sentence(error: Mapping[str, Any]) -> str:
    return str(error["msg"]).removeprefix("Value error, ")
