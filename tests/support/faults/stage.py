"""A whole mesh whose every part can be harmed: its stores stand behind proxies, its processes are known by name."""

import asyncio
import os
import shutil
import signal
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

from deploy.local.child import Child, Command
from deploy.local.environment import ROOT
from deploy.local.state import StateDir
from deploy.local.stores.store import Store
from tests.support.faults import endpoint
from tests.support.faults.marks import Marks
from tests.support.faults.plan import INSIDE, OUTSIDE, Fault, Harm
from tests.support.faults.proxy import Mode, Proxy
from tests.support.generous import write_rules
from tests.support.mesh import Mesh, running_mesh
from tests.support.stores import Stores

_LOOK_SECONDS = 0.1
_MODES = {Harm.CUT: Mode.CUT, Harm.HOLE: Mode.HOLE, Harm.VANISH: Mode.HOLE}


class Stage:
    """The mesh, workers of its own kinds inside and outside, and what can be done to them."""

    def __init__(self, directory: Path, stores: Stores) -> None:
        self.directory = directory
        self.marks = Marks(directory / "marks.sqlite")
        self.mesh: Mesh
        self._stores: dict[str, Store] = {
            "postgres": stores.postgres,
            "rabbitmq": stores.rabbit,
            "redis": stores.redis,
        }
        self._proxies = {name: Proxy(store.url) for name, store in self._stores.items()}
        self._workers: dict[str, Child] = {}
        # Two harms to one target take turns.
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def start(self, stack: ExitStack) -> None:
        """Brings everything up; `stack` takes it down."""
        for proxy in self._proxies.values():
            await proxy.start()
        self.marks.lay_out()
        await self._start_mesh(stack)
        doors = {"inside": f"tcp://{self.mesh.env['TASKS_ADDRESS']}", "outside": self.mesh.url}
        for name, target in doors.items():
            self._proxies[name] = Proxy(target)
            await self._proxies[name].start()
        state = StateDir(self.directory / "workers")
        for name in (*INSIDE, *OUTSIDE):
            self._workers[name] = Child(name, state)
            stack.callback(self._workers[name].kill)

    async def _start_mesh(self, stack: ExitStack) -> None:
        self.mesh = await asyncio.to_thread(
            stack.enter_context,
            running_mesh(
                self.directory / "mesh",
                DATABASE_URL=self._proxies["postgres"].url,
                AMQP_URL=self._proxies["rabbitmq"].url,
                REDIS_URL=self._proxies["redis"].url,
                MESH_RATE_LIMITS_FILE=str(write_rules(self.directory / "rules.yaml")),
                **endpoint.SETTINGS,
            ),
        )

    @property
    def door(self) -> str:
        """The address of the gateway for those who may be cut off."""
        return self._proxies["outside"].url

    async def close(self) -> None:
        """Ends the proxies."""
        for proxy in self._proxies.values():
            await proxy.close()

    async def keep_workers(self) -> None:
        """For ever: starts each worker, and again when it has ended, as any supervisor does."""
        while True:
            for name, child in self._workers.items():
                if not child.alive:
                    await asyncio.to_thread(child.start, self._worker_command(name))
            await asyncio.sleep(_LOOK_SECONDS)

    def _worker_command(self, name: str) -> Command:
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}",
            "MARKS": str(self.directory / "marks.sqlite"),
            "MESH_INSTANCE": name,
        }
        if name in OUTSIDE:
            login = {key: self.mesh.env[key] for key in ("ADMIN_USERNAME", "ADMIN_PASSWORD")}
            environment |= {"GATEWAY_URL": self.door, **login}
        else:
            tasks_address = self._proxies["inside"].url.removeprefix("tcp://")
            environment |= {"MESH_DISCOVERY": "static", "TASKS_ADDRESS": tasks_address}
            environment |= {"AMQP_URL": self._proxies["rabbitmq"].url}
        module = "tests.support.faults." + ("outside" if name in OUTSIDE else "worker")
        return Command(argv=[sys.executable, "-m", module], env=environment, cwd=ROOT)

    async def suffer(self, faults: list[Fault]) -> None:
        """Every fault at its time; returns when the last one is over and every store serves."""
        began = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            for fault in faults:
                await asyncio.sleep(max(0.0, began + fault.at_seconds - asyncio.get_running_loop().time()))
                group.create_task(self._harm(fault))

    async def _harm(self, fault: Fault) -> None:
        async with self._turns[fault.target]:
            if fault.harm in _MODES:
                proxy = self._proxies[fault.target]
                proxy.switch(_MODES[fault.harm])
                await asyncio.sleep(fault.seconds)
                proxy.switch(Mode.OPEN)
            elif fault.target in self._stores:
                await self._harm_store(self._stores[fault.target], fault)
            else:
                await self._harm_process(fault)

    async def _harm_store(self, store: Store, fault: Fault) -> None:
        if fault.harm in {Harm.STOP, Harm.FREEZE}:
            store.pause()
            await asyncio.sleep(fault.seconds)
        else:
            await asyncio.to_thread(store.kill)
        if fault.harm is Harm.WIPE:
            await asyncio.to_thread(shutil.rmtree, store.directory / "data")
        await asyncio.to_thread(store.heal)

    async def _harm_process(self, fault: Fault) -> None:
        pid = await self._pid(fault.target)
        # It may have ended by itself between these two lines, as after a fault of a store.
        with suppress(ProcessLookupError):
            if fault.harm is Harm.KILL:
                os.kill(pid, signal.SIGKILL)
            else:
                os.kill(pid, signal.SIGSTOP)
                try:
                    await asyncio.sleep(fault.seconds)
                finally:
                    os.kill(pid, signal.SIGCONT)

    async def _pid(self, name: str) -> int:
        async with asyncio.timeout(60):
            while True:
                if name in self._workers:
                    if self._workers[name].alive:
                        return self._workers[name].pid
                elif (pid := self.mesh.state.read_pid(name)) is not None:
                    return pid
                await asyncio.sleep(_LOOK_SECONDS)

    def logs(self, lines: int = 25) -> str:
        """The ends of all logs, for a run that failed."""
        ends = []
        for folder in (self.mesh.state.logs, self.directory / "workers" / "logs"):
            for path in sorted(folder.glob("*.log")):
                said = path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
                ends.append(f"--- {path.name}\n" + "\n".join(said))
        return "\n".join(ends)


@asynccontextmanager
async def staged(directory: Path) -> AsyncIterator[Stage]:
    """A stage of one's own: stores, mesh and workers, all gone afterwards."""
    stores = Stores()
    with ExitStack() as stack:
        stack.callback(stores.close)
        stage = Stage(directory, stores)
        workers: asyncio.Task[None] | None = None
        try:
            await stage.start(stack)
            workers = asyncio.create_task(stage.keep_workers())
            yield stage
        finally:
            if workers is not None:
                workers.cancel()
                await asyncio.gather(workers, return_exceptions=True)
            await asyncio.to_thread(stack.close)
            await stage.close()
