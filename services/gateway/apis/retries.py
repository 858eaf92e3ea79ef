"""When the same request may be sent again, in whole seconds: never 0, never earlier than what the service said."""

from math import ceil

from chassis.errors import Exhausted, MeshError, Unavailable
from services.gateway.edge.errors import OverLimit


def retry_after(error: MeshError) -> int | None:
    """Seconds for ``Retry-After`` and for bodies that repeat it; None for errors that waiting does not mend, and for
    those that end when nobody can know: a retry at a time that was made up might fail again.
    """
    if error.retry_after_seconds is not None:
        return max(1, ceil(error.retry_after_seconds))
    if isinstance(error, OverLimit):
        return None
    return 1 if isinstance(error, Exhausted | Unavailable) else None
