"""Decides requests of Envoy's protocol: what they ask of the counters, and what is said and counted of the answers."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from envoy.service.ratelimit.v3 import rls_pb2

from chassis.errors import MeshError, Unavailable
from services.ratelimit.descriptors.denials import Denials
from services.ratelimit.descriptors.plan import Plan, Planner, Slot, without
from services.ratelimit.descriptors.request import (
    OK,
    OVER_LIMIT,
    UNBOUNDED,
    Headers,
    Outcome,
    headers,
    metadata,
    parse,
    response,
)
from services.ratelimit.descriptors.statistics import Statistics
from services.ratelimit.model.decisions import Verdict
from services.ratelimit.model.descriptors import DescriptorBook, Rule
from services.ratelimit.model.limits import SECOND_US, Algorithm, Ask

# A request of the same bytes asks for the same under the same configuration; the largest are seldom the same twice.
# A descriptor takes about half a kilobyte.
_DESCRIPTORS_KEPT = 32_768
_LONGEST_KEPT_BYTES = 512


class Deciding(Protocol):
    """Who decides asks."""

    async def verdicts(self, asks: Sequence[Ask]) -> tuple[Sequence[Verdict], Sequence[bool]]:
        """For each ask the verdict, and whether it is of this instance alone."""


# Of one ask.
Told = tuple[Verdict, bool]


class Configuration(Protocol):
    """What is configured."""

    @property
    def book(self) -> DescriptorBook | None:
        """The descriptors in force; None as long as none could be loaded."""

    @property
    def problem(self) -> str:
        """What was wrong with the newest configuration; empty while it is in force."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How answers are made.

    Args:
        headers: names of the response headers; None for none.
        metadata: whether answers carry dynamic metadata.
        shadow: nothing is denied.
        quota: all rules are quotas.
        near_ratio: from which part of a limit on hits are counted as near to it.
    """

    headers: Headers | None = None
    metadata: bool = False
    shadow: bool = False
    quota: bool = False
    near_ratio: float = 0.8


class DescriptorLimits:
    """Answers requests.

    Args:
        now_us: the store's time, as far as it is known here.
    """

    def __init__(
        self,
        *,
        deciding: Deciding,
        configuration: Configuration,
        planner: Planner,
        manner: Manner,
        denials: Denials,
        now_us: Callable[[], int],
    ) -> None:
        self.statistics = Statistics()
        self._deciding = deciding
        self._configuration = configuration
        self._planner = planner
        self._manner = manner
        self._denials = denials
        self._now_us = now_us
        self._plans: OrderedDict[bytes, tuple[DescriptorBook, Plan]] = OrderedDict()
        self._descriptors_kept = 0

    def count_load(self) -> None:
        """Counts that a configuration was read, and whether it is in force."""
        problem = self._configuration.problem
        self.statistics.service["config_load_error" if problem else "config_load_success"] += 1

    async def answer(self, raw: bytes) -> bytes:
        """The answer to a request, both as they travel. Raises Invalid for a bad request, and counts nothing then."""
        [answer] = await self.answer_all((raw,))
        if isinstance(answer, MeshError):
            raise answer
        return answer

    async def answer_all(self, raws: Sequence[bytes]) -> list[bytes | MeshError]:
        """The answers to requests that came together; one that is wrong gets its error and holds up no other."""
        now_seconds = self._denials.now_seconds
        begun: list[tuple[Plan, Sequence[int]] | MeshError] = []
        asks: list[Ask] = []
        for raw in raws:
            try:
                plan = self._plan(raw)
            except MeshError as error:
                self.statistics.service["call.should_rate_limit.service_error"] += 1
                begun.append(error)
                continue
            known: Sequence[int] = self._known(plan) if len(self._denials) else ()
            asks += without(plan.asks, known) if known else plan.asks
            begun.append((plan, known))
        verdicts, degraded = await self._deciding.verdicts(asks) if asks else ((), ())
        told = iter(zip(verdicts, degraded, strict=True))
        answers: list[bytes | MeshError] = []
        for raw, one in zip(raws, begun, strict=True):
            if isinstance(one, MeshError):
                answers.append(one)
                continue
            plan, known = one
            found: list[Told | None] = list(islice(told, len(plan.asks) - len(known)))
            for at in known:
                found.insert(at, None)
            answers.append(self._response(raw, self._settle(plan, found, now_seconds)))
        return answers

    # -- asking --------------------------------------------------------------------------------------------------

    def _plan(self, raw: bytes) -> Plan:
        book = self._configuration.book
        if book is None:
            raise Unavailable("No descriptor configuration could be loaded", code="NO_CONFIGURATION")
        kept = self._plans.get(raw)
        if kept is not None and kept[0] is book:
            return kept[1]
        request = parse(raw)
        plan = self._planner.plan(book, request)
        if not plan.known_domain:
            self.statistics.count_unknown_domain(request.domain, len(plan.slots))
        elif len(raw) <= _LONGEST_KEPT_BYTES:
            self._keep(raw, book, plan)
        return plan

    def _keep(self, raw: bytes, book: DescriptorBook, plan: Plan) -> None:
        """One by one those that are known for longest go: all at once would stop everybody meanwhile."""
        if (before := self._plans.pop(raw, None)) is not None:
            self._descriptors_kept -= len(before[1].slots)
        self._plans[raw] = (book, plan)
        self._descriptors_kept += len(plan.slots)
        while self._descriptors_kept > _DESCRIPTORS_KEPT:
            _, (_, oldest) = self._plans.popitem(last=False)
            self._descriptors_kept -= len(oldest.slots)

    def _known(self, plan: Plan) -> list[int]:
        """Places of the asks that are known to be denied, in their order."""
        holds, asks = self._denials.holds, plan.asks
        return [
            slot.ask
            for slot in plan.slots
            if slot.rule is not None
            and slot.counted
            and not slot.refund
            and asks[slot.ask].limits[0].counts_denied
            and holds(asks[slot.ask].keys[0], slot.rule.requests_per_unit)
        ]

    # -- answering -----------------------------------------------------------------------------------------------

    def _settle(self, plan: Plan, told: Sequence[Told | None], asked_at_seconds: float) -> list[Outcome]:
        outcomes = []
        for slot in plan.slots:
            rule = slot.rule
            if rule is None:
                outcomes.append(Outcome(OK))
            elif rule.limit is None:
                outcomes.append(Outcome(OK, rule, UNBOUNDED))
            elif (one := told[slot.ask]) is None:
                outcomes.append(self._denied_here(slot, rule))
            else:
                outcomes.append(self._decided(slot, rule, plan.asks[slot.ask], one, asked_at_seconds))
        return outcomes

    def _denied_here(self, slot: Slot, rule: Rule) -> Outcome:
        self.statistics.of(slot.statistics).count_denied_here(rule, slot.hits)
        return Outcome(OK if rule.shadow else OVER_LIMIT, rule, 0, self._until_reset(rule, 0))

    def _decided(self, slot: Slot, rule: Rule, ask: Ask, told: Told, asked_at_seconds: float) -> Outcome:
        _, statistics, hits, refund, _, place = slot
        verdict, degraded = told
        levels, limit = verdict[2], ask[1][place]
        free, reset_us = levels[2 * place], levels[2 * place + 1]
        reset_seconds = -(-reset_us // SECOND_US) if reset_us else self._until_reset(rule, 0)
        if refund:
            self._denials.forget(ask.keys[place])
            return Outcome(OK, rule, max(0, free), reset_seconds)
        # As after INCRBY, also where a limit of 0 is counted under one of 1.
        after = limit.limit - free
        over = after > rule.requests_per_unit
        if not limit.counts_denied:
            # Nothing was taken of what does not fit.
            over = bool(verdict[3] >> place & 1) or rule.requests_per_unit == 0
            after += hits if over else 0
        elif over and not degraded:
            self._denials.remember(
                ask.keys[place], rule.requests_per_unit, asked_at_seconds=asked_at_seconds, reset_us=reset_us
            )
        self.statistics.of(statistics).count(rule, hits, after, self._manner.near_ratio)
        code = OVER_LIMIT if over and not rule.shadow else OK
        # The class's own call takes three times as long.
        return tuple.__new__(Outcome, (code, rule, 0 if over or free < 0 else free, reset_seconds))

    def _until_reset(self, rule: Rule, reset_us: int) -> int:
        """Whole seconds, rounded up; of a window nothing is counted in, until it ends all the same."""
        limit = rule.limit
        if reset_us == 0 and limit is not None and limit.algorithm is Algorithm.FIXED_WINDOW:
            reset_us = limit.window_us - self._now_us() % limit.window_us
        return -(-reset_us // SECOND_US)

    def _response(self, raw: bytes, outcomes: list[Outcome]) -> bytes:
        manner = self._manner
        over = [index for index, one in enumerate(outcomes) if one.code == OVER_LIMIT]
        over_quota: list[int] = []
        if over:
            outcomes, over_quota = self._spare_quotas(outcomes, over)
        denying = [one for one in outcomes if one.code == OVER_LIMIT]
        overall = OVER_LIMIT if denying else OK
        if denying and manner.shadow:
            overall = OK
            self.statistics.service["global_shadow_mode"] += 1
        answer = response(outcomes, overall)
        if manner.headers is None and not manner.metadata:
            return answer
        more = rls_pb2.RateLimitResponse()
        if manner.headers is not None:
            more.response_headers_to_add.extend(headers(manner.headers, outcomes, denying=denying))
        if manner.metadata:
            message = rls_pb2.RateLimitRequest.FromString(raw)
            more.dynamic_metadata.CopyFrom(metadata(message, outcomes, over_quota=over_quota))
        return answer + more.SerializeToString()

    def _spare_quotas(self, outcomes: list[Outcome], over: Sequence[int]) -> tuple[list[Outcome], list[int]]:
        """Quotas deny only when all of them are exceeded; until then they are told of and let the request pass."""
        quotas = [index for index, one in enumerate(outcomes) if self._is_quota(one)]
        over_quota = [index for index in over if index in quotas]
        if len(over_quota) == len(quotas):
            return outcomes, over_quota
        spared = [one._replace(code=OK) if index in over_quota else one for index, one in enumerate(outcomes)]
        return spared, over_quota

    def _is_quota(self, outcome: Outcome) -> bool:
        rule = outcome.rule
        return rule is not None and not rule.unlimited and (rule.quota or self._manner.quota)
