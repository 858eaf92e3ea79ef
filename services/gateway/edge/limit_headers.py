"""Says in headers what was decided: in the old names, in the draft's (structured fields, RFC 9651), and in those that
OpenAI's SDKs read. All of them come from the one decision.
"""

from datetime import datetime
from math import ceil

from mesh.ratelimit.v1 import ratelimit_pb2

from services.gateway.edge.asgi import Header
from services.gateway.edge.context import RequestContext

_DEGRADED: Header = (b"x-ratelimit-degraded", b"true")
# The draft registers no unit for tokens; without one the figures would read as requests.
_TOKENS = b';qu="tokens"'
_MOST_POLICIES = 1024


class LimitHeaders:
    """Turns decisions into the headers of API §5. Policies change with the rules file alone and are kept as bytes."""

    def __init__(self) -> None:
        # Of each rule the name as a string of RFC 9651, and its policy.
        self._known: dict[tuple[str, int, int, bool, bytes], tuple[bytes, bytes]] = {}

    def of(self, context: RequestContext, now: datetime, *, openai: bool) -> list[Header]:
        """The headers of an answer.

        Args:
            openai: also the names that the OpenAI SDKs read.
        """
        headers: list[Header] = [_DEGRADED] if context.degraded else []
        decision = context.decision
        tokens = None if context.tokens is None else context.tokens.decision
        if decision is None or not decision.rules:
            return headers
        shown = tokens if tokens is not None and decision.allowed and not tokens.allowed else decision
        longest = None if shown.allowed else _wait_seconds(decision, tokens)
        policies: list[bytes] = []
        states: list[bytes] = []
        self._describe(decision, longest, b"", (policies, states))
        if tokens is not None:
            self._describe(tokens, longest, _TOKENS, (policies, states))
        tightest = shown.rules[shown.tightest]
        limit, remaining, reset_ms = tightest.limit, tightest.remaining, tightest.reset_after_ms
        headers += (
            (b"x-ratelimit-limit", b"%d" % limit),
            (b"x-ratelimit-remaining", b"%d" % remaining),
            (b"x-ratelimit-reset", b"%d" % ceil(now.timestamp() + reset_ms / 1000)),
            (b"x-ratelimit-rule", tightest.name.encode()),
            (b"ratelimit-policy", b", ".join(policies)),
            (b"ratelimit", b", ".join(states)),
        )
        if openai:
            headers += _openai(b"requests", _of_requests(decision))
            if tokens is not None:
                headers += _openai(b"tokens", tokens.rules[tokens.tightest])
        return headers

    def _describe(
        self,
        decision: ratelimit_pb2.Decision,
        longest: int | None,
        unit: bytes,
        into: tuple[list[bytes], list[bytes]],
    ) -> None:
        """Adds the policy and the state of each rule.

        Args:
            longest: seconds that Retry-After says of a refusal. No `t` beside it may be later: the wait of a violated
                rule is part of it, and for one that has something left nobody waits.
        """
        policies, states = into
        for rule in decision.rules:
            concurrent = rule.concurrent
            key = rule.name, rule.limit, rule.window_seconds, concurrent, unit
            name, policy = self._known.get(key) or self._learn(key)
            policies.append(policy)
            seconds = -(-rule.reset_after_ms // 1000)
            if longest is not None and seconds > longest:
                concurrent, seconds = concurrent or not rule.violated, longest
            states.append(
                b"%s;r=%d" % (name, rule.remaining) if concurrent else b"%s;r=%d;t=%d" % (name, rule.remaining, seconds)
            )

    def _learn(self, key: tuple[str, int, int, bool, bytes]) -> tuple[bytes, bytes]:
        name, limit, window_seconds, concurrent, unit = key
        if len(self._known) >= _MOST_POLICIES:
            self._known.clear()
        # What is held at the same time has no window.
        rest = b';qu="concurrent-requests"' if concurrent else b";w=%d%s" % (window_seconds, unit)
        quoted = _string(name)
        known = self._known[key] = quoted, b"%s;q=%d%s" % (quoted, limit, rest)
        return known


def _wait_seconds(decision: ratelimit_pb2.Decision, tokens: ratelimit_pb2.Decision | None) -> int | None:
    """What Retry-After says of a refusal; None where it is left out."""
    refusals = [one for one in (decision, tokens) if one is not None and not one.allowed]
    if not all(one.HasField("retry_after_ms") for one in refusals):
        return None
    return max(1, *(-(-one.retry_after_ms // 1000) for one in refusals))


def _string(text: str) -> bytes:
    """A string of RFC 9651, which holds printable ASCII. The rules file allows names nothing else anyway."""
    plain = text.encode("ascii", "replace")
    return b'"%s"' % plain.replace(b"\\", b"\\\\").replace(b'"', b'\\"')


def _of_requests(decision: ratelimit_pb2.Decision) -> ratelimit_pb2.RuleState:
    """The rule to show as OpenAI's limit of requests: the tightest of those that have a window, if one has."""
    tightest = decision.rules[decision.tightest]
    if not tightest.concurrent:
        return tightest
    windows = [rule for rule in decision.rules if not rule.concurrent]
    return min(windows, key=lambda rule: rule.remaining / rule.limit) if windows else tightest


def _openai(what: bytes, rule: ratelimit_pb2.RuleState) -> tuple[Header, ...]:
    return (
        (b"x-ratelimit-limit-" + what, b"%d" % rule.limit),
        (b"x-ratelimit-remaining-" + what, b"%d" % rule.remaining),
        (b"x-ratelimit-reset-" + what, duration(rule.reset_after_ms)),
    )


def duration(milliseconds: int) -> bytes:
    """As OpenAI writes it: ``6m0s``, ``1.5s``, ``20ms``."""
    if milliseconds < 1000:  # noqa: PLR2004 - a second
        return b"%dms" % milliseconds
    minutes, rest = divmod(milliseconds, 60_000)
    seconds = f"{rest / 1000:.3f}".rstrip("0").rstrip(".")
    return f"{minutes}m{seconds}s".encode() if minutes else f"{seconds}s".encode()
