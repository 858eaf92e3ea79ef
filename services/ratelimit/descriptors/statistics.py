"""What happened under each rule, under the names that envoyproxy/ratelimit gives its statistics."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields

from services.ratelimit.model.descriptors import Rule

_SERVICE = "ratelimit.service"
# What separates the parts of a StatsD line, and whatever may end one.
_SEPARATORS = re.compile(r"[:|\x00-\x1f\x7f\x85\u2028\u2029]")
_IPV4 = re.compile(r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}")
# What requests name (overrides, detailed values) must not fill the memory; what is beyond shares one name.
_MOST_NAMES = 10_000
_LONGEST_NAME = 1024
_BEYOND = "other"


@dataclass(slots=True)
class Figures:
    """Hits under one name. A request of several hits can be partly near a limit and partly over it."""

    total_hits: int = 0
    over_limit: int = 0
    near_limit: int = 0
    over_limit_with_local_cache: int = 0
    within_limit: int = 0
    shadow_mode: int = 0

    def count(self, rule: Rule, hits: int, after: int, near_ratio: float) -> None:
        """Counts a request that was asked of the counters.

        Args:
            after: hits in the window after it.
            near_ratio: from which part of the limit on hits are near to it.
        """
        limit, before = rule.requests_per_unit, after - hits
        near = int(limit * near_ratio)
        self.total_hits += hits
        if after > limit:
            over = hits if before >= limit else after - limit
            self.over_limit += over
            if before < limit:
                self.near_limit += limit - max(near, before)
            if rule.shadow:
                self.shadow_mode += over
        else:
            self.within_limit += hits
            if after > near:
                self.near_limit += hits if before >= near else after - near

    def count_denied_here(self, rule: Rule, hits: int) -> None:
        """Counts a request that was known to be over its limit."""
        self.total_hits += hits
        self.over_limit += hits
        self.over_limit_with_local_cache += hits
        if rule.shadow:
            self.shadow_mode += hits


class Statistics:
    """All figures since the process began; they outlive the configuration."""

    def __init__(self) -> None:
        self.service: Counter[str] = Counter(
            {
                "config_load_success": 0,
                "config_load_error": 0,
                "global_shadow_mode": 0,
                "call.should_rate_limit.redis_error": 0,
                "call.should_rate_limit.service_error": 0,
            }
        )
        self._rules: dict[str, Figures] = {}
        self._not_found: Counter[str] = Counter()

    def of(self, name: str) -> Figures:
        """The figures under a name, as ``domain.key_value``."""
        found = self._rules.get(name)
        if found is None:
            found = self._rules.setdefault(_kept(name, len(self._rules)), Figures())
        return found

    def count_unknown_domain(self, domain: str, descriptors: int) -> None:
        """Counts descriptors of a domain that is not configured."""
        if domain not in self._not_found:
            domain = _kept(domain, len(self._not_found))
        self._not_found[domain] += descriptors

    def lines(self) -> Iterator[tuple[str, int]]:
        """Every figure with its whole name, sorted."""
        found = {f"{_SERVICE}.{name}": value for name, value in self.service.items()}
        for name, value in self._not_found.items():
            found[f"{_SERVICE}.rate_limit.{_clean(name)}.domain_not_found"] = value
        for name, figures in self._rules.items():
            for field in fields(figures):
                found[f"{_SERVICE}.rate_limit.{_clean(name)}.{field.name}"] = getattr(figures, field.name)
        yield from sorted(found.items())


def _kept(name: str, known: int) -> str:
    """What a new name is kept under."""
    return _BEYOND if known >= _MOST_NAMES or len(name) > _LONGEST_NAME else name


def _clean(name: str) -> str:
    """A name that is one part of one line, and with the addresses in it as one part."""
    return _IPV4.sub(lambda match: match[0].replace(".", "_"), _SEPARATORS.sub("_", name))
