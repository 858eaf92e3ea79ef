"""The only place that builds things: rules, shadow, store, the servicer, and the metrics of what was decided."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mesh.ratelimit.v1.ratelimit_pb2_grpc import add_RatelimitServiceServicer_to_server
from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from chassis.config import given
from chassis.discovery import open_discovery
from chassis.lifecycle import Host
from chassis.logging import get_logger
from chassis.rpc.methods import BatchHandler
from chassis.rpc.server import open_server
from services.ratelimit.config import WITHOUT_MEANING, Envoy, Settings
from services.ratelimit.memory import MemoryShadow
from services.ratelimit.operations import Limiter
from services.ratelimit.rpc.decisions import DECIDE, RatelimitServicer
from services.ratelimit.rules.file import RuleFile
from services.ratelimit.rules.force import RulesInForce
from services.ratelimit.store import ClusterStore, RedisStore
from services.ratelimit.store.board import open_board

if TYPE_CHECKING:
    from services.ratelimit.descriptors.limits import DescriptorLimits
    from services.ratelimit.rules.envoy_folder import DescriptorFolder

log = get_logger(__name__)

# How long a start waits for Redis to tell the rules that were put by the API.
_HEAR_RULES_SECONDS = 2.0


async def build(settings: Settings, host: Host) -> None:
    """Opens everything, the server last. A rules file that is wrong ends the start with its sentence."""
    limits = settings.limits
    url = settings.redis.url.get_secret_value()
    file = RuleFile(Path(limits.file) if limits.file else None)
    rules = RulesInForce(file, await host.enter(open_board(url, cluster=settings.redis.cluster)), host.clock)
    directory = await host.enter(open_discovery(host, settings.discovery))

    def instances() -> int:
        return limits.instances or max(1, len(directory.instances(host.name)))

    shadow = MemoryShadow(host.clock, instances, cap=limits.shadow_keys)
    open_store = ClusterStore if settings.redis.cluster else RedisStore
    store = open_store(url, shadow, deadline_seconds=limits.store_deadline_seconds)
    limiter = Limiter(rules=rules, store=store, shadow=shadow)
    servicer = RatelimitServicer(limiter, rules)
    host.enter_sync(_metrics(limiter, rules))
    host.health.add("redis", store.ping)
    host.spawn("redis", store.run())
    await rules.start(_HEAR_RULES_SECONDS)
    host.spawn("rules", rules.follow())
    host.spawn("rules-file", rules.follow_file())
    register: list[Callable[[Any], None]] = [partial(add_RatelimitServiceServicer_to_server, servicer)]
    batches: dict[str, BatchHandler] = {DECIDE: servicer.decide_frame}
    if settings.envoy is not None:
        add, answers_together = await _open_envoy(settings.envoy, host, limiter, shadow)
        register.append(add)
        batches |= answers_together
    health_names = ("ratelimit",) if settings.envoy is not None else ()
    server = open_server(
        host, settings.rpc, settings.discovery, register=register, batches=batches, health_names=health_names
    )
    await host.enter(server)
    # Hooks run in reverse: watchers of the rules go before the server waits for its streams to end.
    host.on_drain("watchers", rules.close)


async def _open_envoy(
    settings: Envoy, host: Host, limiter: Limiter, shadow: MemoryShadow
) -> tuple[Callable[[Any], None], dict[str, BatchHandler]]:
    """Stands in for envoyproxy/ratelimit on ports of its own.

    What it returns adds the service to the mesh's port, and answers there together what comes together.

    Nothing of it is imported where it is not asked for.
    """
    from services.ratelimit.rpc.envoy import SHOULD_RATE_LIMIT, open_envoy_server, register
    from services.ratelimit.rpc.envoy_http import open_envoy_http

    if ignored := given(WITHOUT_MEANING):
        log.warning("These settings of envoyproxy/ratelimit have no effect here", names=ignored)
    folder, limits = _descriptor_limits(settings, host, limiter, shadow)
    limits.count_load()

    def healthy() -> bool:
        configured = folder.book is not None and bool(folder.book.domains)
        return host.health.ready and (configured or not settings.healthy_with_configuration)

    await host.enter(open_envoy_http(settings, limits, folder, healthy))
    health = await host.enter(open_envoy_server(host, settings, limits, healthy))

    async def changed() -> None:
        limits.count_load()
        await health.refresh()

    host.spawn("descriptors", folder.watch(changed))
    log.info("Serving Envoy", grpc=settings.grpc_address, http=settings.port, debug=settings.debug_port)
    return register(limits), {SHOULD_RATE_LIMIT: limits.answer_all}


def _descriptor_limits(
    settings: Envoy, host: Host, limiter: Limiter, shadow: MemoryShadow
) -> "tuple[DescriptorFolder, DescriptorLimits]":
    from services.ratelimit.descriptors.denials import Denials
    from services.ratelimit.descriptors.limits import DescriptorLimits, Manner
    from services.ratelimit.descriptors.plan import Planner
    from services.ratelimit.descriptors.request import Headers
    from services.ratelimit.rules.envoy_folder import DescriptorFolder, Place

    place = Place(
        root=Path(settings.runtime_root),
        subdirectory=settings.runtime_subdirectory,
        application=settings.runtime_app_directory,
        watch_root=settings.runtime_watch_root,
        ignore_dot_files=settings.runtime_ignore_dot_files,
    )
    names = Headers(limit=settings.limit_header, remaining=settings.remaining_header, reset=settings.reset_header)
    manner = Manner(
        headers=names if settings.headers else None,
        metadata=settings.metadata,
        shadow=settings.shadow,
        quota=settings.quota,
        near_ratio=settings.near_limit_ratio,
    )
    counts_denied = not settings.all_or_nothing
    folder = DescriptorFolder(place, merge_domains=settings.merge_domains, counts_denied=counts_denied)
    limits = DescriptorLimits(
        deciding=limiter,
        configuration=folder,
        planner=Planner(
            prefix=settings.key_prefix, counts_denied=counts_denied, watching=settings.shadow or settings.quota
        ),
        manner=manner,
        denials=Denials(settings.local_cache_bytes, host.clock.monotonic),
        now_us=lambda: shadow.now_us,
    )
    return folder, limits


class _Figures(Collector):
    """Reads the tally when it is asked for metrics, so that deciding pays nothing for them."""

    def __init__(self, limiter: Limiter, rules: RulesInForce) -> None:
        self._limiter = limiter
        self._rules = rules

    def collect(self) -> Iterable[Metric]:
        tally = self._limiter.tally
        decisions = CounterMetricFamily("mesh_ratelimit_decisions", "Decisions taken", labels=["outcome"])
        decisions.add_metric(["allowed"], tally.decisions - tally.denied)
        decisions.add_metric(["denied"], tally.denied)
        yield decisions
        yield CounterMetricFamily(
            "mesh_ratelimit_degraded_decisions", "Decisions taken without Redis", value=tally.degraded
        )
        watched = CounterMetricFamily(
            "mesh_ratelimit_shadow_denied", "Decisions that a rule in shadow mode would have denied", labels=["rule"]
        )
        for rule, count in tally.shadow_denied.items():
            watched.add_metric([rule], count)
        yield watched
        yield GaugeMetricFamily(
            "mesh_ratelimit_store_ready", "Whether Redis decides now", value=float(self._limiter.store_ready)
        )
        yield GaugeMetricFamily(
            "mesh_ratelimit_rules_refused", "Whether the rules file is wrong", value=float(bool(self._rules.problem))
        )


@contextmanager
def _metrics(limiter: Limiter, rules: RulesInForce) -> Iterator[None]:
    figures = _Figures(limiter, rules)
    REGISTRY.register(figures)
    try:
        yield
    finally:
        REGISTRY.unregister(figures)
