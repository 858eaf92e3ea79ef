"""HTTP/2 of one connection, server's side: `jh2`'s, with our sizes, and narrower where a client could make it work or
remember without bound. Knows nothing of gRPC.
"""

from typing import Any

from jh2.config import H2Configuration
from jh2.connection import H2Connection
from jh2.events import Event
from jh2.exceptions import FrameTooLargeError
from jh2.settings import SettingCodes, Settings

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
        events: list[Event] = self.receive_data(data)
        # The library looks at a frame's length once all of it is here, and that could be 16 MiB.
        if len(self.incoming_buffer._data) > _FRAME_HEADER_BYTES + _FRAME_BYTES:  # noqa: SLF001 - said nowhere else
            raise FrameTooLargeError("the frame that has begun is too large")
        return events

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
            offered = frame.settings[SettingCodes.HEADER_TABLE_SIZE]
            frame.settings[SettingCodes.HEADER_TABLE_SIZE] = min(offered, _HEADER_TABLE_BYTES)
        return super()._receive_settings_frame(frame)

    def _receive_goaway_frame(self, frame: Any) -> Any:
        # For the library all has ended then, but a client that leaves still waits for its answers.
        del frame
        return [], []
