"""WorkerService: decode, operate, encode."""

# ruff: noqa: N802 - the contract's names

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from mesh.tasks.v1 import tasks_pb2, tasks_pb2_grpc

from chassis.errors import Invalid
from services.tasks.operations.desk import HEARTBEAT_SECONDS, LEASE_SECONDS, Desk
from services.tasks.operations.offers import Offer, Offers
from services.tasks.operations.watches import Watches
from services.tasks.wire import workers as wire

_FIRST_WORD_SECONDS = 2.0


class WorkerService(tasks_pb2_grpc.WorkerServiceServicer):
    """See the contract."""

    def __init__(self, desk: Desk, watches: Watches, offers: Offers) -> None:
        self._desk = desk
        self._watches = watches
        self._offers = offers

    async def OpenSession(self, request: tasks_pb2.OpenSessionRequest, context: Any) -> tasks_pb2.OpenSessionResponse:
        del context
        session_id = await self._desk.open_session(wire.opening_from(request))
        return tasks_pb2.OpenSessionResponse(
            session_id=session_id,
            lease_seconds=LEASE_SECONDS,
            heartbeat_seconds=HEARTBEAT_SECONDS,
            resumed=session_id == request.resume_session_id,
        )

    async def WatchSession(
        self, request: tasks_pb2.WatchSessionRequest, context: Any
    ) -> AsyncIterator[tasks_pb2.WatchSessionResponse]:
        del context
        async with self._watches.open(request.session_id) as stops:
            async for pointers in stops:
                yield tasks_pb2.WatchSessionResponse(cancelled=map(wire.to_pointer, pointers))

    async def Heartbeat(self, request: tasks_pb2.HeartbeatRequest, context: Any) -> tasks_pb2.HeartbeatResponse:
        del context
        held = await self._desk.beat(request.session_id)
        return tasks_pb2.HeartbeatResponse(
            cancelled=[wire.to_pointer(one) for one in held if one.cancel_asked],
            held=[wire.to_pointer(one) for one in held],
        )

    async def Claim(self, request: tasks_pb2.ClaimRequest, context: Any) -> tasks_pb2.ClaimResponse:
        del context
        return wire.to_claims(await self._desk.claim(wire.claims_from(request)))

    async def Offer(
        self, request_iterator: AsyncIterator[tasks_pb2.OfferRequest], context: Any
    ) -> AsyncIterator[tasks_pb2.OfferResponse]:
        del context
        try:
            async with asyncio.timeout(_FIRST_WORD_SECONDS):
                first = await anext(request_iterator)
        except (StopAsyncIteration, TimeoutError):
            raise Invalid("session_id: Whose slots these are is to be said first") from None
        async with self._offers.open(first.session_id) as offer:
            offer.hear(first.most, first.received)
            listening = asyncio.ensure_future(_listen(offer, request_iterator))
            try:
                async for claimed, most, heard in offer.read():
                    yield wire.to_offer(claimed, most, heard)
            finally:
                listening.cancel()
                await asyncio.wait({listening})

    async def Finish(self, request: tasks_pb2.FinishRequest, context: Any) -> tasks_pb2.FinishResponse:
        del context
        stale = await self._desk.finish(wire.outcomes_from(request))
        return tasks_pb2.FinishResponse(stale=map(wire.to_pointer, stale))

    async def Progress(self, request: tasks_pb2.ProgressRequest, context: Any) -> tasks_pb2.ProgressResponse:
        del context
        held = await self._desk.progress(
            request.session_id,
            wire.progress_pointer(request),
            request.progress,
            message=request.message,
            partial=request.partial,
        )
        return tasks_pb2.ProgressResponse(stale=not held)

    async def HandBack(self, request: tasks_pb2.HandBackRequest, context: Any) -> tasks_pb2.HandBackResponse:
        del context
        await self._desk.hand_back(request.session_id, [wire.pointer_from(one) for one in request.attempts])
        return tasks_pb2.HandBackResponse()

    async def CloseSession(
        self, request: tasks_pb2.CloseSessionRequest, context: Any
    ) -> tasks_pb2.CloseSessionResponse:
        del context
        await self._desk.close_session(request.session_id, drain=request.drain)
        return tasks_pb2.CloseSessionResponse()


async def _listen(offer: Offer, requests: AsyncIterator[tasks_pb2.OfferRequest]) -> None:
    """Hears the worker until it has said all; what is wrong with it ends the stream."""
    try:
        async for request in requests:
            offer.hear(request.most, request.received)
    except Exception as error:  # noqa: BLE001 - it is the reader's to raise
        offer.end(error)
    else:
        offer.end()
