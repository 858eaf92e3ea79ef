"""How many requests at the same time this process itself has let in, by rule and user, and what their limits are.

The ratelimit service counts for all processes. This is what is left to go by while it does not answer, and afterwards
for users of whom it may know too little. Knows neither rates nor leases.
"""

from collections.abc import Mapping

from mesh.ratelimit.v1 import ratelimit_pb2

from services.gateway.edge.denials import Key

_MOST_CALLERS = 10_000
_NO_LIMITS: Mapping[str, int] = {}


def limits_of(decision: ratelimit_pb2.Decision) -> dict[str, int]:
    """Rule → how many requests at the same time."""
    return {rule.name: rule.limit for rule in decision.rules if rule.concurrent}


class Places:
    """Places by hold. All rules are counted by user, because decisions do not say by what else."""

    def __init__(self) -> None:
        self._generation: int | None = None
        # Limits with their generation: of callers, who may have limits of their own, and for others by class and role.
        self._callers: dict[Key, tuple[int, Mapping[str, int]]] = {}
        self._classes: dict[Key, tuple[int, Mapping[str, int]]] = {}
        self._held: dict[str, list[tuple[str, str]]] = {}
        self._counts: dict[tuple[str, str], int] = {}
        # Of whose places the service may know too few.
        self._doubtful: set[tuple[str, str]] = set()

    def follow(self, generation: int | None) -> None:
        """These rules are in force, and what others said is forgotten; None: nobody tells, so the last known are."""
        if generation is not None and generation != self._generation:
            self._generation = generation
            self._callers.clear()
            self._classes.clear()

    def learn(self, caller: Key, role: str, decision: ratelimit_pb2.Decision) -> None:
        """Remembers the limits of this caller, and for callers not seen yet those of its class (the first of the key)
        and role.
        """
        known = self._callers.get(caller)
        if decision.degraded or (known is not None and known[0] == decision.generation):
            return
        if len(self._callers) >= _MOST_CALLERS:
            self._callers.clear()
        self._callers[caller] = self._classes[caller[0], role] = decision.generation, limits_of(decision)

    def known(self, caller: Key, role: str) -> Mapping[str, int]:
        """The limits of this caller, as far as any are known."""
        found = self._callers.get(caller) or self._classes.get((caller[0], role))
        return _NO_LIMITS if found is None else found[1]

    def full(self, user: str, limits: Mapping[str, int], *, doubtful: bool = False) -> str | None:
        """A rule under which this user has no place left here.

        Args:
            doubtful: the service has said yes, so only those rules are looked at of which it may know too little.
        """
        if doubtful and not self._doubtful:
            return None
        for rule, most in limits.items():
            if self._counts.get((rule, user), 0) >= most and (not doubtful or (rule, user) in self._doubtful):
                return rule
        return None

    def take(self, subject: ratelimit_pb2.Subject, limits: Mapping[str, int], *, doubtful: bool = False) -> None:
        """The subject is let in under these rules, until `leave`; doubtful: without the service."""
        if not limits:
            return
        places = self._held[subject.hold] = [(rule, subject.user) for rule in limits]
        for place in places:
            self._counts[place] = self._counts.get(place, 0) + 1
        if doubtful:
            self._doubtful.update(places)

    def leave(self, hold: str) -> None:
        """Its request has ended. The second time nothing happens."""
        for place in self._held.pop(hold, ()):
            self._counts[place] -= 1
            if not self._counts[place]:
                del self._counts[place]
                self._doubtful.discard(place)

    def doubt(self) -> None:
        """The service does not answer: what is held now it may have forgotten when it does again."""
        self._doubtful.update(self._counts)
