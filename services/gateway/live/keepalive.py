"""How often a socket's other end is asked whether it is there. A route that has to know soon says so on accepting."""

from dataclasses import dataclass

from services.gateway.edge.asgi import Scope

_EXTENSION = "mesh.keepalive"


@dataclass(frozen=True, slots=True, kw_only=True)
class Keepalive:
    """A ping every so often, and its pong within."""

    every_seconds: float
    within_seconds: float


# Programs that read now and then only (between long computations, say) have to get along with it.
PATIENT = Keepalive(every_seconds=20.0, within_seconds=20.0)
# For those whose host may vanish with the work of others: noticed within seven seconds, so that the two in which it may
# come back and the way to another worker still end within twelve.
BRISK = Keepalive(every_seconds=2.0, within_seconds=5.0)


def ask_often(scope: Scope) -> None:
    """Asks this socket often."""
    scope.setdefault("extensions", {})[_EXTENSION] = BRISK


def keepalive_of(scope: Scope) -> Keepalive:
    """How often this socket is asked."""
    found: Keepalive = scope.get("extensions", {}).get(_EXTENSION, PATIENT)
    return found
