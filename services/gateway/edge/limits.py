"""Asks the ratelimit service about each request, before it runs, and tells it when the request has ended.

When the service cannot be asked, requests pass (`Limits._fail_open`, the one place that decides so): a limiter that is
away must not take the mesh with it. Only at the same time there are no more of a user's than this process may let in.
"""

from collections.abc import Sequence

from mesh.ratelimit.v1 import ratelimit_pb2, ratelimit_pb2_grpc
from prometheus_client import CollectorRegistry, Counter

from chassis.breaker import Breaker
from chassis.clock import Clock
from chassis.errors import Invalid, MeshError
from chassis.logging import get_logger
from services.gateway.edge.context import RequestContext
from services.gateway.edge.denials import Denials, Key
from services.gateway.edge.holds import Holds
from services.gateway.edge.places import Places, limits_of
from services.gateway.edge.refusals import beyond, refusal, too_many
from services.gateway.edge.rules_watch import TOKENS, RulesWatch
from services.gateway.edge.tokens import Reservation, Taken

log = get_logger(__name__)

# A decision takes about a millisecond. Beyond this a request is better served than kept.
_PATIENCE_SECONDS = 0.5
_MOST_TOKENS = 1_000_000


class Limits:
    """One question a request; the lane beneath makes frames of those that wait together.

    Args:
        service: ratelimit's stub.
        breaker: ends the asking for a while when it keeps failing, so that nobody waits for nothing.
    """

    def __init__(
        self,
        service: "ratelimit_pb2_grpc.RatelimitServiceAsyncStub",
        breaker: Breaker,
        clock: Clock,
        registry: CollectorRegistry,
    ) -> None:
        self._service = service
        self._breaker = breaker
        self._clock = clock
        self._failing_open = False
        self._denials = Denials()
        self.holds = Holds(service, clock, registry)
        self._places = Places()
        self.watch = RulesWatch(service, self._follow)
        self._unasked = Counter(
            "mesh_ratelimit_unasked", "Requests that passed because ratelimit did not answer", registry=registry
        )
        self._remembered = Counter(
            "mesh_ratelimit_remembered_denials", "Requests refused without asking ratelimit again", registry=registry
        )

    def _follow(self, generation: int | None) -> None:
        self._denials.follow(generation)
        self._places.follow(generation)

    async def decide(self, context: RequestContext, tokens: int | None = None) -> None:
        """Puts the decision into the context. Raises OverLimit when it is no; nothing is taken then.

        Whoever asks ends the request with `leave`, whatever becomes of it.

        Args:
            tokens: how many the request will probably use of its user's tokens; 0: nobody knows yet, None: it uses
                none.
        """
        if self._denials:
            self._recall(context)
        subject = _subject(context, self.holds.new_id())
        subjects = [subject]
        if tokens and self.watch.counts_tokens:
            subjects.append(_token_subject(context, tokens))
        elif tokens is not None and self.watch.counts_tokens:
            # Whatever becomes of the request's own class, which the rules may not know.
            context.tokens = self._reservation(context)
        asked_at = self._clock.monotonic()
        decisions = await self._ask(context, subjects)
        if decisions is None:
            return
        decision = context.decision = decisions[0]
        context.degraded = decision.degraded
        self._places.learn(_key(context), subject.role, decision)
        if len(subjects) > 1:
            self._reserve(context, (subjects[1], asked_at), decisions[1])
        if not decision.allowed:
            self._denials.keep(_key(context), decision, asked_at, self._clock.monotonic())
            raise refusal(*decisions)
        self._take(context, (subject, asked_at), decision)
        if context.tokens is not None and context.tokens.refused:
            raise beyond(decisions[1], tokens or 0) or refusal(*decisions)

    def _recall(self, context: RequestContext) -> None:
        denial = self._denials.find(_key(context), self._clock.monotonic())
        if denial is not None:
            self._remembered.inc()
            context.decision = denial
            raise refusal(denial)

    def _take(self, context: RequestContext, asked: Taken, decision: ratelimit_pb2.Decision) -> None:
        subject, asked_at = asked
        leases = [rule.window_seconds for rule in decision.rules if rule.concurrent]
        if leases:
            limits = limits_of(decision)
            if rule := self._places.full(subject.user, limits, doubtful=True):
                self.holds.release(subject)
                self.holds.refund(subject, 1, asked_at)
                # Its figures are not those that refuse.
                context.decision, context.degraded = None, True
                raise too_many(rule)
            self._places.take(subject, limits)
            self.holds.take(subject, min(leases))
            context.holds = True
        context.subject, context.asked_at = subject, asked_at

    # -- tokens ----------------------------------------------------------------------------------------------------

    def _reserve(self, context: RequestContext, asked: Taken, decision: ratelimit_pb2.Decision) -> None:
        """All or nothing over both subjects: of a refused request `leave` gives back what either of them took."""
        if not decision.rules:
            return
        reservation = context.tokens = self._reservation(context)
        reservation.decision, reservation.refused = decision, not decision.allowed
        if decision.allowed:
            reservation.taken.append(asked)

    def _reservation(self, context: RequestContext) -> Reservation:
        async def reserve(tokens: int, needed: int) -> Taken | None:
            return await self._reserve_more(context, reservation, tokens, needed)

        reservation = Reservation(reserve=reserve)
        return reservation

    async def _reserve_more(
        self, context: RequestContext, reservation: Reservation, tokens: int, needed: int
    ) -> Taken | None:
        subject, asked_at = _token_subject(context, tokens), self._clock.monotonic()
        decisions = await self._ask(context, [subject])
        if decisions is None or not decisions[0].rules:
            return None
        decision = reservation.decision = decisions[0]
        never = beyond(decision, needed)
        if decision.allowed and never is None:
            return subject, asked_at
        reservation.refused = True
        if decision.allowed:
            # It goes back with the rest.
            reservation.taken.append((subject, asked_at))
        raise never or refusal(decision)

    # -- the end of a request --------------------------------------------------------------------------------------

    def leave(self, context: RequestContext, *, failed: bool) -> None:
        """The request has ended: what it held and did not use goes back. At once, and the second time nothing happens.

        Args:
            failed: its answer was an error, so no token was used.
        """
        tokens, subject = context.tokens, context.subject
        if subject is not None:
            self._places.leave(subject.hold)
        if context.holds and subject is not None:
            context.holds = False
            self.holds.release(subject)
        if tokens is None:
            return
        context.tokens = None
        for (reserved, asked_at), amount in tokens.unused(0 if failed else tokens.used):
            self.holds.refund(reserved, amount, asked_at)
        if tokens.refused and subject is not None:
            self.holds.refund(subject, 1, context.asked_at)
            self._denials.forget(_key(context))

    # -- asking ----------------------------------------------------------------------------------------------------

    async def _ask(
        self, context: RequestContext, subjects: list[ratelimit_pb2.Subject]
    ) -> Sequence[ratelimit_pb2.Decision] | None:
        """One decision for each subject; None when the service does not answer, and the request passes."""
        try:
            generation = self._breaker.begin()
        except MeshError as error:
            self._fail_open(context, subjects[0], error)
            return None
        request = ratelimit_pb2.DecideRequest(subjects=subjects)
        if releases := self.holds.ended():
            request.releases.extend(releases)
        if refunds := self.holds.refunds():
            request.refunds.extend(refunds)
        try:
            response = await self._service.Decide(request, timeout=_PATIENCE_SECONDS)
        except MeshError as error:
            # What is wrong with one request is no failure: it must not end the asking for others.
            told = self._breaker.succeed if isinstance(error, Invalid) else self._breaker.fail
            told(generation)
            if isinstance(error, Invalid) and error.details.get("field") == "route_class":
                # It was decided that nothing limits this class.
                return None
            self._in_doubt([subjects[0], *releases])
            self._fail_open(context, subjects[0], error)
            return None
        except BaseException:
            self._breaker.give_up(generation)
            self._in_doubt([subjects[0], *releases])
            raise
        self._breaker.succeed(generation)
        self._failing_open = False
        return response.decisions

    def _in_doubt(self, subjects: list[ratelimit_pb2.Subject]) -> None:
        """They may hold places now; giving back what was never taken, or twice, does no harm."""
        for subject in subjects:
            if subject.hold:
                self.holds.release(subject)

    def _fail_open(self, context: RequestContext, subject: ratelimit_pb2.Subject, error: MeshError) -> None:
        """Raises OverLimit when the user has as many requests here as may be at the same time."""
        context.degraded = True
        if not self._failing_open:
            self._failing_open = True
            self._places.doubt()
            log.warning("The ratelimit service does not answer; requests pass at any rate", error=str(error))
        # Without a hold more tokens are asked for, by a request that has its place.
        if subject.hold:
            limits = self._places.known(_key(context), subject.role)
            if rule := self._places.full(subject.user, limits):
                raise too_many(rule)
            self._places.take(subject, limits, doubtful=True)
            context.subject = subject
        self._unasked.inc()


def _key(context: RequestContext) -> Key:
    """Whose refusals are alike: all that a request is decided by but its hold."""
    principal = context.principal
    if principal is None:
        return context.route_class, context.client_ip
    return context.route_class, principal.user_id, principal.role, principal.key_id, context.client_ip


def _subject(context: RequestContext, hold: str) -> ratelimit_pb2.Subject:
    principal = context.principal
    if principal is None:
        address = context.client_ip
        return ratelimit_pb2.Subject(
            route_class=context.route_class, user=address, role="anonymous", ip=address, hold=hold
        )
    return ratelimit_pb2.Subject(
        route_class=context.route_class,
        user=principal.user_id,
        role=principal.role,
        api_key=principal.key_id,
        ip=context.client_ip,
        hold=hold,
    )


def _token_subject(context: RequestContext, tokens: int) -> ratelimit_pb2.Subject:
    subject = _subject(context, "")
    subject.route_class = TOKENS
    subject.cost = min(tokens, _MOST_TOKENS)
    return subject
