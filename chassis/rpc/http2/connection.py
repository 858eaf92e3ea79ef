"""One connection: what its client sends becomes calls, what they answer leaves together. Frames are `jh2`'s."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from grpc import StatusCode
from jh2.config import H2Configuration
from jh2.connection import H2Connection
from jh2.errors import ErrorCodes
from jh2.events import (
    DataReceived,
    Event,
    PingAckReceived,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from jh2.exceptions import ProtocolError
from jh2.hyperframe.frame import GoAwayFrame
from jh2.settings import SettingCodes, Settings

from chassis.endless import end
from chassis.logging import get_logger
from chassis.rpc.http2 import wire
from chassis.rpc.http2.call import Call
from chassis.rpc.http2.wire import Headers, StatusError

log = get_logger(__name__)

# Answers calls of one method that came together: for each its answer or how it failed, in order. Raises nothing.
AnswerTogether = Callable[[Sequence[Call]], Awaitable[Sequence[bytes | StatusError]]]

# Calls beyond this are answered as the next ones: what is done for many at once must not hold up everybody else.
_MOST_TOGETHER = 64
_MOST_BYTES_TOGETHER = 8 * 1024
_MOST_STREAMS = 1000
_HEADER_BYTES = 16 * 1024
_FRAME_BYTES = 256 * 1024
_STREAM_WINDOW_BYTES = 1024 * 1024
_CONNECTION_WINDOW_BYTES = 16 * 1024 * 1024
_FIRST_WINDOW_BYTES = 65_535
# Who connects and says nothing is no client.
_GREETING_SECONDS = 20.0
_NO_STREAM_YET = 2**31 - 1
_FAREWELL = b"farewell"
_CONFIGURATION = H2Configuration(
    client_side=False,
    header_encoding=None,
    # Nothing is passed on: what is no call of ours is refused, however it is wrong.
    validate_inbound_headers=False,
    normalize_inbound_headers=False,
    # All of ours are written down in `wire`.
    validate_outbound_headers=False,
    normalize_outbound_headers=False,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What a server answers.

    Args:
        handlers: by path, as generated code registers them.
        together: by path, methods whose calls are answered together.
        most_bytes: of a message.
    """

    handlers: Mapping[bytes, Any]
    together: Mapping[bytes, AnswerTogether]
    most_bytes: int


class Connection(asyncio.Protocol):
    """A client's connection, until it is lost.

    Args:
        lost: called once, when it is.
    """

    def __init__(self, served: Served, lost: "Callable[[Connection], None]") -> None:
        self._served = served
        self._lost = lost
        self._h2 = H2Connection(_CONFIGURATION)
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._calls: dict[int, Call] = {}
        self._arrived: defaultdict[AnswerTogether, list[Call]] = defaultdict(list)
        self._arrived_bytes = 0
        self._answering: set[asyncio.Task[None]] = set()
        self._flushes = False
        self._newest = 0
        self._draining = False
        self._parted = False
        self._greeted = False
        self._greeting: asyncio.TimerHandle | None = None
        # Ends when a client that could take nothing more may have room again.
        self._room: asyncio.Future[None] = self._loop.create_future()
        self._reactions: Mapping[type[Event], Callable[[Any], None]] = {
            RequestReceived: self._requested,
            DataReceived: self._sent,
            StreamEnded: self._said_all,
            StreamReset: self._reset,
            WindowUpdated: self._make_room,
            RemoteSettingsChanged: self._settled,
            PingAckReceived: self._heard,
        }

    @property
    def most_bytes(self) -> int:
        """How large a message may be."""
        return self._served.most_bytes

    # -- the transport -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._h2.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.MAX_CONCURRENT_STREAMS: _MOST_STREAMS,
                SettingCodes.MAX_HEADER_LIST_SIZE: _HEADER_BYTES,
                SettingCodes.MAX_FRAME_SIZE: _FRAME_BYTES,
                SettingCodes.INITIAL_WINDOW_SIZE: _STREAM_WINDOW_BYTES,
            },
        )
        self._h2.max_inbound_frame_size = _FRAME_BYTES
        self._h2.decoder.max_header_list_size = _HEADER_BYTES
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(_CONNECTION_WINDOW_BYTES - _FIRST_WINDOW_BYTES)
        self._greeting = self._loop.call_later(_GREETING_SECONDS, self.close)
        self._flush()

    def data_received(self, data: bytes) -> None:
        try:
            for event in self._h2.receive_data(data):
                if (react := self._reactions.get(type(event))) is not None:
                    react(event)
        except ProtocolError as error:
            log.debug("A client breaks the protocol", error=str(error))
            self._flush()
            self.close()
            return
        self._answer_arrived()
        self.flush_soon()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._settled(exc)
        for call in tuple(self._calls.values()):
            call.cancel()
        self._calls.clear()
        self._lost(self)

    def pause_writing(self) -> None:
        # Who does not take answers has no more questions read.
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def close(self) -> None:
        """Ends the connection; what was written is still sent."""
        if self._transport is not None:
            self._transport.close()

    def flush_soon(self) -> None:
        """Lets what is written now leave together."""
        if not self._flushes:
            self._flushes = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushes = False
        data = self._h2.data_to_send()
        if data and self._transport is not None:
            self._transport.write(data)
        if self._parted and not self._calls:
            self.close()

    # -- the end -----------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Takes no more calls, and closes once those under way have ended.

        In two steps, as a call may be on its way: the client hears that it shall begin no more, and has begun the last
        one when it answers the ping.
        """
        if self._draining or self._transport is None:
            return
        self._draining = True
        if not self._greeted:
            self.close()
            return
        self._say_goodbye(_NO_STREAM_YET)
        self._h2.ping(_FAREWELL)
        self._flush()

    def _heard(self, event: object) -> None:
        del event
        if self._draining:
            self._say_goodbye(self._newest)
            self._parted = True
            self.flush_soon()

    def _say_goodbye(self, last_stream_id: int) -> None:
        # Past the protocol's library, for which a connection that says goodbye has ended.
        self._flush()
        if self._transport is not None:
            frame = GoAwayFrame(0, last_stream_id=last_stream_id, error_code=ErrorCodes.NO_ERROR)
            self._transport.write(frame.serialize())

    async def abandon(self) -> None:
        """Ends it with all its calls."""
        tasks = [*self._answering, *(call.task for call in self._calls.values() if call.task is not None)]
        if self._transport is not None:
            self._transport.abort()
        await end(tasks)

    # -- what the client sends ---------------------------------------------------------------------------------------

    def _requested(self, event: Any) -> None:
        stream_id, headers = event.stream_id, event.headers
        if self._parted:
            self._h2.reset_stream(stream_id, ErrorCodes.REFUSED_STREAM)
            return
        self._newest = stream_id
        named = dict(headers)
        if not named.get(b"content-type", b"").startswith(b"application/grpc"):
            self._h2.send_headers(stream_id, wire.UNSUPPORTED, end_stream=True)
            self._h2.reset_stream(stream_id, ErrorCodes.NO_ERROR)
            return
        path = named.get(b":path", b"")
        together = self._served.together.get(path)
        handler = None if together is not None else self._served.handlers.get(path)
        call = self._calls[stream_id] = Call(self, stream_id, headers, handler)
        if together is None and handler is None:
            call.end(StatusError(StatusCode.UNIMPLEMENTED, "Method not found!"))
            return
        call.together = together
        if handler is not None:
            call.timeout_seconds = wire.timeout_seconds(named.get(b"grpc-timeout"))
            if handler.request_streaming:
                call.begin()

    def _sent(self, event: Any) -> None:
        call = self._calls.get(event.stream_id)
        if call is None:
            self.allow(event.stream_id, event.flow_controlled_length)
            return
        try:
            call.feed(event.data, event.flow_controlled_length)
        except StatusError as error:
            call.end(error)
            call.cancel()

    def _said_all(self, event: Any) -> None:
        call = self._calls.get(event.stream_id)
        if call is None:
            return
        call.finish()
        if call.together is not None:
            calls = self._arrived[call.together]
            calls.append(call)
            self._arrived_bytes += call.waiting_bytes
            if len(calls) >= _MOST_TOGETHER or self._arrived_bytes >= _MOST_BYTES_TOGETHER:
                self._answer_arrived()
        elif call.task is None:
            call.begin()

    def _reset(self, event: Any) -> None:
        call = self._calls.pop(event.stream_id, None)
        if call is not None:
            call.cancel()

    def _settled(self, event: object) -> None:
        self._greeted = True
        if self._greeting is not None:
            self._greeting.cancel()
        self._make_room(event)

    def _make_room(self, event: object = None) -> None:
        del event
        if not self._room.done():
            self._room.set_result(None)
        self._room = self._loop.create_future()

    # -- what calls send ---------------------------------------------------------------------------------------------

    def _answer_arrived(self) -> None:
        for answer, calls in self._arrived.items():
            task = self._loop.create_task(self._answer_together(answer, calls))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
        self._arrived.clear()
        self._arrived_bytes = 0

    async def _answer_together(self, answer: AnswerTogether, calls: Sequence[Call]) -> None:
        large = []
        try:
            for call, told in zip(calls, await answer(calls), strict=True):
                if call.ended:
                    continue
                if isinstance(told, StatusError):
                    call.end(told)
                elif not call.answer(told):
                    large.append(self._answer_large(call, told))
            if large:
                await asyncio.gather(*large)
        finally:
            # Whatever went wrong, nobody waits for ever.
            for call in calls:
                call.end(StatusError(StatusCode.INTERNAL, "Unexpected error"))

    async def _answer_large(self, call: Call, body: bytes) -> None:
        await self.send(call.stream_id, wire.framed(body))
        call.end(None)

    def allow(self, stream_id: int, size: int) -> None:
        """Lets the client send so much again."""
        self._h2.acknowledge_received_data(size, stream_id)
        self.flush_soon()

    def send_headers(self, stream_id: int, headers: Headers) -> None:
        """Sends headers of a call, if it still is one."""
        if stream_id in self._calls:
            self._h2.send_headers(stream_id, headers)
            self.flush_soon()

    def send_at_once(self, stream_id: int, data: bytes) -> bool:
        """Sends data if the client takes all of it now."""
        size = len(data)
        if size > self._h2.max_outbound_frame_size or size > self._h2.local_flow_control_window(stream_id):
            return False
        self._h2.send_data(stream_id, data)
        return True

    async def send(self, stream_id: int, data: bytes) -> None:
        """Sends data as the client takes it; nothing of it once the call has ended."""
        at = 0
        while at < len(data) and stream_id in self._calls:
            room = min(self._h2.local_flow_control_window(stream_id), self._h2.max_outbound_frame_size)
            if room > 0:
                self._h2.send_data(stream_id, data[at : at + room])
                at += room
                self.flush_soon()
            else:
                await asyncio.shield(self._room)

    def end(self, call: Call, trailers: Headers) -> None:
        """Sends the end of a call."""
        if self._calls.pop(call.stream_id, None) is None:
            return
        self._h2.send_headers(call.stream_id, trailers, end_stream=True)
        if not call.whole:
            # What the client would still say, nobody hears.
            self._h2.reset_stream(call.stream_id, ErrorCodes.NO_ERROR)
        self.flush_soon()
