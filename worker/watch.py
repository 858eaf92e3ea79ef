"""The stream of one session: it tells at once what is to be stopped, and by its end that this process is gone.

It knows no attempts; heartbeats say the same later, so a stream that is away for a while loses nothing.
"""

import asyncio
from collections.abc import Callable

from mesh.tasks.v1 import tasks_pb2, tasks_pb2_grpc

from chassis.errors import MeshError, NotFound
from chassis.logging import get_logger
from chassis.retry import backoff_seconds
from worker.attempts import Key, key_of

log = get_logger(__name__)

# Without a stream the lease is short, so the first attempts to open it anew come soon.
_FIRST_PAUSE_SECONDS = 0.05
_MAX_PAUSE_SECONDS = 1.0


async def watch(
    tasks: "tasks_pb2_grpc.WorkerServiceAsyncStub",
    session_id: str,
    stop: Callable[[Key], None],
    suspect: Callable[[], None],
) -> None:
    """Keeps the stream of a session open until it is cancelled, or the service says that the session is lost.

    Args:
        stop: told of each attempt that its owner wants stopped.
        suspect: told that the session may be lost.
    """
    failures = 0
    while True:
        try:
            async for response in tasks.WatchSession(tasks_pb2.WatchSessionRequest(session_id=session_id)):
                failures = 0
                for pointer in response.cancelled:
                    stop(key_of(pointer))
        except NotFound:
            suspect()
            return
        except MeshError as error:
            if failures == 0:
                log.info("The stream of the worker session broke", session=session_id, error=str(error))
        await asyncio.sleep(backoff_seconds(failures, first=_FIRST_PAUSE_SECONDS, most=_MAX_PAUSE_SECONDS))
        failures += 1
