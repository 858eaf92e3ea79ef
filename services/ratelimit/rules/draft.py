"""One rule as the file states it, checked; a limit is made of it for each role and each override."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import yaml

from services.ratelimit.model.limits import (
    DIMENSIONS,
    MAX_COUNT,
    MAX_LEASE_US,
    MAX_SLOTS,
    SECOND_US,
    Algorithm,
    Limit,
    OnStoreFailure,
    limit_of,
)
from services.ratelimit.rules.nodes import Source, shown

NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_MOST_ROLES = 32
_MOST_IN_A_WINDOW = 10**12
_LONGEST_SECONDS = {"lease": MAX_LEASE_US // SECOND_US, "window": 366 * 86400}

Counts = Mapping[str, int]


@dataclass(kw_only=True)
class Draft:
    """A rule but for its limits.

    Args:
        counts: the limit of each role.
        most: what no limit of this rule may exceed.
        overrides: limits of single callers, for the exactness of the rule.
        make: makes a limit of a count and of whether a sliding window keeps an exact log.
    """

    name: str
    counts: Counts
    most: int
    exact_up_to: int
    make: Callable[[int, bool], Limit]
    overrides: list[int] = field(default_factory=list)

    @cached_property
    def rule(self) -> Mapping[str, Limit]:
        """Role → limit. To be asked for once all overrides are known: all limits of a rule count in one way."""
        return {role: self.limit(count) for role, count in self.counts.items()}

    def limit(self, count: int) -> Limit:
        """The rule with another limit."""
        return self.make(count, max((*self.counts.values(), *self.overrides)) <= self.exact_up_to)


class DraftReader:
    """Reads rules of one file."""

    def __init__(self, source: Source, exact_up_to: int) -> None:
        self._source = source
        self._exact_up_to = exact_up_to

    def read(self, node: yaml.Node) -> Draft:
        """The rule of a node. Raises Invalid with its line."""
        source = self._source
        fields = source.fields(
            node,
            "a rule",
            required=("name", "algorithm", "per", "limit"),
            optional=("window", "rate", "lease", "shadow", "on_store_failure"),
        )
        name = source.text_of(fields["name"], "name")
        if not NAME.fullmatch(name):
            raise source.wrong(fields["name"], f"{shown(name)} is no name of a rule: lower-case letters, digits and _")
        algorithm = source.one_of(fields["algorithm"], "algorithm", Algorithm)
        self._check_fields(node, algorithm, fields)
        length = "lease" if algorithm is Algorithm.CONCURRENCY else "window"
        length_us = source.duration_us(fields[length], length, most_seconds=_LONGEST_SECONDS[length])
        most = _most(algorithm, length_us)
        rate = source.count(fields["rate"], "rate", least=1, most=most) if "rate" in fields else 0
        per = self._per(fields["per"])
        shadow = "shadow" in fields and source.truth(fields["shadow"], "shadow")
        on_store_failure = self._on_store_failure(fields)

        def make(count: int, exact: bool) -> Limit:  # noqa: FBT001 - called here alone
            return limit_of(
                rule=name,
                algorithm=algorithm,
                per=per,
                limit=count,
                window_us=length_us,
                lease_us=length_us,
                rate=rate,
                exact=exact,
                shadow=shadow,
                on_store_failure=on_store_failure,
            )

        counts = self._by_role(fields["limit"], most)
        return Draft(name=name, counts=counts, most=most, exact_up_to=self._exact_up_to, make=make)

    def _check_fields(self, node: yaml.Node, algorithm: Algorithm, fields: Mapping[str, yaml.Node]) -> None:
        """A bucket may have a rate, a rule of concurrency has a lease, and all others have a window."""
        concurrent = algorithm is Algorithm.CONCURRENCY
        needed, foreign = ("lease", "window") if concurrent else ("window", "lease")
        if needed not in fields:
            raise self._source.wrong(node, f"a rule of {algorithm} lacks {needed!r}")
        allowed = {needed} | ({"rate"} if algorithm is Algorithm.TOKEN_BUCKET else set())
        for name in (foreign, "rate"):
            if name in fields and name not in allowed:
                raise self._source.wrong(fields[name], f"a rule of {algorithm} has no {name}")

    def _on_store_failure(self, fields: Mapping[str, yaml.Node]) -> OnStoreFailure:
        if "on_store_failure" not in fields:
            return OnStoreFailure.SHARE
        return self._source.one_of(fields["on_store_failure"], "on_store_failure", OnStoreFailure)

    def _by_role(self, node: yaml.Node, most: int) -> Counts:
        source = self._source
        if not isinstance(node, yaml.MappingNode):
            return {"default": source.count(node, "limit", least=1, most=most)}
        counts = {}
        for role, (key, value) in source.mapping(node, "limit").items():
            if not NAME.fullmatch(role):
                raise source.wrong(key, f"{shown(role)} is no name of a role")
            counts[role] = source.count(value, f"limit of {role}", least=1, most=most)
        if not 1 <= len(counts) <= _MOST_ROLES:
            raise source.wrong(node, f"limit must be a number, or a number for each role, {_MOST_ROLES} at most")
        return counts

    def _per(self, node: yaml.Node) -> tuple[str, ...]:
        source = self._source
        nodes = [node] if isinstance(node, yaml.ScalarNode) else source.items(node, "per")
        names = tuple(source.text_of(one, "per") for one in nodes)
        if names == ("all",):
            return ()
        for one, name in zip(nodes, names, strict=True):
            if name not in DIMENSIONS:
                raise source.wrong(one, f"per must be all, or some of {', '.join(DIMENSIONS)}; not {shown(name)}")
        if len(set(names)) < len(names):
            raise source.wrong(node, "per names the same thing twice")
        return names


def _most(algorithm: Algorithm, length_us: int) -> int:
    """What the store cannot count exactly is refused: its numbers are exact below 2^53."""
    if algorithm is Algorithm.TOKEN_BUCKET:
        return MAX_COUNT // length_us
    return MAX_SLOTS if algorithm is Algorithm.CONCURRENCY else _MOST_IN_A_WINDOW
