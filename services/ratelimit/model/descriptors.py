"""Descriptors as Envoy's rate limit protocol sends them, and the tree of rules that they are looked up in.

Follows the matching of envoyproxy/ratelimit, with keys and values apart: there they are joined by `_`, so that (`a`,
`b_c`) and (`a_b`, `c`) are one; here they never are. Knows no file format and no message.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

from services.ratelimit.model.limits import SECOND_US, Limit

# Longer parts enter a counter's key as their digest, so that no caller decides how long our keys are.
_LONGEST_VERBATIM = 64
_MOST_VERBATIM_ENTRIES = 8


class Unit(NamedTuple):
    """A unit of time: the protocol's number for it, and its length. Months are 30 days and years 365, as there."""

    number: int
    seconds: int


UNITS = {
    "SECOND": Unit(1, 1),
    "MINUTE": Unit(2, 60),
    "HOUR": Unit(3, 3600),
    "DAY": Unit(4, 86400),
    "MONTH": Unit(5, 30 * 86400),
    "YEAR": Unit(6, 365 * 86400),
    "WEEK": Unit(7, 7 * 86400),
}
UNIT_NAMES = {unit.number: name for name, unit in UNITS.items()}

# (key, value) pairs in the order of the request.
Entries = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rule:
    """What a descriptor may do.

    Args:
        path: the rule's place in the configuration, which its statistics are kept under: ``domain.key_value.key``.
        limit: how it is counted, a limit of 0 as one of 1; None for a rule that limits nothing.
        requests_per_unit: as configured.
        unit: the protocol's number of its unit, 0 where it has none.
        replaces: names of rules that do not count for a request that this one matches.
        shadow: it is counted and never denied.
        quota: a request is denied by such rules only when all of them that match are exceeded.
        detailed: its statistics are kept for every value apart.
        metadata: what the answer says besides when this rule is not exceeded.
    """

    path: str
    limit: Limit | None
    requests_per_unit: int
    unit: int
    unlimited: bool = False
    name: str = ""
    replaces: tuple[str, ...] = ()
    shadow: bool = False
    quota: bool = False
    detailed: bool = False
    metadata: Mapping[str, object] = field(default_factory=dict)


class Pattern:
    """A text in which every `*` stands for any number of characters, also none."""

    __slots__ = ("_first", "_last", "_middle", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self._first, *middle = text.split("*")
        self._last = middle.pop() if middle else None
        self._middle = tuple(part for part in middle if part)

    def matches(self, text: str) -> bool:
        """Whether a text is of this form; takes time in proportion to the text, whatever the pattern."""
        if self._last is None:
            return text == self._first
        end = len(text) - len(self._last)
        at = len(self._first)
        if at > end or not text.startswith(self._first) or not text.endswith(self._last):
            return False
        for part in self._middle:
            found = text.find(part, at, end)
            if found < 0:
                return False
            at = found + len(part)
        return True


@dataclass(slots=True, kw_only=True, eq=False)
class Node:
    """One step of the way to a rule.

    Args:
        value: as configured; empty for any value.
        children: the next steps by (key, value as configured).
        wildcards: those of them with a `*` in key or value, in the order of the file.
    """

    key: str = ""
    value: str = ""
    rule: Rule | None = None
    value_to_metric: bool = False
    share_threshold: bool = False
    children: "dict[tuple[str, str], Node]" = field(default_factory=dict)
    wildcards: "list[tuple[Pattern, Pattern | None, Node]]" = field(default_factory=list)

    def add(self, child: "Node") -> None:
        """Adds a step; the caller has seen to it that there is none like it."""
        self.children[child.key, child.value] = child
        if "*" in child.key or "*" in child.value:
            self.wildcards.append((Pattern(child.key), Pattern(child.value) if child.value else None, child))

    def rules(self) -> Iterator[Rule]:
        """All rules from here on, in the order of the file."""
        if self.rule is not None:
            yield self.rule
        for child in self.children.values():
            yield from child.rules()

    def step(self, key: str, value: str) -> "tuple[Node, bool] | None":
        """The next step for an entry, and whether a wildcard found it: exactly this, else a wildcard, else the key."""
        exact = self.children.get((key, value)) if value else None
        if exact is not None:
            return exact, False
        for key_pattern, value_pattern, child in self.wildcards:
            if key_pattern.matches(key) and (value_pattern is None or value_pattern.matches(value)):
                return child, True
        bare = self.children.get((key, ""))
        return (bare, False) if bare is not None else None


class Match(NamedTuple):
    """The rule that holds for a descriptor.

    Args:
        entries: what its counter goes by: the request's, but where a threshold is shared the pattern for the value.
        statistics: the name that its statistics are kept under.
    """

    rule: Rule
    entries: Entries
    statistics: str


@dataclass(frozen=True, kw_only=True)
class DescriptorBook:
    """All domains of a configuration."""

    domains: dict[str, Node]

    def rules(self) -> Iterator[Rule]:
        for root in self.domains.values():
            yield from root.rules()

    def find(self, domain: str, entries: Entries) -> Match | None:
        """The rule for a descriptor; it must stand exactly as deep as the descriptor is long. None: no limit."""
        root = self.domains.get(domain)
        if root is None or not entries:
            return None
        node, counted, named = root, [], [domain]
        for key, value in entries:
            found = node.step(key, value)
            if found is None:
                return None
            node, by_wildcard = found
            counted.append((key, node.value if by_wildcard and node.share_threshold else value))
            named.append(_name_of(node, key, value, by_wildcard=by_wildcard))
        if node.rule is None:
            return None
        shared = tuple(counted)
        return Match(node.rule, shared, _statistics(domain, node.rule, entries, shared, named))


def _name_of(node: Node, key: str, value: str, *, by_wildcard: bool) -> str:
    """What one step adds to the name of the statistics."""
    shown = node.value if node.share_threshold or not node.value_to_metric else value
    if node.value and not by_wildcard:
        shown = value
    return f"{key}_{shown}" if shown else key


def _statistics(domain: str, rule: Rule, entries: Entries, shared: Entries, named: Sequence[str]) -> str:
    if not rule.detailed:
        return ".".join(named)
    if shared != entries:
        return name_of(domain, shared)
    return ".".join((domain, *(f"{key}_{value}" for key, value in entries)))


def name_of(domain: str, entries: Entries) -> str:
    """A descriptor as a name for people: not for counters, as it can be forged."""
    return ".".join((domain, *(f"{key}_{value}" if value else key for key, value in entries)))


def counter_key(prefix: str, domain: str, entries: Entries, limit: Limit, *, by_domain: bool) -> str:
    """The counter of a descriptor under a limit.

    Every part carries its length, so no two descriptors share a key, whatever their parts contain; what stands in
    braces is the hash tag of Redis Cluster.

    Args:
        by_domain: whether all counters of the domain must be on one node, to be taken from all or none.
    """
    what = "".join(_part(text) for entry in entries for text in entry)
    if len(entries) > _MOST_VERBATIM_ENTRIES:
        what = f"{len(entries)}#{_digest(what)}"
    tag = _part(domain)
    counted = f"{{{tag}}}{what}" if by_domain else f"{{{tag}{what}}}"
    return f"{prefix}rls:{counted}:{limit.layout}{limit.window_us // SECOND_US}"


def _part(text: str) -> str:
    if len(text) <= _LONGEST_VERBATIM:
        return f"{len(text)}:{text}"
    return f"{len(text)}#{_digest(text)}"


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=16).hexdigest()
