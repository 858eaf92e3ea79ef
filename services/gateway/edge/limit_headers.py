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
        self._policies: dict[tuple[str, int, int, bool, bytes], bytes] = {}

    def of(self, context: RequestContext, now: datetime, *, openai: bool) -> list[Header]:
        """The headers of an answer.

        Args:
            openai: also the names that the OpenAI SDKs read.
        """
        headers: list[Header] = [_DEGRADED] if context.degraded else []
        decision, tokens = context.decision, context.tokens.decision
        if decision is None or not decision.rules:
            return headers
        rules = decision.rules
        shown = tokens if tokens is not None and decision.allowed and not tokens.allowed else decision
        tightest = shown.rules[shown.tightest]
        policies = [self._policy(rule) for rule in rules]
        longest = None if decision.allowed and shown is decision else _wait_seconds(decision, tokens)
        states = [_state(rule, longest) for rule in rules]
        if tokens is not None:
            policies += [self._policy(rule, _TOKENS) for rule in tokens.rules]
            states += [_state(rule, longest) for rule in tokens.rules]
        headers += (
            (b"x-ratelimit-limit", b"%d" % tightest.limit),
            (b"x-ratelimit-remaining", b"%d" % tightest.remaining),
            (b"x-ratelimit-reset", b"%d" % ceil(now.timestamp() + tightest.reset_after_ms / 1000)),
            (b"x-ratelimit-rule", tightest.name.encode()),
            (b"ratelimit-policy", b", ".join(policies)),
            (b"ratelimit", b", ".join(states)),
        )
        if openai:
            headers += _openai(b"requests", _of_requests(decision))
            if tokens is not None:
                headers += _openai(b"tokens", tokens.rules[tokens.tightest])
        return headers

    def _policy(self, rule: ratelimit_pb2.RuleState, unit: bytes = b"") -> bytes:
        key = rule.name, rule.limit, rule.window_seconds, rule.concurrent, unit
        policy = self._policies.get(key)
        if policy is None:
            if len(self._policies) >= _MOST_POLICIES:
                self._policies.clear()
            # What is held at the same time has no window.
            rest = b';qu="concurrent-requests"' if rule.concurrent else b";w=%d%s" % (rule.window_seconds, unit)
            policy = self._policies[key] = b"%s;q=%d%s" % (_string(rule.name), rule.limit, rest)
        return policy


def _wait_seconds(decision: ratelimit_pb2.Decision, tokens: ratelimit_pb2.Decision | None) -> int | None:
    """What Retry-After says of a refusal; None where it is left out."""
    refusals = [one for one in (decision, tokens) if one is not None and not one.allowed]
    if not all(one.HasField("retry_after_ms") for one in refusals):
        return None
    return max(1, *(-(-one.retry_after_ms // 1000) for one in refusals))


def _state(rule: ratelimit_pb2.RuleState, longest: int | None) -> bytes:
    """What is left of a rule. Retry-After must not be earlier than a `t` beside it: the wait of a violated rule is part
    of it, and of one that has something left nobody waits for more.
    """
    state = b"%s;r=%d" % (_string(rule.name), rule.remaining)
    seconds = -(-rule.reset_after_ms // 1000)
    if longest is not None and seconds > longest:
        return b"%s;t=%d" % (state, longest) if rule.violated and not rule.concurrent else state
    return state if rule.concurrent else b"%s;t=%d" % (state, seconds)


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
