"""Service processes for a test: started as in production, with settings in the environment, and ended with the test."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import grpc.aio
from mesh.tasks.v1 import tasks_pb2, tasks_pb2_grpc

from deploy.local.ports import free_port

_ROOT = Path(__file__).resolve().parents[3]


class Service:
    """One process of a service."""

    def __init__(self, module: str, environment: Mapping[str, str]) -> None:
        self._module = module
        self._environment = environment
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Starts it, again after an end too."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", self._module, cwd=_ROOT, env={**os.environ, **self._environment}
        )

    def send(self, number: signal.Signals) -> None:
        """Sends a signal."""
        os.kill(self.pid, number)

    async def wait(self) -> int:
        """Waits for its end and returns its exit code."""
        assert self._process is not None
        return await self._process.wait()

    async def kill(self) -> None:
        """Ends it at once, stopped or not."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


class Mesh:
    """The processes of one test."""

    def __init__(self, stack: AsyncExitStack, environment: Mapping[str, str]) -> None:
        self._stack = stack
        self.environment = dict(environment)
        self.services: dict[str, Service] = {}

    async def add(self, module: str, **settings: str) -> Service:
        """Starts a process; it is killed at the end of the test."""
        service = Service(module, {**self.environment, "PYTHONPATH": f"{_ROOT}:{_ROOT / 'proto'}", **settings})
        self._stack.push_async_callback(service.kill)
        self.services[module] = service
        await service.start()
        return service

    async def add_tasks(self) -> Service:
        """The tasks service, at an address that the others are told."""
        port = free_port()
        self.environment["TASKS_ADDRESS"] = f"127.0.0.1:{port}"
        return await self.add("services.tasks", MESH_GRPC_PORT=str(port))

    async def add_worker(self, name: str, slots: int = 4, **settings: str) -> Service:
        """A built-in worker."""
        return await self.add("services.tasks.worker", MESH_INSTANCE=name, MESH_WORKER_SLOTS=str(slots), **settings)

    async def channel(self, address: str) -> grpc.aio.Channel:
        """A plain channel, open until the end of the test, connected."""
        channel = await self._stack.enter_async_context(grpc.aio.insecure_channel(address))
        async with asyncio.timeout(90):
            await channel.channel_ready()
        return channel


class Tasks:
    """The tasks service as a test speaks to it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.stub: tasks_pb2_grpc.TaskServiceAsyncStub = tasks_pb2_grpc.TaskServiceStub(channel)

    async def submit(self, kind: str, payload: bytes, **fields: object) -> str:
        """Submits as soon as somebody has announced the kind, and returns the task's id."""
        request = tasks_pb2.SubmitRequest(kind=kind, payload=payload, owner_id="tester", **fields)  # type: ignore[arg-type]  # the contract's own fields
        while True:
            try:
                return (await self.stub.Submit(request)).task.id
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.INVALID_ARGUMENT:
                    raise
                await asyncio.sleep(0.1)

    async def get(self, task_id: str) -> tasks_pb2.Task:
        return (await self.stub.GetTask(tasks_pb2.GetTaskRequest(id=task_id))).task

    async def until(
        self, task_id: str, condition: Callable[[tasks_pb2.Task], bool], seconds: float = 60
    ) -> tasks_pb2.Task:
        """The task as soon as the condition holds."""
        async with asyncio.timeout(seconds):
            while not condition(task := await self.get(task_id)):
                await asyncio.sleep(0.05)
            return task

    async def until_ended(self, task_id: str, seconds: float = 60) -> tasks_pb2.Task:
        return await self.until(task_id, lambda task: task.state > tasks_pb2.STATE_RUNNING, seconds)

    async def until_running(self, task_id: str) -> tasks_pb2.Task:
        return await self.until(task_id, lambda task: task.state == tasks_pb2.STATE_RUNNING)

    async def events(self, task_id: str) -> list[tasks_pb2.Event]:
        response = await self.stub.ListEvents(tasks_pb2.ListEventsRequest(id=task_id, limit=1000))
        return list(response.events)
