"""Limits as the rules file states them, and the book that finds them by route class and role."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from hashlib import blake2b
from typing import NamedTuple

from chassis.errors import Invalid

SECOND_US = 1_000_000

# Far above what one request can mean; keeps every product below 2^53, where the script's numbers stop being exact.
MAX_COST = 1_000_000
MAX_COUNT = 2**52

# Longer identities enter a key as their digest, so that no caller decides how long our keys are.
_LONGEST_VERBATIM = 64

# A ring of buckets counts its oldest bucket in full, so a window lasts up to one bucket longer than it says: 1 %.
_RING_BUCKETS = 100
_SHADOW_BUCKETS = 20

_PLANS_KEPT = 4096


class Algorithm(StrEnum):
    """How a limit counts.

    `FIXED_WINDOW`: windows aligned to the epoch; up to twice the limit may pass around a boundary.
    `SLIDING_WINDOW`: never more than the limit in any window, wherever it begins.
    `TOKEN_BUCKET`: bursts up to the limit, then a steady rate (GCRA).
    """

    FIXED_WINDOW = "fixed_window"
    SLIDING_WINDOW = "sliding_window"
    TOKEN_BUCKET = "token_bucket"  # noqa: S105 - not a password


class Subject(NamedTuple):
    """Who asks for what; empty fields match no rule keyed by them. A named tuple, as one is made for every decision."""

    route_class: str
    user: str = ""
    role: str = ""
    api_key: str = ""
    ip: str = ""
    model: str = ""
    cost: int = 1


DIMENSIONS = ("user", "api_key", "ip", "model", "role")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Limit:
    """One rule as it applies to one role.

    Counters hold units: one each for windows; for a token bucket `window_us` units a token, of which `rate` drain away
    every µs, so that all arithmetic stays in integers.

    Args:
        limit: the most that passes in one window, for a token bucket the burst.
        rate: tokens that flow into the bucket per window; 0 for windows.
        granularity_us: to what a sliding window rounds the instant of a hit, upwards; 1 is an exact log.
        unit: units that a cost of one takes.
        capacity: units that fit.
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

    @property
    def window_seconds(self) -> int:
        """Length of the window, for a token bucket the time to refill it from empty; rounded up to seconds."""
        length_us = -(-self.capacity // self.rate) if self.rate else self.window_us
        return -(-length_us // SECOND_US)

    @property
    def longest_us(self) -> int:
        """After this long without a hit a counter says nothing any more."""
        return -(-self.capacity // self.rate) if self.rate else self.window_us + self.granularity_us

    def share(self, instances: int) -> "Limit":
        """What one of so many instances that cannot see each other's counters may let pass: at least one."""
        if self.algorithm is Algorithm.TOKEN_BUCKET:
            # The same bucket with dearer tokens: burst and rate shrink together.
            return replace(self, unit=min(self.unit * instances, self.capacity))
        shared = max(1, self.capacity // instances)
        coarse_us = max(self.granularity_us, self.window_us // _SHADOW_BUCKETS)
        return replace(self, capacity=shared, granularity_us=coarse_us)

    @property
    def suffix(self) -> str:
        """What tells this rule's counters from others for the same subject; a limit that changes keeps them."""
        return f":{self.rule}:{'+'.join(self.per)}:{self.algorithm[0]}{self.window_us}"


def limit_of(
    *,
    rule: str,
    algorithm: Algorithm,
    per: tuple[str, ...],
    limit: int,
    window_us: int,
    rate: int = 0,
    exact: bool = True,
) -> Limit:
    """A limit with its derived figures. A sliding window keeps an exact log, or a ring of buckets when not `exact`."""
    bucket = algorithm is Algorithm.TOKEN_BUCKET
    return Limit(
        rule=rule,
        algorithm=algorithm,
        per=per,
        limit=limit,
        window_us=window_us,
        rate=(rate or limit) if bucket else 0,
        granularity_us=1 if exact or bucket else max(1, window_us // _RING_BUCKETS),
        unit=window_us if bucket else 1,
        capacity=limit * window_us if bucket else limit,
    )


class Ask(NamedTuple):
    """One request as counters see it: which ones, under which limits, how much. All or nothing."""

    keys: tuple[str, ...]
    limits: tuple[Limit, ...]
    cost: int


KeyMaker = Callable[[Subject], str | None]


def key_maker(limit: Limit) -> KeyMaker:
    """Makes the counter keys of a rule: None for a subject that the rule does not match.

    Parts carry their length, so no two subjects share a key; the first part is the Redis Cluster hash tag. A brace
    inside it only moves all keys of that subject together to another slot.
    """
    if not limit.per:
        whole = "rl:{*}" + limit.suffix
        return lambda _: whole
    suffix = limit.suffix
    first, rest = DIMENSION_FIELDS[limit.per[0]], [DIMENSION_FIELDS[name] for name in limit.per[1:]]
    if not rest:

        def make_one(subject: Subject) -> str | None:
            value = subject[first]
            return f"rl:{{{_part(value)}}}{suffix}" if value else None  # type: ignore[arg-type]  # cost is no dimension

        return make_one

    def make_many(subject: Subject) -> str | None:
        values: list[str] = [subject[field] for field in (first, *rest)]  # type: ignore[misc]  # cost is no dimension
        if not all(values):
            return None
        return f"rl:{{{_part(values[0])}}}{''.join(map(_part, values[1:]))}{suffix}"

    return make_many


DIMENSION_FIELDS: Mapping[str, int] = {name: Subject._fields.index(name) for name in DIMENSIONS}


def _part(value: str) -> str:
    if len(value) <= _LONGEST_VERBATIM:
        return f"{len(value)}:{value}"
    return f"{len(value)}:{blake2b(value.encode(), digest_size=16).hexdigest()}"


Plan = tuple[tuple[Limit, KeyMaker], ...]


@dataclass(frozen=True, kw_only=True)
class RuleBook:
    """All rules in force.

    Args:
        classes: for each route class its rules in the order of the file, each as role → limit; the role ``default``
            stands for every role that has none of its own.
        source: the file's text.
        generation: changes with the text, the same in every process that reads the same text.
    """

    classes: Mapping[str, tuple[Mapping[str, Limit], ...]]
    source: str
    generation: int

    @cached_property
    def _plans(self) -> dict[tuple[str, str], Plan]:
        return {}

    def ask(self, subject: Subject) -> Ask:
        """What to ask the counters for a subject. Raises Invalid for an unknown class or a cost out of range."""
        if subject.cost > MAX_COST or subject.cost < 0:
            raise Invalid(f"cost must be between 0 and {MAX_COST}, not {subject.cost}", details={"field": "cost"})
        keys, limits = [], []
        for limit, make in self._plan(subject.route_class, subject.role):
            key = make(subject)
            if key is not None:
                keys.append(key)
                limits.append(limit)
        return Ask(tuple(keys), tuple(limits), subject.cost)

    def _plan(self, route_class: str, role: str) -> Plan:
        plan = self._plans.get((route_class, role))
        return self._make_plan(route_class, role) if plan is None else plan

    def _make_plan(self, route_class: str, role: str) -> Plan:
        rules = self.classes[self.find(route_class)]
        applied = [rule.get(role) or rule.get("default") for rule in rules]
        plan = tuple((limit, key_maker(limit)) for limit in applied if limit is not None)
        # What callers send must not fill the memory.
        if len(self._plans) < _PLANS_KEPT:
            self._plans[route_class, role] = plan
        return plan

    def find(self, route_class: str) -> str:
        """The class whose rules hold for a route class: itself, else the nearest ``….default`` above it."""
        if route_class in self.classes:
            return route_class
        above = route_class
        while "." in above:
            above = above.rpartition(".")[0]
            if f"{above}.default" in self.classes:
                return f"{above}.default"
        shown = route_class if len(route_class) <= _LONGEST_VERBATIM else route_class[:_LONGEST_VERBATIM] + "…"
        raise Invalid(f"Unknown route class {shown!r}", details={"field": "route_class"})
