"""A request of Envoy's protocol as the rest of this package sees it, and its way from and to the messages. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from envoy.config.core.v3 import base_pb2
from envoy.extensions.common.ratelimit.v3 import ratelimit_pb2
from envoy.service.ratelimit.v3 import rls_pb2
from google.protobuf import duration_pb2, struct_pb2, text_format
from google.protobuf.message import DecodeError

from chassis.errors import Invalid
from services.ratelimit.model.descriptors import Entries, Rule

OK = rls_pb2.RateLimitResponse.OK
OVER_LIMIT = rls_pb2.RateLimitResponse.OVER_LIMIT
UNBOUNDED = 2**32 - 1

# What one descriptor may count at once: as much as the request's own field can hold.
_MOST_HITS = 2**32 - 1
_MOST_DESCRIPTORS = 128
_MOST_ENTRIES = 64

# Within one second most statuses are alike, and writing one costs twenty times a look-up.
_ALIKE_KEPT = 8192


class Descriptor(NamedTuple):
    """One descriptor.

    Args:
        override: (requests per unit, the protocol's number of the unit) of the limit that it brings along.
        refund: its hits are given back.
    """

    entries: Entries
    override: tuple[int, int] | None
    hits: int
    refund: bool


class Request(NamedTuple):
    """One request."""

    domain: str
    descriptors: tuple[Descriptor, ...]


class Outcome(NamedTuple):
    """What one descriptor is told. No rule: no limit holds for it."""

    code: int
    rule: Rule | None = None
    remaining: int = 0
    reset_seconds: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Headers:
    """Names of the response headers."""

    limit: str
    remaining: str
    reset: str


def parse(raw: bytes) -> Request:
    """A request. Raises Invalid when it is none, asks for nothing, or for more than can be counted."""
    try:
        message = rls_pb2.RateLimitRequest.FromString(raw)
    except DecodeError as error:
        raise Invalid("These bytes are no RateLimitRequest") from error
    if not message.domain:
        raise Invalid("domain must not be empty", details={"field": "domain"})
    if not 1 <= len(message.descriptors) <= _MOST_DESCRIPTORS:
        raise Invalid(
            f"there must be between 1 and {_MOST_DESCRIPTORS} descriptors, not {len(message.descriptors)}",
            details={"field": "descriptors"},
        )
    hits = message.hits_addend or 1
    return Request(message.domain, tuple(_descriptor(one, hits) for one in message.descriptors))


def _descriptor(message: ratelimit_pb2.RateLimitDescriptor, hits: int) -> Descriptor:
    if message.HasField("hits_addend"):
        hits = message.hits_addend.value
        if hits > _MOST_HITS:
            raise Invalid(
                f"hits_addend must be at most {_MOST_HITS}, not {hits}", details={"field": "descriptors.hits_addend"}
            )
    if len(message.entries) > _MOST_ENTRIES:
        raise Invalid(
            f"a descriptor has at most {_MOST_ENTRIES} entries, not {len(message.entries)}",
            details={"field": "descriptors.entries"},
        )
    override = (message.limit.requests_per_unit, message.limit.unit) if message.HasField("limit") else None
    entries = tuple([(entry.key, entry.value) for entry in message.entries])
    return Descriptor(entries, override, hits, message.is_negative_hits)


def response(outcomes: Iterable[Outcome], overall: int) -> bytes:
    """The answer without its optional parts, which may follow it: parts of a message in a row are the message."""
    return _overall(overall) + b"".join([_status(one) for one in outcomes])


@lru_cache
def _overall(code: int) -> bytes:
    return rls_pb2.RateLimitResponse(overall_code=code).SerializeToString()  # type: ignore[arg-type]  # codes are its own numbers


@lru_cache(maxsize=_ALIKE_KEPT)
def _status(outcome: Outcome) -> bytes:
    """The part of the answer for all that were told the same."""
    code, rule, remaining, reset_seconds = outcome
    status = rls_pb2.RateLimitResponse.DescriptorStatus(code=code, limit_remaining=remaining)  # type: ignore[arg-type]  # as above
    if rule is not None and not rule.unlimited:
        status.current_limit.CopyFrom(_limit(rule))
        status.duration_until_reset.CopyFrom(duration_pb2.Duration(seconds=reset_seconds))
    return rls_pb2.RateLimitResponse(statuses=[status]).SerializeToString()


def _limit(rule: Rule) -> rls_pb2.RateLimitResponse.RateLimit:
    return rls_pb2.RateLimitResponse.RateLimit(
        requests_per_unit=rule.requests_per_unit,
        unit=rule.unit,  # type: ignore[arg-type]  # the protocol's own numbers
        name=rule.name,
    )


def headers(names: Headers, outcomes: Iterable[Outcome], *, denying: Sequence[Outcome]) -> list[base_pb2.HeaderValue]:
    """The three headers of the descriptor that is closest to its limit, of the last one that denies if any does."""
    shown = [one for one in outcomes if one.rule is not None and not one.rule.unlimited]
    if not shown:
        return []
    chosen = denying[-1] if denying else min(shown, key=lambda one: one.remaining)
    limit = chosen.rule.requests_per_unit if chosen.rule is not None else 0
    values = ((names.limit, limit), (names.remaining, chosen.remaining), (names.reset, chosen.reset_seconds))
    return [base_pb2.HeaderValue(key=name, value=str(value)) for name, value in values]


def metadata(
    message: rls_pb2.RateLimitRequest,
    outcomes: Sequence[Outcome],
    *,
    over_quota: Sequence[int],
) -> struct_pb2.Struct:
    """What Envoy's later filters may read: the request, what its rules say of themselves, and quotas exceeded."""
    fields: dict[str, Any] = {
        "domain": message.domain,
        "descriptors": [_described(one) for one in message.descriptors],
        "quotaModeEnabled": any(one.rule is not None and one.rule.quota for one in outcomes),
    }
    if message.hits_addend:
        fields["hitsAddend"] = message.hits_addend
    if over_quota:
        fields["quotaModeViolations"] = list(over_quota)
    said: dict[str, object] = {}
    for one in outcomes:
        if one.rule is not None and one.code == OK:
            said.update(one.rule.metadata)
    if said:
        fields["metadata"] = said
    found = struct_pb2.Struct()
    found.update(fields)
    return found


def _described(message: ratelimit_pb2.RateLimitDescriptor) -> Mapping[str, Any]:
    fields: dict[str, Any] = {"entries": [f"{entry.key}={entry.value}" for entry in message.entries]}
    if message.HasField("limit"):
        fields["limit"] = text_format.MessageToString(message.limit, as_one_line=True).replace(": ", ":")
    if message.HasField("hits_addend"):
        fields["hitsAddend"] = message.hits_addend.value
    return fields
