"""Asks the ratelimit service about each request, and says in headers what it answered.

Counts nothing itself. When the service cannot be asked, requests pass (`Limits._fail_open`, the one place that decides
so): a limiter that is away must not take the mesh with it.
"""

from collections.abc import Awaitable, Callable
from datetime import datetime
from math import ceil

from mesh.ratelimit.v1 import ratelimit_pb2
from prometheus_client import CollectorRegistry, Counter

from chassis.breaker import Breaker
from chassis.errors import Exhausted, MeshError
from chassis.logging import get_logger
from services.gateway.edge.asgi import Header
from services.gateway.edge.context import RequestContext

log = get_logger(__name__)

_DEGRADED: Header = (b"x-ratelimit-degraded", b"true")


Decide = Callable[[ratelimit_pb2.DecideRequest], Awaitable[ratelimit_pb2.DecideResponse]]


class Limits:
    """One question a request; the lane beneath makes frames of those that wait together.

    Args:
        decide: asks the service, and raises MeshError when it does not answer soon.
        breaker: ends the asking for a while when it keeps failing, so that nobody waits for nothing.
    """

    def __init__(self, decide: Decide, breaker: Breaker, registry: CollectorRegistry) -> None:
        self._ask = decide
        self._breaker = breaker
        self._failing_open = False
        self._unasked = Counter(
            "mesh_ratelimit_unasked", "Requests that passed because ratelimit did not answer", registry=registry
        )

    async def decide(self, context: RequestContext) -> None:
        """Puts the decision into the context. Raises Exhausted when it is no."""
        request = ratelimit_pb2.DecideRequest(subjects=[_subject(context)])
        try:
            generation = self._breaker.begin()
        except MeshError as error:
            self._fail_open(context, error)
            return
        try:
            response = await self._ask(request)
        except MeshError as error:
            self._breaker.fail(generation)
            self._fail_open(context, error)
            return
        except BaseException:
            self._breaker.give_up(generation)
            raise
        self._breaker.succeed(generation)
        self._failing_open = False
        decision = response.decisions[0]
        context.decision, context.degraded = decision, decision.degraded
        if not decision.allowed:
            raise _refusal(decision)

    def _fail_open(self, context: RequestContext, error: MeshError) -> None:
        context.degraded = True
        self._unasked.inc()
        if not self._failing_open:
            self._failing_open = True
            log.warning("The ratelimit service does not answer; requests pass without limits", error=str(error))


def _subject(context: RequestContext) -> ratelimit_pb2.Subject:
    principal = context.principal
    if principal is None:
        address = context.client_ip
        return ratelimit_pb2.Subject(route_class=context.route_class, user=address, role="anonymous", ip=address)
    return ratelimit_pb2.Subject(
        route_class=context.route_class,
        user=principal.user_id,
        role=principal.role,
        api_key=principal.key_id,
        ip=context.client_ip,
    )


def _refusal(decision: ratelimit_pb2.Decision) -> Exhausted:
    seconds = decision.retry_after_ms / 1000 if decision.HasField("retry_after_ms") else None
    details = {"rule": decision.rules[decision.tightest].name} if decision.rules else {}
    return Exhausted("Rate limit exceeded", details=details, retry_after_seconds=seconds)


class LimitHeaders:
    """Turns decisions into the headers of API §5. Policies change with the rules file alone and are kept as bytes."""

    _MOST_POLICIES = 1024

    def __init__(self) -> None:
        self._policies: dict[tuple[str, int, int], bytes] = {}

    def of(self, context: RequestContext, now: datetime, *, openai: bool) -> list[Header]:
        """The headers of an answer, from its one decision.

        Args:
            openai: also the names that the OpenAI SDKs read.
        """
        decision = context.decision
        headers: list[Header] = [_DEGRADED] if context.degraded else []
        if decision is None or not decision.rules:
            return headers
        tightest = decision.rules[decision.tightest]
        limit, remaining = b"%d" % tightest.limit, b"%d" % tightest.remaining
        reset_ms = tightest.reset_after_ms
        headers += (
            (b"x-ratelimit-limit", limit),
            (b"x-ratelimit-remaining", remaining),
            (b"x-ratelimit-reset", b"%d" % ceil(now.timestamp() + reset_ms / 1000)),
            (b"x-ratelimit-rule", tightest.name.encode()),
            (b"ratelimit-policy", b", ".join([self._policy(rule) for rule in decision.rules])),
            (b"ratelimit", b", ".join([_state(rule) for rule in decision.rules])),
        )
        if openai:
            headers += (
                (b"x-ratelimit-limit-requests", limit),
                (b"x-ratelimit-remaining-requests", remaining),
                (b"x-ratelimit-reset-requests", duration(reset_ms)),
            )
        return headers

    def _policy(self, rule: ratelimit_pb2.RuleState) -> bytes:
        key = rule.name, rule.limit, rule.window_seconds
        policy = self._policies.get(key)
        if policy is None:
            if len(self._policies) >= self._MOST_POLICIES:
                self._policies.clear()
            policy = self._policies[key] = b'"%s";q=%d;w=%d' % (rule.name.encode(), rule.limit, rule.window_seconds)
        return policy


def _state(rule: ratelimit_pb2.RuleState) -> bytes:
    return b'"%s";r=%d;t=%d' % (rule.name.encode(), rule.remaining, -(-rule.reset_after_ms // 1000))


def duration(milliseconds: int) -> bytes:
    """As OpenAI writes it: ``6m0s``, ``1.5s``, ``20ms``."""
    if milliseconds < 1000:  # noqa: PLR2004 - a second
        return b"%dms" % milliseconds
    minutes, rest = divmod(milliseconds, 60_000)
    seconds = f"{rest / 1000:.3f}".rstrip("0").rstrip(".")
    return f"{minutes}m{seconds}s".encode() if minutes else f"{seconds}s".encode()
