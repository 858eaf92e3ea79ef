"""Starts one copy of the mesh in order, keeps it running until told to end, and ends it in reverse."""

import asyncio
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from deploy.local.child import Child
from deploy.local.console import Console
from deploy.local.environment import Environment
from deploy.local.leftovers import clear
from deploy.local.make import find_make, is_asked_to_end
from deploy.local.mesh import Mesh, Process
from deploy.local.plan import migration_command
from deploy.local.problems import Problem
from deploy.local.state import StateDir
from deploy.local.stores.store import Store
from deploy.local.summary import summary
from deploy.local.watch import adopt_orphans, keep_alive, reap_orphans

_READY_WITHIN_SECONDS = 60.0
_MIGRATED_WITHIN_SECONDS = 300.0
_ASK_EVERY_SECONDS = 0.1
_LOOK_EVERY_SECONDS = 0.5
# A little more than a service's own drain deadline, so that none is cut short while it still ends well.
_SERVICES_END_WITHIN_SECONDS = 18.0
_THREADS = 32


class Supervisor:
    """The life of one copy."""

    def __init__(self, environment: Environment, state: StateDir, console: Console, mesh: Mesh) -> None:
        self._environment = environment
        self._state = state
        self._console = console
        self._mesh = mesh
        self._migrations = Child("migrations", state)
        self._ending = asyncio.Event()

    async def run(self) -> None:
        """Runs until SIGINT, SIGTERM or SIGHUP. Raises Problem when the start fails; either way nothing is left."""
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(_THREADS))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._end)
        adopt_orphans()
        life = asyncio.create_task(self._live())
        asked = asyncio.create_task(self._wait_asked(find_make()))
        await asyncio.wait({life, asked}, return_when=asyncio.FIRST_COMPLETED)
        failure = life.exception() if life.done() else None
        await self._stop(life)
        asked.cancel()
        if failure is not None:
            raise failure

    async def _wait_asked(self, make: int | None) -> None:
        """Returns when this process is to end, or the `make` before it."""
        seen = False
        while not self._ending.is_set():
            asked = make is not None and is_asked_to_end(make)
            if asked and seen:
                # Seen twice, so it stays so; and a signal of the whole group, which has arrived here too by now, does
                # not count as a second.
                self._end()
            seen = asked
            with suppress(TimeoutError):
                async with asyncio.timeout(None if make is None else _LOOK_EVERY_SECONDS):
                    await self._ending.wait()

    def _end(self) -> None:
        if not self._ending.is_set():
            self._console.say("Ending")
            self._ending.set()
            return
        # Asked twice: whoever asks does not want to wait for a good end.
        for child in (self._migrations, *self._mesh.children):
            child.signal(signal.SIGKILL)

    async def _live(self) -> None:
        began = time.monotonic()
        await self._start_all()
        self._state.write_env(self._mesh.exported())
        self._console.say(summary(self._mesh, time.monotonic() - began))
        units: tuple[Process | Store, ...] = self._mesh.stores + self._mesh.processes
        async with asyncio.TaskGroup() as group:
            group.create_task(reap_orphans(self._mesh.children))
            for unit in units:
                group.create_task(keep_alive(unit, self._console))

    async def _start_all(self) -> None:
        stores = {store.name: asyncio.create_task(self._start_store(store)) for store in self._mesh.stores}
        await asyncio.gather(*stores.values(), self._migrate(stores.get("postgres")))
        for process in self._mesh.processes:
            process.start()
        await asyncio.gather(*(self._await_ready(process) for process in self._mesh.processes))

    async def _start_store(self, store: Store) -> None:
        began = time.monotonic()
        await asyncio.to_thread(store.start)
        self._console.say(f"{store.name} ready in {time.monotonic() - began:.1f} s")

    async def _migrate(self, postgres: "asyncio.Task[None] | None") -> None:
        if postgres is not None:
            await postgres
        began = time.monotonic()
        child = self._migrations
        child.start(migration_command(self._environment, self._mesh.given["DATABASE_URL"]))
        if not await asyncio.to_thread(child.wait, _MIGRATED_WITHIN_SECONDS) or child.exit_code != 0:
            child.kill()
            raise Problem(f"The migrations failed.\n{child.last_words()}")
        child.kill()
        self._console.say(f"schemas up to date in {time.monotonic() - began:.1f} s")

    async def _await_ready(self, process: Process) -> None:
        began = time.monotonic()
        while not await process.ready():
            if not process.child.alive:
                code = process.child.exit_code
                raise Problem(f"{process.name} ended with code {code} while starting.\n{process.child.last_words()}")
            if time.monotonic() - began > _READY_WITHIN_SECONDS:
                words = process.child.last_words()
                raise Problem(f"{process.name} was not ready after {_READY_WITHIN_SECONDS:g} s.\n{words}")
            await asyncio.sleep(_ASK_EVERY_SECONDS)
        self._console.say(f"{process.name} ready in {time.monotonic() - began:.1f} s")

    async def _stop(self, life: "asyncio.Task[None]") -> None:
        life.cancel()
        self._state.env_file.unlink(missing_ok=True)
        await self._stop_services()
        await asyncio.gather(*(asyncio.to_thread(store.stop) for store in self._mesh.stores))
        await asyncio.wait({life})
        # A start that was under way in a thread may have come between; when the threads are done, nobody starts more.
        await asyncio.get_running_loop().shutdown_default_executor()
        for child in self._mesh.children:
            child.kill()
        clear(self._state)
        self._console.say("Ended")

    async def _stop_services(self) -> None:
        self._migrations.kill()
        for place in sorted({process.ends for process in self._mesh.processes}):
            children = [process.child for process in self._mesh.processes if process.ends == place]
            for child in children:
                child.ask_to_stop()
            deadline = time.monotonic() + _SERVICES_END_WITHIN_SECONDS
            await asyncio.gather(*(asyncio.to_thread(child.finish, deadline) for child in children))
