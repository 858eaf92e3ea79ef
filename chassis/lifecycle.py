"""How a process starts and ends.

Resources open in order on one exit stack and close in reverse, also after a failed start. SIGTERM and SIGINT:
readiness off → a pause for those who look us up → drain hooks, last registered first, under one deadline → the stack
closes. A background task that dies ends the process with an error: a half-dead process is worse than a dead one.
"""

import asyncio
import gc
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack
from typing import Any, Protocol, TypeVar

import prometheus_client
import uvloop
from pydantic import ValidationError

from chassis import logging, telemetry
from chassis.clock import Clock, SystemClock
from chassis.config import Process as ProcessSettings
from chassis.config import Telemetry as TelemetrySettings
from chassis.endless import end
from chassis.errors import MeshError
from chassis.health import Health

log = logging.get_logger(__name__)

# Calls make thousands of small objects and hardly a cycle: at Python's own threshold (700) the collector took a sixth
# of the limiter's CPU under full load. What it finds alive is looked at once more soon, while that is little, and then
# hardly ever: while caches fill, Python's own rhythm (10, 10) stops everything for 15 ms every few seconds, and now and
# then for 50.
_COLLECTIONS = (5000, 1, 50)

T = TypeVar("T")


class HasProcess(Protocol):
    """The part of every service's settings that its process itself needs."""

    @property
    def process(self) -> ProcessSettings: ...
    @property
    def telemetry(self) -> TelemetrySettings: ...


S = TypeVar("S", bound=HasProcess)


class Host:
    """The process as its service sees it: where resources are opened, tasks are run and endings are announced."""

    def __init__(self, name: str, settings: ProcessSettings, clock: Clock, stack: AsyncExitStack) -> None:
        self.name = name
        self.settings = settings
        self.clock = clock
        self.health = Health(clock)
        self.instance = settings.instance or f"{name}-{socket.gethostname()}-{os.getpid()}"
        self._stack = stack
        self._drains: list[tuple[str, Callable[[], Awaitable[None]]]] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ended = asyncio.Event()
        self._failure: BaseException | None = None

    async def enter(self, resource: AbstractAsyncContextManager[T]) -> T:
        """Opens a resource for the life of the process."""
        return await self._stack.enter_async_context(resource)

    def enter_sync(self, resource: AbstractContextManager[T]) -> T:
        """Opens a resource that needs no event loop for the life of the process."""
        return self._stack.enter_context(resource)

    def on_drain(self, name: str, hook: Callable[[], Awaitable[None]]) -> None:
        """Calls `hook` when the process is asked to end, before any resource closes. The last registered goes first."""
        self._drains.append((name, hook))

    def spawn(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs `work` in the background until the process closes. If it raises, the process ends with an error."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._settle)
        self._stack.push_async_callback(_cancel, task)
        return task

    def _settle(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = error
            log.error("A background task died", task=task.get_name(), exc_info=error)
            self._ended.set()

    def end(self) -> None:
        """Asks the process to end, as SIGTERM does."""
        self._ended.set()

    async def wait(self) -> None:
        """Waits until the process is asked to end. Raises what a background task died of."""
        await self._ended.wait()

    async def drain(self) -> None:
        """Readiness off, then every drain hook, all under one deadline."""
        await self.health.set_ready(False)
        await asyncio.sleep(self.settings.drain_delay_seconds)
        try:
            async with asyncio.timeout(self.settings.drain_seconds):
                for name, hook in reversed(self._drains):
                    log.debug("Draining", what=name)
                    await hook()
        except TimeoutError:
            log.warning("Drain did not finish in time", seconds=self.settings.drain_seconds)

    @property
    def failure(self) -> BaseException | None:
        """What a background task died of."""
        return self._failure


async def _cancel(task: asyncio.Task[Any]) -> None:
    await end([task])


Build = Callable[[S, Host], Awaitable[None]]


def run(name: str, settings_type: Callable[[], S], build: Build[S]) -> None:
    """Runs a service until it is told to end, and exits the interpreter: 0 ended well, 1 failed, 2 bad settings."""
    try:
        settings = settings_type()
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        sys.stderr.write(f"{name}: bad settings: {problems}\n")
        sys.exit(2)
    logging.configure(name, settings.process.log_level)
    sys.exit(uvloop.run(_serve(name, settings, build)))


async def _serve(name: str, settings: S, build: Build[S]) -> int:
    async with AsyncExitStack() as stack:
        host = Host(name, settings.process, SystemClock(), stack)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, host.end)
        try:
            await _open(host, settings, build)
        except MeshError as error:
            # It says what is wrong in a sentence; a stack would only hide it.
            log.error("The service could not start", error=str(error))  # noqa: TRY400
            return 1
        except Exception as error:
            log.exception("The service could not start", error=str(error))
            return 1
        await host.health.set_ready(True)
        log.info("Ready", instance=host.instance)
        await host.wait()
        log.info("Ending")
        await host.drain()
    log.info("Ended")
    return 1 if host.failure is not None else 0


async def _open(host: Host, settings: S, build: Build[S]) -> None:
    host.enter_sync(telemetry.open_telemetry(host.name, host.instance, settings.telemetry))
    if settings.process.metrics_port:
        server, thread = prometheus_client.start_http_server(settings.process.metrics_port, settings.process.host)
        host._stack.callback(_stop_metrics, server, thread)  # noqa: SLF001 - same module
    await build(settings, host)
    host.spawn("health", host.health.watch())
    # What was built lives as long as the process: the collector need not walk it again and again, which would stop
    # every call for tens of milliseconds now and then.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTIONS)


def _stop_metrics(server: Any, thread: Any) -> None:
    server.shutdown()
    server.server_close()
    thread.join()
