"""How many requests, how long and with what end, by route template."""

from prometheus_client import CollectorRegistry, Gauge, Histogram

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "WEBSOCKET"})
_UNMATCHED = "unmatched"


class Metrics:
    """The edge's own figures. Labels come from closed sets alone: templates, known methods, status codes."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._seconds = Histogram(
            "mesh_http_request_seconds",
            "Requests answered",
            ["route", "method", "status"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self._in_flight = 0
        in_flight = Gauge("mesh_http_in_flight", "Requests and sockets being served now", registry=registry)
        # Read when it is asked for: setting it twice a request costs as much as observing it.
        in_flight.set_function(lambda: self._in_flight)
        # Looking a child up by its labels costs more than observing it.
        self._children: dict[tuple[str, str, int], Histogram] = {}
        self._requests = 0
        self._total_seconds = 0.0

    @property
    def totals(self) -> tuple[int, float]:
        """Requests answered since the start, and their seconds together."""
        return self._requests, self._total_seconds

    def count_in_flight(self, number: int) -> None:
        self._in_flight = number

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """Adds one answer. An empty route is one that no template matched."""
        self._requests += 1
        self._total_seconds += seconds
        key = route, method, status
        child = self._children.get(key)
        if child is None:
            known = method if method in _METHODS else "other"
            child = self._seconds.labels(route or _UNMATCHED, known, str(status))
            if known == method:
                self._children[key] = child
        child.observe(seconds)
