"""Limits as the rules file states them, who asks, and what is asked of counters."""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from chassis.errors import Invalid
from services.ratelimit.model.errands import Errand

SECOND_US = 1_000_000

# Far above what one request can mean; keeps every product below 2^53, where the script's numbers stop being exact.
MAX_COST = 1_000_000
MAX_COUNT = 2**52

# State of a concurrency rule is one value that is read and written whole.
MAX_SLOTS = 10_000
# Places of a holder that died are free again within a lease.
MAX_LEASE_US = 10 * SECOND_US

# A ring of buckets counts its oldest bucket in full, so a window lasts up to one bucket longer than it says: 1 %.
_RING_BUCKETS = 100
_SHADOW_BUCKETS = 20


class Algorithm(StrEnum):
    """How a limit counts.

    `FIXED_WINDOW`: windows aligned to the epoch; up to twice the limit may pass around a boundary.
    `SLIDING_WINDOW`: never more than the limit in any window, wherever it begins.
    `TOKEN_BUCKET`: bursts up to the limit, then a steady rate (GCRA).
    `CONCURRENCY`: so many at the same time, each from its decision until it is released or its lease ends.
    """

    FIXED_WINDOW = "fixed_window"
    SLIDING_WINDOW = "sliding_window"
    TOKEN_BUCKET = "token_bucket"  # noqa: S105 - not a password
    CONCURRENCY = "concurrency"


# Of states in the store; another one for every change of what the script writes.
_LAYOUTS = {
    Algorithm.FIXED_WINDOW: "F",
    Algorithm.SLIDING_WINDOW: "S",
    Algorithm.TOKEN_BUCKET: "T",
    Algorithm.CONCURRENCY: "c",
}


class OnStoreFailure(StrEnum):
    """What a rule does while the store is away.

    `SHARE`: this instance lets its share of the limit pass. `ALLOW`: all passes and counts. `DENY`: nothing passes.
    """

    SHARE = "share"
    ALLOW = "allow"
    DENY = "deny"


class Subject(NamedTuple):
    """Who asks for what; empty fields match no rule keyed by them. A named tuple, as one is made for every decision."""

    route_class: str
    user: str = ""
    role: str = ""
    api_key: str = ""
    ip: str = ""
    model: str = ""
    cost: int = 1
    hold: str = ""


class Refund(NamedTuple):
    """A part of the cost that a subject was allowed, and did not use.

    Args:
        age_us: how long ago it was allowed.
    """

    subject: Subject
    amount: int
    age_us: int = 0


DIMENSIONS = ("user", "api_key", "ip", "model", "role")
# Of whom a single caller may have limits of its own; where several have one for a rule, the first named here counts.
OVERRIDABLE = ("api_key", "user", "ip")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Limit:
    """One rule as it applies to one role.

    Counters hold units: one each for windows; for a token bucket `window_us` units a token, of which `rate` drain away
    every µs, so that all arithmetic stays in integers. A concurrency rule counts places, one a request at any cost.

    Args:
        limit: the most that passes in one window, for a token bucket the burst, for concurrency the places.
        window_us: for concurrency the lease.
        rate: tokens that flow into the bucket per window; 0 for windows.
        granularity_us: to what a sliding window rounds the instant of a hit, upwards; 1 is an exact log.
        unit: units that a cost of one takes.
        capacity: units that fit.
        shadow: never denies and is not shown to callers; counts as if it did, and a metric says what it would deny.
        counts_denied: a request counts even when it is denied (by this rule or another), as in Envoy's service.
    """

    rule: str
    algorithm: Algorithm
    per: tuple[str, ...]
    limit: int
    window_us: int
    rate: int
    granularity_us: int
    unit: int
    capacity: int
    on_store_failure: OnStoreFailure = OnStoreFailure.SHARE
    shadow: bool = False
    counts_denied: bool = False

    @property
    def concurrent(self) -> bool:
        """Whether it limits requests at the same time."""
        return self.algorithm is Algorithm.CONCURRENCY

    @property
    def window_seconds(self) -> int:
        """Length of the window, for a token bucket the time to refill it from empty; rounded up to seconds."""
        length_us = -(-self.capacity // self.rate) if self.rate else self.window_us
        return -(-length_us // SECOND_US)

    @property
    def longest_us(self) -> int:
        """After this long without a hit a counter says nothing any more."""
        return -(-self.capacity // self.rate) if self.rate else self.window_us + self.granularity_us

    @property
    def tells_excess(self) -> bool:
        """Whether verdicts say how much was counted beyond the limit."""
        return self.counts_denied and not self.shadow

    def share(self, instances: int) -> "Limit":
        """What one of so many instances that cannot see each other's counters may let pass: at least one.

        Of a rule that allows everything without the store it is a shadow, which counts what passes.
        """
        allow = self.on_store_failure is OnStoreFailure.ALLOW
        base = replace(self, shadow=True, counts_denied=True) if allow else self
        if self.algorithm is Algorithm.TOKEN_BUCKET:
            # The same bucket with dearer tokens: burst and rate shrink together.
            return replace(base, unit=min(self.unit * instances, self.capacity))
        capacity = min(self.capacity, max(1, self.capacity // instances))
        if self.capacity <= _SHADOW_BUCKETS and not base.shadow:
            # So few hits need no buckets, and whoever comes back at a time that the store has told is not too early.
            return replace(base, capacity=capacity)
        return replace(
            base, capacity=capacity, granularity_us=max(self.granularity_us, self.window_us // _SHADOW_BUCKETS)
        )

    @property
    def layout(self) -> str:
        """The way to count, and the form of its state in the store: instances that know another form use other keys."""
        return _LAYOUTS[self.algorithm]

    @property
    def suffix(self) -> str:
        """What tells this rule's counters from others for the same subject; a limit that changes keeps them."""
        # The state of windows and buckets is in units of their window; a place is a place under any lease.
        window = "" if self.concurrent else self.window_us
        return f":{self.rule}:{'+'.join(self.per)}:{self.layout}{window}"


def limit_of(
    *,
    rule: str,
    algorithm: Algorithm,
    per: tuple[str, ...],
    limit: int,
    window_us: int = 0,
    lease_us: int = MAX_LEASE_US,
    rate: int = 0,
    exact: bool = True,
    on_store_failure: OnStoreFailure | str = OnStoreFailure.SHARE,
    shadow: bool = False,
    counts_denied: bool = False,
) -> Limit:
    """A limit with its derived figures. Raises Invalid when it makes no sense.

    Args:
        window_us: not read for concurrency, whose holds last for `lease_us`.
        exact: whether a sliding window keeps an exact log, and not a ring of buckets.
        counts_denied: for fixed windows only.
    """
    bucket = algorithm is Algorithm.TOKEN_BUCKET
    concurrent = algorithm is Algorithm.CONCURRENCY
    length_us = lease_us if concurrent else window_us
    most = MAX_SLOTS if concurrent else MAX_COUNT // max(1, length_us) if bucket else MAX_COUNT
    _check(rule, "limit", limit, most)
    _check(rule, "rate", rate or limit, most)
    _check(rule, "lease" if concurrent else "window", length_us, MAX_LEASE_US if concurrent else MAX_COUNT)
    if counts_denied and algorithm is not Algorithm.FIXED_WINDOW:
        raise Invalid(f"rule {rule}: only a fixed window counts denied requests", code="BAD_RULES")
    return Limit(
        rule=rule,
        algorithm=algorithm,
        per=per,
        limit=limit,
        window_us=length_us,
        rate=(rate or limit) if bucket else 0,
        granularity_us=max(1, window_us // _RING_BUCKETS) if algorithm is Algorithm.SLIDING_WINDOW and not exact else 1,
        unit=window_us if bucket else 1,
        capacity=limit * window_us if bucket else limit,
        on_store_failure=OnStoreFailure(on_store_failure),
        shadow=shadow,
        counts_denied=counts_denied,
    )


def _check(rule: str, what: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise Invalid(f"rule {rule}: {what} must be between 1 and {most}, not {value}", code="BAD_RULES")


class Ask(NamedTuple):
    """One request as counters see it: which ones, under which limits, how much. All or nothing.

    Args:
        errand: None for the most common ask, which takes its cost and holds nothing.
    """

    keys: tuple[str, ...]
    limits: tuple[Limit, ...]
    cost: int
    errand: Errand | None = None
