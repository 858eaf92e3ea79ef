"""No-op tasks in this project: submits over a lane as the gateway does. ``bench.peers.agentmesh_worker`` works."""

import json
import os

import uvloop
from mesh.tasks.v1 import tasks_pb2

from bench.peers.conversation import PAYLOAD, serve_async
from bench.support.submitting import submitting

_TIMEOUT_SECONDS = 60
_REQUEST = tasks_pb2.SubmitRequest(kind="noop", owner_id="bench", payload=json.dumps(PAYLOAD).encode())


async def main() -> None:
    async with submitting(os.environ["TASKS_ADDRESS"]) as tasks:

        async def submit() -> str:
            return (await tasks.Submit(_REQUEST, timeout=_TIMEOUT_SECONDS)).task.id

        async def submit_many(count: int) -> list[str]:
            many = tasks_pb2.SubmitManyRequest(requests=[_REQUEST] * count)
            answer = await tasks.SubmitMany(many, timeout=_TIMEOUT_SECONDS)
            return [one.task.id for one in answer.responses]

        await serve_async(submit, submit_many)


if __name__ == "__main__":
    uvloop.run(main())
