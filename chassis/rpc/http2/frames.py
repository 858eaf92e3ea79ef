"""HTTP/2 of one connection, server's side: `jh2`'s, with our sizes, and narrower where a client could make it work or
remember without bound. What nearly every call is made of goes a short way beside the library's, to the same state.
"""

from struct import Struct
from typing import Any

from jh2.config import H2Configuration
from jh2.connection import ConnectionState, H2Connection, _decode_headers
from jh2.errors import ErrorCodes
from jh2.events import DataReceived, Event, RequestReceived, StreamEnded
from jh2.exceptions import FrameTooLargeError, ProtocolError
from jh2.hyperframe.frame import WindowUpdateFrame
from jh2.settings import SettingCodes, Settings
from jh2.stream import H2Stream, StreamClosedBy, StreamState

from chassis.rpc.http2.wire import Headers

_MOST_STREAMS = 1000
_FEW_STREAMS = 64
# What a client is told, and what it may send before it loses its connection and not only the call.
HEADER_BYTES = 16 * 1024
_MOST_HEADER_BYTES = 64 * 1024
_FRAME_BYTES = 256 * 1024
_FRAME_HEADER_BYTES = 9
_STREAM_WINDOW_BYTES = 1024 * 1024
_CONNECTION_WINDOW_BYTES = 16 * 1024 * 1024
_FIRST_WINDOW_BYTES = 65_535
# What our headers may take in the memory that both sides share; HTTP/2's own figure.
_HEADER_TABLE_BYTES = 4096
# A frame's head: its length in two parts, its kind, its flags, its stream.
_HEAD = Struct(">BHBBL")
_DATA, _HEADERS = 0, 1
_END_STREAM, _END_HEADERS = 1, 4
_STREAM_BITS = 2**31 - 1
_KNOWN_SETTINGS = frozenset(SettingCodes)
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


class Frames(H2Connection):  # type: ignore[misc]  # the library has no types
    """What goes over a connection as frames; the first ones wait to be sent."""

    def __init__(self) -> None:
        super().__init__(_CONFIGURATION)
        self._count_at = _FEW_STREAMS
        # The beginning of a frame.
        self._unread = bytearray()
        # How small the memory for our headers has been meanwhile and how large it is now, until the next ones say so.
        self._table_changes: tuple[int, int] | None = None
        self.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.MAX_CONCURRENT_STREAMS: _MOST_STREAMS,
                SettingCodes.MAX_HEADER_LIST_SIZE: HEADER_BYTES,
                SettingCodes.MAX_FRAME_SIZE: _FRAME_BYTES,
                SettingCodes.INITIAL_WINDOW_SIZE: _STREAM_WINDOW_BYTES,
            },
        )
        self.max_inbound_frame_size = _FRAME_BYTES
        self.decoder.max_header_list_size = _MOST_HEADER_BYTES
        self.initiate_connection()
        self.increment_flow_control_window(_CONNECTION_WINDOW_BYTES - _FIRST_WINDOW_BYTES)

    def receive(self, data: bytes) -> list[Event]:
        """What the client said. Raises ProtocolError for what no client may say."""
        events: list[Event] = []
        if preamble_bytes := self.incoming_buffer._preamble_len:  # noqa: SLF001 - said nowhere else
            events += self.receive_data(data[:preamble_bytes])
            data = data[preamble_bytes:]
        buffer: bytes | bytearray = data
        if self._unread:
            self._unread += data
            buffer = self._unread
        at, size = 0, len(buffer)
        while size - at >= _HEAD.size:
            high, low, kind, flags, stream_id = _HEAD.unpack_from(buffer, at)
            length = high << 16 | low
            if length > _FRAME_BYTES:
                self._terminate_connection(ErrorCodes.FRAME_SIZE_ERROR)
                raise FrameTooLargeError(f"a frame has at most {_FRAME_BYTES} bytes, not {length}")
            begin, at = at, at + _HEAD.size + length
            if at > size:
                at = begin
                break
            if kind == _HEADERS and flags == _END_HEADERS and self._may_begin(stream_id):
                events.append(self._begun(stream_id, bytes(buffer[begin + _HEAD.size : at])))
            elif kind == _DATA and flags <= _END_STREAM and self._may_say(stream_id, length):
                self._said(stream_id, bytes(buffer[begin + _HEAD.size : at]), flags, events)
            else:
                events += self.receive_data(bytes(buffer[begin:at]))
        if at or buffer is data:
            self._unread = bytearray(buffer[at:])
        return events

    # -- the short way -----------------------------------------------------------------------------------------------

    @property
    def _is_common(self) -> bool:
        # Open, and not amid headers in several frames.
        return self.state_machine.state is ConnectionState.SERVER_OPEN and not self.incoming_buffer._headers_buffer  # noqa: SLF001 - said nowhere else

    def _may_begin(self, stream_id: int) -> bool:
        """Whether headers of this stream are those of a new request that nothing is wrong with."""
        new = stream_id % 2 == 1 and self.highest_inbound_stream_id < stream_id <= _STREAM_BITS
        return new and self._is_common and self.open_inbound_streams < _MOST_STREAMS

    def _begun(self, stream_id: int, block: bytes) -> Event:
        stream = H2Stream(
            stream_id,
            config=self.config,
            inbound_window_size=_STREAM_WINDOW_BYTES,
            outbound_window_size=self.remote_settings.initial_window_size,
        )
        event = RequestReceived()
        event.stream_id = stream_id
        try:
            event.headers = _decode_headers(self.decoder, block)
            stream._initialize_content_length(event.headers)  # noqa: SLF001 - the library's own next step
        except ProtocolError as error:
            self._terminate_connection(error.error_code)
            raise
        stream.max_inbound_frame_size = self.max_inbound_frame_size
        stream.max_outbound_frame_size = self.max_outbound_frame_size
        machine = stream.state_machine
        machine.state, machine.client, machine.headers_received = StreamState.OPEN, False, True
        self.streams[stream_id] = stream
        self.highest_inbound_stream_id = stream_id
        return event

    def _may_say(self, stream_id: int, length: int) -> bool:
        """Whether nothing is wrong with so much data of this stream."""
        stream = self.streams.get(stream_id)
        return (
            stream is not None
            and stream.state_machine.state is StreamState.OPEN
            and stream._expected_content_length is None  # noqa: SLF001 - said nowhere else
            and length <= stream._inbound_window_manager.current_window_size  # noqa: SLF001 - as above
            and length <= self._inbound_flow_control_window_manager.current_window_size
            and self._is_common
        )

    def _said(self, stream_id: int, data: bytes, flags: int, events: list[Event]) -> None:
        stream, length = self.streams[stream_id], len(data)
        stream._inbound_window_manager.current_window_size -= length  # noqa: SLF001 - as above
        self._inbound_flow_control_window_manager.current_window_size -= length
        event = DataReceived()
        event.stream_id, event.data, event.flow_controlled_length = stream_id, data, length
        events.append(event)
        if flags:
            stream.state_machine.state = StreamState.HALF_CLOSED_REMOTE
            end = StreamEnded()
            end.stream_id = stream_id
            events.append(end)

    def allow(self, stream_id: int, size: int) -> None:
        """Lets the client send so much again."""
        stream = self.streams.get(stream_id)
        if stream is not None and stream.state_machine.state is StreamState.HALF_CLOSED_REMOTE:
            # It sends no more on this stream: what is given back is the connection's alone.
            if increment := self._inbound_flow_control_window_manager.process_bytes(size):
                self._prepare_for_sending([WindowUpdateFrame(0, window_increment=increment)])
        else:
            self.acknowledge_received_data(size, stream_id)

    def answer(self, stream_id: int, head: bytes, data: bytes, tail: bytes) -> bool:
        """Sends a whole answer, its headers as they travel; False, and nothing is sent, if it is no common one.

        Args:
            head, tail: headers and trailers, written without what was sent before.
        """
        stream, size = self.streams.get(stream_id), len(data)
        if stream is None or self._table_changes is not None or not self._is_common:
            return False
        machine = stream.state_machine
        if machine.state is not StreamState.HALF_CLOSED_REMOTE or machine.headers_sent:
            return False
        window = min(self.outbound_flow_control_window, stream.outbound_flow_control_window)
        if size > min(self.max_outbound_frame_size, window):
            return False
        self.outbound_flow_control_window -= size
        machine.state, machine.stream_closed_by = StreamState.CLOSED, StreamClosedBy.SEND_END_STREAM
        machine.headers_sent = machine.trailers_sent = True
        self._data_to_send += b"".join(
            (
                _HEAD.pack(0, len(head), _HEADERS, _END_HEADERS, stream_id),
                head,
                _HEAD.pack(size >> 16, size & 0xFFFF, _DATA, 0, stream_id),
                data,
                _HEAD.pack(0, len(tail), _HEADERS, _END_HEADERS | _END_STREAM, stream_id),
                tail,
            )
        )
        return True

    # -- the library's way -------------------------------------------------------------------------------------------

    def is_open(self, stream_id: int) -> bool:
        """Whether a stream still takes frames; one that the client has reset does not, even before its events."""
        stream = self.streams.get(stream_id)
        return stream is not None and stream.open

    @property
    def open_inbound_streams(self) -> int:
        """No less than the streams that are open; as many as there are when there may be too many."""
        # Counting looks at every stream, and forgets those that have ended; the library asks whenever one begins.
        known = len(self.streams)
        if known < self._count_at:
            return known
        count: int = super().open_inbound_streams
        self._count_at = min(2 * count + _FEW_STREAMS, _MOST_STREAMS)
        return count

    def _receive_settings_frame(self, frame: Any) -> Any:
        # All settings that were ever named are gone through again with each frame of them.
        frame.settings = {code: value for code, value in frame.settings.items() if code in _KNOWN_SETTINGS}
        if SettingCodes.HEADER_TABLE_SIZE in frame.settings:
            # As much as the client offers would be filled, with the messages of errors for one.
            offered = frame.settings.pop(SettingCodes.HEADER_TABLE_SIZE)
            self._change_table(min(offered, _HEADER_TABLE_BYTES))
        return super()._receive_settings_frame(frame)

    def _change_table(self, size: int) -> None:
        if self._table_changes is not None:
            self._table_changes = min(size, self._table_changes[0]), size
        elif size != self.encoder.header_table_size:
            self._table_changes = size, size

    def send_headers(self, stream_id: int, headers: Headers, *, end_stream: bool = False) -> None:
        """Sends headers, or trailers."""
        if self._table_changes is not None:
            # The encoder says all that it is told, but a client need not take a size that it has taken back.
            for size in self._table_changes:
                self.encoder.header_table_size = size
            self._table_changes = None
        super().send_headers(stream_id, headers, end_stream=end_stream)

    def _receive_goaway_frame(self, frame: Any) -> Any:
        # For the library all has ended then, but a client that leaves still waits for its answers.
        del frame
        return [], []
