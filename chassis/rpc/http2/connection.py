"""One connection: what its client sends becomes calls, what they answer leaves together. Frames are `jh2`'s."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from grpc import StatusCode
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

from chassis.logging import get_logger
from chassis.rpc.http2 import wire
from chassis.rpc.http2.call import Call
from chassis.rpc.http2.frames import HEADER_BYTES, Frames
from chassis.rpc.http2.together import AnswerTogether, Together
from chassis.rpc.http2.wire import Headers, StatusError

log = get_logger(__name__)

# Answers wait until so much of them has left.
_MOST_UNSENT_BYTES = 128 * 1024
# What calls of a connection may hold of requests, in the largest messages: a client could begin a thousand of them.
_MOST_LARGE_MESSAGES = 8
# Who connects and says nothing is no client, neither is who takes nothing for so long.
_GREETING_SECONDS = 20.0
_STALLED_SECONDS = 60.0
# How long a connection that ends may still send.
_LINGER_SECONDS = 20.0
# How long a client may take to leave after the last goodbye. Who closes first would cut off calls that it has not read.
_PARTING_SECONDS = 2.0
_NO_STREAM_YET = 2**31 - 1
_FAREWELL = b"farewell"


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What a server answers.

    Args:
        handlers: by path, as generated code registers them.
        together: by path, methods whose calls are answered together.
        most_bytes: of a message.
        tasks: all that answers calls now, also those of connections that are lost.
    """

    handlers: Mapping[bytes, Any]
    together: Mapping[bytes, AnswerTogether]
    most_bytes: int
    tasks: "set[asyncio.Task[None]]" = field(default_factory=set)


class Connection(asyncio.Protocol):
    """A client's connection, until it is lost.

    Args:
        made: called once it is there, after TLS's handshake.
        lost: called once it is lost, if it was made.
    """

    def __init__(
        self, served: Served, made: "Callable[[Connection], None]", lost: "Callable[[Connection], None]"
    ) -> None:
        self._served = served
        self._made = made
        self._lost = lost
        self._h2 = Frames()
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._calls: dict[int, Call] = {}
        self._together = Together(served.tasks)
        # What calls hold of their requests, and what of answers the transport has not been given yet.
        self._held_bytes = 0
        self._unsent_bytes = 0
        self._paused = False
        self._flushes = False
        self._newest = 0
        self._draining = False
        self._parted = False
        self._greeted = False
        # Ends the connection when the client does not do in time what it must.
        self._patience: asyncio.TimerHandle | None = None
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
    def tasks(self) -> "set[asyncio.Task[None]]":
        """All that answers calls now."""
        return self._served.tasks

    @property
    def most_bytes(self) -> int:
        """How large a message may be."""
        return self._served.most_bytes

    # -- the transport -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._wait_for_client(_GREETING_SECONDS)
        self._made(self)
        self._flush()

    def data_received(self, data: bytes) -> None:
        try:
            for event in self._h2.receive(data):
                if (react := self._reactions.get(type(event))) is not None:
                    react(event)
        except ProtocolError as error:
            log.debug("A client breaks the protocol", error=str(error))
            self._break_off()
        except Exception:
            # Whatever it is, it must end this connection alone, and whole.
            log.exception("A connection failed")
            self._break_off()
        else:
            self._together.begin()
            self.flush_soon()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._transport = None
        self._wait_for_client(None)
        self._give_up_calls()
        self._make_room()
        self._lost(self)

    def pause_writing(self) -> None:
        # Who does not take answers has no more questions read.
        self._paused = True
        if self._transport is not None:
            self._transport.pause_reading()
            self._wait_for_client(_STALLED_SECONDS)

    def resume_writing(self) -> None:
        self._paused = False
        self._make_room()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
            self._wait_for_client(None)

    def _wait_for_client(self, seconds: float | None) -> None:
        # None: it need not do anything.
        if self._patience is not None:
            self._patience.cancel()
        self._patience = None if seconds is None else self._loop.call_later(seconds, self.abort)

    def close(self) -> None:
        """Ends the connection; what was written is still sent, if the client takes it in time."""
        if self._transport is not None and not self._transport.is_closing():
            self._wait_for_client(_LINGER_SECONDS)
            self._transport.close()

    def abort(self) -> None:
        """Ends the connection now."""
        if self._transport is not None:
            self._transport.abort()

    def _break_off(self) -> None:
        self._flush()
        self._give_up_calls()
        self.close()

    def _give_up_calls(self) -> None:
        for call in self._calls.values():
            call.cancel()
        self._calls.clear()
        self._together.begin()

    def flush_soon(self) -> None:
        """Lets what is written now leave together."""
        if not self._flushes:
            self._flushes = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushes = False
        self._unsent_bytes = 0
        data = self._h2.data_to_send()
        if data and self._transport is not None:
            self._transport.write(data)
        if self._parted and not self._calls and self._patience is None:
            self._wait_for_client(_PARTING_SECONDS)

    # -- the end -----------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Takes no more calls, and lets the client go once those under way have ended.

        In two steps, as a call may be on its way: the client hears that it shall begin no more, and has begun the last
        one when it answers the ping.
        """
        if self._draining or self._transport is None or self._transport.is_closing():
            return
        self._draining = True
        if not self._greeted:
            self._wait_for_client(_PARTING_SECONDS)
        self._say_goodbye(_NO_STREAM_YET)
        self._h2.ping(_FAREWELL)
        self._flush()

    def _heard(self, event: object) -> None:
        del event
        if self._draining and not self._parted:
            self._say_goodbye(self._newest)
            self._parted = True
            self.flush_soon()

    def _say_goodbye(self, last_stream_id: int) -> None:
        # Past the protocol's library, for which a connection that says goodbye has ended.
        self._flush()
        if self._transport is not None:
            frame = GoAwayFrame(0, last_stream_id=last_stream_id, error_code=ErrorCodes.NO_ERROR)
            self._transport.write(frame.serialize())

    # -- what the client sends ---------------------------------------------------------------------------------------

    def _requested(self, event: Any) -> None:
        stream_id, headers = event.stream_id, event.headers
        if not self._h2.is_open(stream_id):
            # The same read brought its reset.
            return
        if self._parted:
            self._h2.reset_stream(stream_id, ErrorCodes.REFUSED_STREAM)
            return
        self._newest = stream_id
        named = dict(headers)
        if not named.get(b"content-type", b"").startswith(b"application/grpc"):
            self._h2.send_headers(stream_id, wire.UNSUPPORTED, end_stream=True)
            self._hear_no_more(stream_id)
            return
        path = named.get(b":path", b"")
        together = self._served.together.get(path)
        handler = None if together is not None else self._served.handlers.get(path)
        call = self._calls[stream_id] = Call(self, stream_id, headers, handler)
        if together is None and handler is None:
            call.end(StatusError(StatusCode.UNIMPLEMENTED, "Method not found!"))
            return
        if sum(map(len, named.values())) > HEADER_BYTES:
            call.end(StatusError(StatusCode.RESOURCE_EXHAUSTED, f"metadata has at most {HEADER_BYTES} bytes"))
            return
        call.together = together
        if handler is not None:
            call.limit(wire.timeout_seconds(named.get(b"grpc-timeout")))
            if handler.request_streaming:
                call.begin()

    def _sent(self, event: Any) -> None:
        call = self._calls.get(event.stream_id)
        if call is None:
            self.allow(event.stream_id, event.flow_controlled_length)
            return
        held_before = call.held_bytes
        try:
            call.feed(event.data, event.flow_controlled_length)
        except StatusError as error:
            self.allow(event.stream_id, event.flow_controlled_length)
            refused = error
        else:
            self._held_bytes += call.held_bytes - held_before
            if self._held_bytes <= _MOST_LARGE_MESSAGES * self.most_bytes or not call.held_bytes:
                return
            refused = StatusError(StatusCode.RESOURCE_EXHAUSTED, "the calls of this connection are too large together")
        call.end(refused)
        call.cancel()

    def _said_all(self, event: Any) -> None:
        call = self._calls.get(event.stream_id)
        if call is None:
            return
        call.finish()
        if call.together is not None:
            self._together.add(call.together, call)
        elif call.task is None:
            call.begin()

    def _reset(self, event: Any) -> None:
        call = self._calls.get(event.stream_id)
        if call is not None and self._forget(call):
            call.cancel()

    def _settled(self, event: object) -> None:
        if not self._greeted:
            self._greeted = True
            self._wait_for_client(None)
        self._make_room(event)

    def _make_room(self, event: object = None) -> None:
        del event
        if not self._room.done():
            self._room.set_result(None)
        self._room = self._loop.create_future()

    # -- what calls send ---------------------------------------------------------------------------------------------

    def allow(self, stream_id: int, size: int) -> None:
        """Lets the client send so much again."""
        self._h2.allow(stream_id, size)
        self.flush_soon()

    def send_headers(self, stream_id: int, headers: Headers) -> None:
        """Sends headers of a call, if it still is one."""
        if stream_id in self._calls:
            self._h2.send_headers(stream_id, headers)
            self.flush_soon()

    def answer(self, call: Call, data: bytes) -> bool:
        """Sends a call's whole answer and its end, if the client takes all of it now."""
        if self._paused or len(data) > _MOST_UNSENT_BYTES - self._unsent_bytes:
            return False
        if not self._h2.answer(call.stream_id, wire.RESPONSE_BLOCK, data, wire.OK_BLOCK):
            return False
        self._unsent_bytes += len(data)
        self._forget(call)
        self.flush_soon()
        return True

    async def send(self, stream_id: int, data: bytes) -> None:
        """Sends data as the client takes it; nothing of it once the call has ended."""
        at = 0
        while at < len(data) and stream_id in self._calls:
            if self._unsent_bytes >= _MOST_UNSENT_BYTES:
                # Others have their turn too, however fast this one goes.
                self._flush()
                await asyncio.sleep(0)
                continue
            room = 0 if self._paused else self._room_for(stream_id)
            if room <= 0:
                await asyncio.shield(self._room)
                continue
            self._h2.send_data(stream_id, data[at : at + room])
            at += room
            self._unsent_bytes += room
            self.flush_soon()

    def _room_for(self, stream_id: int) -> int:
        most = min(self._h2.max_outbound_frame_size, _MOST_UNSENT_BYTES)
        room: int = min(self._h2.local_flow_control_window(stream_id), most)
        return room

    def end(self, call: Call, trailers: Headers) -> None:
        """Sends the end of a call."""
        if not self._forget(call) or not self._h2.is_open(call.stream_id):
            return
        self._h2.send_headers(call.stream_id, trailers, end_stream=True)
        self._hear_no_more(call.stream_id)
        self.flush_soon()

    def _hear_no_more(self, stream_id: int) -> None:
        # What the client would still say, if it has not said all yet; the same read may have brought the rest.
        if self._h2.is_open(stream_id):
            self._h2.reset_stream(stream_id, ErrorCodes.NO_ERROR)

    def _forget(self, call: Call) -> bool:
        # False: that was done before.
        if self._calls.pop(call.stream_id, None) is None:
            return False
        self._held_bytes -= call.held_bytes
        if call.unread_bytes:
            # The window is the whole connection's: what nobody will read must not stay taken from it.
            self.allow(call.stream_id, call.unread_bytes)
            call.unread_bytes = 0
        return True
