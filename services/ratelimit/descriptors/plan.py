"""What a request asks of the counters: found once for each form of request and configuration. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from services.ratelimit.descriptors.request import Descriptor, Request
from services.ratelimit.model.descriptors import DescriptorBook, Match, Rule, counter_key, name_of
from services.ratelimit.model.errands import Action, Errand
from services.ratelimit.model.limits import Ask, Limit
from services.ratelimit.rules.envoy import override

_NOWHERE = -1
_GIVE_BACK = Errand(Action.REFUND)


class Slot(NamedTuple):
    """One descriptor in a plan.

    Args:
        rule: None when no limit holds for it.
        ask: index of its ask, and `place` its place there; -1 when it needs no counter.
    """

    rule: Rule | None
    statistics: str = ""
    hits: int = 0
    refund: bool = False
    ask: int = _NOWHERE
    place: int = 0

    @property
    def counted(self) -> bool:
        """Whether a counter decides it."""
        return self.ask != _NOWHERE


class Plan(NamedTuple):
    """All descriptors of a request, in its order, and what to ask for them."""

    slots: tuple[Slot, ...]
    asks: tuple[Ask, ...]
    known_domain: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Planner:
    """Makes plans.

    Args:
        prefix: stands before all counters' keys.
        counts_denied: whether each descriptor is counted by itself, also when it or another one denies the request.
            If not, those of a request that can deny it are taken all or none, if they count the same number of hits.
        watching: whether rules deny only when all do, or none ever does; then each is counted by itself too.
    """

    prefix: str
    counts_denied: bool
    watching: bool = False

    def plan(self, book: DescriptorBook, request: Request) -> Plan:
        """What to ask. Raises Invalid for an override without a unit."""
        matches = [self._match(book, request.domain, descriptor) for descriptor in request.descriptors]
        replaced = {name for match in matches if match is not None for name in match.rule.replaces}
        slots: list[Slot] = []
        asks: list[Ask] = []
        together: dict[int, int] = {}
        for descriptor, match in zip(request.descriptors, matches, strict=True):
            if match is None or (match.rule.name and match.rule.name in replaced and not match.rule.unlimited):
                slots.append(Slot(None))
                continue
            slot = Slot(match.rule, match.statistics, descriptor.hits, descriptor.refund)
            if match.rule.limit is not None:
                slot = self._placed(slot, self._key(request.domain, match, match.rule.limit), asks, together)
            slots.append(slot)
        return Plan(tuple(slots), tuple(asks), request.domain in book.domains)

    def _match(self, book: DescriptorBook, domain: str, descriptor: Descriptor) -> Match | None:
        if descriptor.override is None or domain not in book.domains:
            return book.find(domain, descriptor.entries)
        requests, unit = descriptor.override
        rule = override(requests, unit, counts_denied=self.counts_denied)
        return Match(rule, descriptor.entries, name_of(domain, descriptor.entries))

    def _key(self, domain: str, match: Match, limit: Limit) -> str:
        return counter_key(self.prefix, domain, match.entries, limit, by_domain=not self.counts_denied)

    def _placed(self, slot: Slot, key: str, asks: list[Ask], together: dict[int, int]) -> Slot:
        """The slot with its ask: one of its own, or the one that it shares with others that are taken with it."""
        rule = slot.rule
        if rule is None or rule.limit is None:
            return slot
        alone = self.counts_denied or self.watching or slot.refund or rule.shadow or rule.quota
        index = _NOWHERE if alone else together.get(slot.hits, _NOWHERE)
        if index == _NOWHERE or key in asks[index].keys:
            asks.append(Ask((key,), (rule.limit,), slot.hits, _GIVE_BACK if slot.refund else None))
            index = len(asks) - 1
            if not alone:
                # The first of its hits: one that stands in the request twice is taken by itself.
                together.setdefault(slot.hits, index)
            return slot._replace(ask=index)
        asks[index] = _joined(asks[index], key, rule.limit)
        return slot._replace(ask=index, place=len(asks[index].keys) - 1)


def _joined(ask: Ask, key: str, limit: Limit) -> Ask:
    return Ask((*ask.keys, key), (*ask.limits, limit), ask.cost, ask.errand)


def without(asks: Sequence[Ask], left_out: Iterable[int]) -> list[Ask]:
    """Asks but for those at some places."""
    skipped = set(left_out)
    return [ask for index, ask in enumerate(asks) if index not in skipped]
