"""The book of rules: which limits hold for a route class and role, and which counters a subject falls under."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from typing import NamedTuple

from chassis.errors import Invalid
from services.ratelimit.model.errands import Action, Errand, hold_of
from services.ratelimit.model.limits import DIMENSIONS, MAX_COST, OVERRIDABLE, Ask, Limit, Subject

_LONGEST_HOLD = 64

# Longer identities enter a key as their digest, so that no caller decides how long our keys are.
_LONGEST_VERBATIM = 64

_PLANS_KEPT = 4096

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


class _Rules(NamedTuple):
    """Limits, and what makes their keys."""

    limits: tuple[Limit, ...]
    makers: tuple[KeyMaker, ...]

    @classmethod
    def of(cls, limits: Iterable[Limit]) -> "_Rules":
        found = tuple(limits)
        return cls(found, tuple(key_maker(limit) for limit in found))

    def ask(self, subject: Subject, errand: Errand | None = None) -> Ask:
        limits, makers = self
        keys: list[str | None] = []
        for make in makers:
            # A comprehension would cost as much as what it does.
            keys.append(make(subject))  # noqa: PERF401 - as above
        if None not in keys:
            return Ask(tuple(keys), limits, subject.cost, errand)  # type: ignore[arg-type]  # none is None
        found = [(key, limit) for key, limit in zip(keys, limits, strict=True) if key is not None]
        return Ask(tuple(key for key, _ in found), tuple(limit for _, limit in found), subject.cost, errand)


class Plan(NamedTuple):
    """The rules of a class for a role: all; those for requests without a hold; those that holds are of."""

    rules: _Rules
    unheld: _Rules
    holding: _Rules


# Dimensions and values by which a subject has limits of its own.
Whose = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class RuleBook:
    """All rules in force.

    Args:
        classes: for each route class its rules in the order of the file, each as role → limit; the role ``default``
            stands for every role that has none of its own.
        source: the file's text.
        generation: changes with the text, the same in every process that reads the same text.
        overrides: what dimension → whose → rule → the limit in place of the rule's own; None: no limit.
    """

    classes: Mapping[str, tuple[Mapping[str, Limit], ...]]
    source: str
    generation: int
    overrides: Mapping[str, Mapping[str, Mapping[str, Limit | None]]] = field(default_factory=dict)

    @cached_property
    def _plans(self) -> dict[tuple[str, str, Whose], Plan]:
        return {}

    def ask(self, subject: Subject) -> Ask:
        """What to ask the counters for a subject.

        Raises Invalid for an unknown class, a cost out of range and a hold that is too long.
        """
        cost, hold = subject.cost, subject.hold
        if cost > MAX_COST or cost < 0:
            raise Invalid(f"cost must be between 0 and {MAX_COST}, not {cost}", details={"field": "cost"})
        if hold and len(hold) > _LONGEST_HOLD:
            raise Invalid(f"hold must have at most {_LONGEST_HOLD} characters", details={"field": "hold"})
        # `_plan`, written out: every decision comes by here, and the call would cost a tenth of all this.
        whose = self._overridden(subject) if self.overrides else ()
        plan = self._plans.get((subject.route_class, subject.role, whose))
        if plan is None:
            plan = self._make_plan(subject.route_class, subject.role, whose)
        if hold and plan.holding.limits:
            return plan.rules.ask(subject, Errand(Action.TAKE, hold_of(hold)))
        return plan.unheld.ask(subject)

    def peek(self, subject: Subject) -> Ask:
        """Asks what is left to a subject in all rules of its class, those for holds included, and takes nothing."""
        return self._plan(subject).rules.ask(subject._replace(cost=0), Errand(Action.TAKE))

    def errand(self, subject: Subject, errand: Errand, amount: int = 0) -> Ask:
        """What to ask of a decision that was taken: renewing and releasing its hold, or giving back of its cost.

        Of a class that is not known there is nothing to ask: other rules may have come while its request ran.
        Raises Invalid for a subject without a hold, and for an amount above its cost.
        """
        refund = errand.action is Action.REFUND
        if refund and not 0 <= amount <= subject.cost <= MAX_COST:
            raise Invalid(f"amount must be between 0 and the cost, not {amount}", details={"field": "amount"})
        if not refund and not 1 <= len(subject.hold) <= _LONGEST_HOLD:
            raise Invalid(f"hold must have 1 to {_LONGEST_HOLD} characters", details={"field": "hold"})
        if self._nearest(subject.route_class) is None:
            return Ask((), (), amount, errand)
        plan = self._plan(subject)
        return (plan.unheld if refund else plan.holding).ask(subject._replace(cost=amount), errand)

    @cached_property
    def _overridden_by(self) -> tuple[tuple[str, int, Mapping[str, object]], ...]:
        """Dimensions with overrides, in the order in which they count: name, field of a subject, whose."""
        return tuple(
            (name, DIMENSION_FIELDS[name], self.overrides[name]) for name in OVERRIDABLE if name in self.overrides
        )

    def _overridden(self, subject: Subject) -> Whose:
        """By what the subject has limits of its own."""
        return tuple((name, str(subject[at])) for name, at, known in self._overridden_by if subject[at] in known)

    def _plan(self, subject: Subject) -> Plan:
        whose = self._overridden(subject) if self.overrides else ()
        plan = self._plans.get((subject.route_class, subject.role, whose))
        return self._make_plan(subject.route_class, subject.role, whose) if plan is None else plan

    def _make_plan(self, route_class: str, role: str, whose: Whose) -> Plan:
        rules = self.classes[self.find(route_class)]
        own = [rule.get(role) or rule.get("default") for rule in rules]
        names = [next(iter(rule.values())).rule for rule in rules]
        overrides = [self.overrides[dimension][value] for dimension, value in whose]
        chosen = [
            next((override[name] for override in overrides if name in override), limit)
            for name, limit in zip(names, own, strict=True)
        ]
        applied = [limit for limit in chosen if limit is not None]
        plan = Plan(
            _Rules.of(applied),
            _Rules.of(limit for limit in applied if not limit.concurrent),
            _Rules.of(limit for limit in applied if limit.concurrent),
        )
        # What callers send must not fill the memory.
        if len(self._plans) < _PLANS_KEPT:
            self._plans[route_class, role, whose] = plan
        return plan

    def find(self, route_class: str) -> str:
        """The class whose rules hold for a route class: itself, else the nearest ``….default`` above it.

        Raises Invalid when there is none.
        """
        if (found := self._nearest(route_class)) is not None:
            return found
        shown = route_class if len(route_class) <= _LONGEST_VERBATIM else route_class[:_LONGEST_VERBATIM] + "…"
        raise Invalid(f"Unknown route class {shown!r}", details={"field": "route_class"})

    def _nearest(self, route_class: str) -> str | None:
        if route_class in self.classes:
            return route_class
        above = route_class
        while "." in above:
            above = above.rpartition(".")[0]
            if f"{above}.default" in self.classes:
                return f"{above}.default"
        return None
