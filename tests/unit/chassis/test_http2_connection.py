"""What hostile and broken clients can do to a connection: end their own calls, or it, and nothing else."""

import asyncio
import gc
import struct
import zlib
from collections.abc import AsyncIterator

import grpc
import pytest
from jh2.errors import ErrorCodes
from jh2.hyperframe.frame import GoAwayFrame, RstStreamFrame
from jh2.settings import SettingCodes

from chassis.endless import end
from chassis.rpc.http2 import connection as http2_connection
from chassis.rpc.http2.call import Call
from chassis.rpc.http2.wire import PREFIX
from tests.unit.chassis.http2_peer import MOST_BYTES, Handlers, Peer

OK, INTERNAL, DEADLINE_EXCEEDED, EXHAUSTED, UNIMPLEMENTED = (
    code.value[0]
    for code in (
        grpc.StatusCode.OK,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNIMPLEMENTED,
    )
)


@pytest.fixture
def served() -> Handlers:
    return Handlers()


@pytest.fixture
async def peer(served: Handlers) -> AsyncIterator[Peer]:
    made = Peer(served)
    yield made
    made.connection.abort()
    await end(made.served.tasks)
    await made.lost.wait()


@pytest.mark.parametrize("path", ["/s/Echo", "/s/Together"])
async def test_requests_give_their_room_back(peer: Peer, path: str):
    """More small requests than the connection's window holds are all answered."""
    for _ in range(2000):
        stream_id = peer.begin(path, bytes(9000))
        peer.say()
        await peer.hear(4)
    assert peer.status(stream_id) == OK
    assert peer.h2.outbound_flow_control_window > 1024 * 1024


@pytest.mark.parametrize("size", [1, 8, 13, 10_000])
@pytest.mark.parametrize("table_bytes", [4096, 65_536])
async def test_calls_are_whole_however_their_bytes_come(peer: Peer, size: int, table_bytes: int):
    """Cut anywhere, padded or not, and for clients that remember more headers than is common: each hears its own."""
    peer.h2.update_settings({SettingCodes.HEADER_TABLE_SIZE: table_bytes})
    calls = {peer.begin(f"/s/{('Echo', 'Together')[at % 2]}", b"%d" % at): b"%d" % at for at in range(8)}
    padded = peer.begin("/s/Echo")
    peer.h2.send_data(padded, PREFIX.pack(0, 3) + b"pad", end_stream=True, pad_length=5)
    said = peer.h2.data_to_send()
    for at in range(0, len(said), size):
        peer.connection.data_received(said[at : at + size])
    await peer.hear()
    heard = {stream_id: body[PREFIX.size :] for stream_id, body in peer.bodies.items()}
    assert heard == calls | {padded: b"pad"}
    assert {peer.status(stream_id) for stream_id in heard} == {OK}


@pytest.mark.parametrize("resets", [True, False])
async def test_what_nobody_read_gives_its_room_back(peer: Peer, resets: bool):
    """Calls that end before their requests were read take nothing from the window of the others."""
    peer.say()
    await peer.hear()
    for _ in range(40):
        stream_id = peer.begin("/s/Deaf" if resets else "/s/First")
        for _ in range(50):
            peer.h2.send_data(stream_id, PREFIX.pack(0, 9_000) + bytes(9_000))
        peer.say()
        if resets:
            peer.h2.reset_stream(stream_id)
        await peer.hear()
    assert peer.h2.outbound_flow_control_window > 1024 * 1024
    assert not peer.pipe.closed


async def test_who_reads_nothing_is_sent_little(peer: Peer, served: Handlers):
    """With windows of two gigabytes and an answer without end, the server waits, others go on, and it goes on later."""
    peer.h2.update_settings({4: 2**31 - 1})
    peer.h2.increment_flow_control_window(2**31 - 1 - 65_535)
    peer.begin("/s/Flood", b"")
    peer.say()
    async with asyncio.timeout(30):
        while peer.pipe.reading:
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
    sent, waiting = served.sent, len(peer.pipe.written)
    assert waiting < 1024 * 1024
    peer.pipe.take()
    for _ in range(10):
        await asyncio.sleep(0)
    assert served.sent > sent


async def test_unary_answers_wait_for_who_reads_nothing(peer: Peer):
    """Neither do answers to calls that came before pile up in the transport."""
    peer.h2.update_settings({4: 2**31 - 1})
    peer.h2.increment_flow_control_window(2**31 - 1 - 65_535)
    peer.say()
    await peer.hear()
    ids = [peer.begin(path, bytes(15_000)) for path in ("/s/Echo", "/s/Together") for _ in range(60)]
    peer.say()
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(peer.pipe.written) < 512 * 1024
    await peer.hear()
    assert [peer.status(stream_id) for stream_id in ids] == [OK] * 120


async def test_who_takes_nothing_for_long_is_cut_off(peer: Peer, monkeypatch: pytest.MonkeyPatch):
    """A client that reads nothing does not hold its calls for ever."""
    monkeypatch.setattr(http2_connection, "_STALLED_SECONDS", 0.01)
    peer.h2.update_settings({4: 2**31 - 1})
    peer.h2.increment_flow_control_window(2**31 - 1 - 65_535)
    peer.begin("/s/Flood", b"")
    peer.say()
    async with asyncio.timeout(30):
        await peer.lost.wait()
        while peer.served.tasks:
            await asyncio.sleep(0.01)


async def test_who_does_not_take_the_goodbye_is_cut_off(peer: Peer, monkeypatch: pytest.MonkeyPatch):
    """A connection that ends waits only so long for its last bytes to be taken."""
    monkeypatch.setattr(http2_connection, "_LINGER_SECONDS", 0.01)
    peer.say(bytes(9))
    assert peer.pipe.closed
    async with asyncio.timeout(30):
        await peer.lost.wait()


@pytest.mark.parametrize("path", ["/s/Nothing", "/s/Echo", "/s/Together", "/s/First"])
async def test_a_reset_in_the_same_read_harms_nobody(peer: Peer, served: Handlers, path: str):
    """Calls that come with their reset are not run, and others of the connection go on."""
    other = peer.begin("/s/Echo")
    peer.say()
    for _ in range(200):
        peer.h2.reset_stream(peer.begin(path, b"x"))
    peer.h2.send_data(other, PREFIX.pack(0, 5) + b"after", end_stream=True)
    peer.say()
    await peer.hear()
    assert peer.status(other) == OK
    assert served.answered == 0
    assert not peer.served.tasks


@pytest.mark.parametrize("path", ["/s/Nothing", "/s/Echo", "/s/Together"])
async def test_a_refused_call_harms_nobody(peer: Peer, path: str):
    """A call that is refused while all of it is in the same read ends alone, at once or after its headers."""
    other = peer.begin("/s/Echo")
    refused = peer.begin(path)
    peer.say()
    again = peer.begin(path)
    body = PREFIX.pack(0, MOST_BYTES + 1) + bytes(10)
    for stream_id in (refused, again) if path != "/s/Nothing" else (again,):
        peer.h2.send_data(stream_id, body, end_stream=True)
    peer.say()
    peer.h2.send_data(other, PREFIX.pack(0, 5) + b"after", end_stream=True)
    peer.say()
    await peer.hear()
    expected = UNIMPLEMENTED if path == "/s/Nothing" else EXHAUSTED
    assert (peer.status(other), peer.status(refused), peer.status(again)) == (OK, expected, expected)


async def test_what_is_no_grpc_harms_nobody(peer: Peer):
    """Requests of HTTP are answered with 415 alone."""
    peer.h2.send_headers(1, [(b":method", b"GET"), (b":path", b"/"), (b":scheme", b"http")], end_stream=True)
    peer._next = 1
    other = peer.begin("/s/Echo", b"after")
    peer.say()
    await peer.hear()
    assert peer.answers[1][b":status"] == b"415"
    assert peer.status(other) == OK


async def test_a_client_that_says_goodbye_gets_its_answers(peer: Peer):
    """What was begun before the client's goodbye is answered after it."""
    stream_id = peer.begin("/s/Echo")
    peer.say(GoAwayFrame(0).serialize())
    peer.say(b"\x00\x00\x05\x00\x01\x00\x00\x00\x01" + PREFIX.pack(0, 0))
    await peer.hear()
    assert peer.status(stream_id) == OK


async def test_settings_are_not_piled_up(peer: Peer):
    """Names that nobody knows are forgotten, and no client makes our memory for headers larger."""
    body = b"".join(struct.pack(">HI", number, 1) for number in range(100, 10_000)) + struct.pack(">HI", 1, 2**32 - 1)
    peer.say(struct.pack(">IBI", len(body) << 8 | 4, 0, 0) + body)
    assert len(peer.connection._h2.remote_settings) < 20
    assert peer.connection._h2.encoder.header_table_size == 4096
    stream_id = peer.begin("/s/Echo", b"")
    peer.say()
    await peer.hear()
    assert peer.status(stream_id) == OK


async def test_a_frame_that_is_too_large_is_not_waited_for(peer: Peer):
    """The connection ends once more of a frame is there than it may have, and not with its last byte."""
    peer.say(b"\xff\xff\xff\x00\x00\x00\x00\x00\x01" + bytes(300 * 1024))
    assert peer.pipe.closed


async def test_half_a_request_ends_at_its_deadline(peer: Peer):
    """The deadline counts from the headers, also when the request never ends."""
    stream_id = peer.begin("/s/Echo", extra=[(b"grpc-timeout", b"10m")])
    peer.say()
    async with asyncio.timeout(30):
        while peer.status(stream_id) is None:
            await peer.hear()
            await asyncio.sleep(0.005)
    assert peer.status(stream_id) == DEADLINE_EXCEEDED


async def test_small_messages_that_unpack_to_large_ones_wait_packed(peer: Peer):
    """A hundred megabytes sent as a hundred kilobytes take no more until they are read."""
    packed = zlib.compress(bytes(MOST_BYTES))
    stream_id = peer.begin("/s/Deaf", extra=[(b"grpc-encoding", b"deflate")])
    for _ in range(40):
        peer.h2.send_data(stream_id, PREFIX.pack(1, len(packed)) + packed)
    peer.say()
    assert peer.connection._calls[stream_id].waiting_bytes == 40 * len(packed)


async def test_half_requests_hold_so_much_and_no_more(peer: Peer):
    """Requests that never end fail with RESOURCE_EXHAUSTED once they hold too much together, and free it then."""
    peer.say()
    await peer.hear()
    ids = [peer.begin(path) for path in ("/s/Echo", "/s/Together") for _ in range(8)]
    for stream_id in ids:
        peer.h2.send_data(stream_id, PREFIX.pack(0, MOST_BYTES))
        for _ in range(75):
            if peer.status(stream_id) is None:
                peer.h2.send_data(stream_id, bytes(13_000))
                peer.say()
                await peer.hear(2)
    assert sum(call.held_bytes for call in peer.connection._calls.values()) <= 8 * MOST_BYTES
    assert 0 < len(peer.connection._calls) < 16


async def test_a_unary_call_with_two_messages_ends_at_once(peer: Peer):
    """It need not end its request to be refused, and many empty messages take no room."""
    stream_id = peer.begin("/s/Together")
    peer.h2.send_data(stream_id, PREFIX.pack(0, 0) * 1000)
    peer.say()
    await peer.hear()
    assert peer.status(stream_id) == INTERNAL


async def test_whatever_fails_ends_the_connection_whole(
    peer: Peer, served: Handlers, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """An error that nobody expected closes the connection, cancels its calls and is logged once."""

    def fail(data: bytes) -> None:
        raise KeyError(data)

    peer.begin("/s/Wait", b"")
    peer.say()
    await asyncio.sleep(0)
    monkeypatch.setattr(peer.connection._h2, "receive", fail)
    peer.say(b"x")
    await peer.hear()
    assert peer.pipe.closed
    assert served.cancelled == 1
    assert not peer.served.tasks
    assert capsys.readouterr().out.count("A connection failed") == 1


async def test_a_reset_reaches_the_handler(peer: Peer, served: Handlers):
    """The handler of a call that is given up is cancelled in the same turn, and leaves nothing."""
    stream_id = peer.begin("/s/Wait", b"", extra=[(b"grpc-timeout", b"1H")])
    peer.say()
    await asyncio.sleep(0)
    peer.say(RstStreamFrame(stream_id).serialize())
    for _ in range(3):
        await asyncio.sleep(0)
    assert served.cancelled == 1
    assert not peer.served.tasks
    assert not peer.connection._calls


@pytest.mark.parametrize("path", ["/s/Wait", "/s/Echo", "/s/Together", "/s/Flood"])
async def test_nothing_is_left_of_calls_that_were_given_up(peer: Peer, path: str):
    """No task and no garbage for the collector, also of answers that the client had no room for."""
    peer.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
    peer.say()
    await peer.hear()
    gc.disable()
    try:
        for _ in range(20):
            begun = [peer.begin(path, b"x") for _ in range(10)]
            peer.say()
            await peer.hear(5)
            for stream_id in begun:
                peer.h2.reset_stream(stream_id)
            peer.say()
            await peer.hear(5)
        calls = [one for one in gc.get_objects() if isinstance(one, Call) and one._connection is peer.connection]
    finally:
        gc.enable()
    assert not peer.served.tasks
    assert not calls


async def test_so_many_calls_at_once_and_no_more(peer: Peer, served: Handlers):
    """A thousand calls run at once, ended ones do not count, and who begins one more than that is no client."""
    for _ in range(500):
        peer.h2.reset_stream(peer.begin("/s/Wait", b""))
    for _ in range(1000):
        peer.begin("/s/Wait", b"")
    peer.say()
    assert not peer.pipe.closed
    await asyncio.sleep(0)
    peer.begin("/s/Wait", b"")
    peer.say()
    await peer.hear()
    assert peer.pipe.closed
    assert served.cancelled == 1000


async def test_too_much_metadata_fails_alone(peer: Peer):
    """Metadata beyond what the client was told ends its call, and the connection goes on."""
    large = peer.begin("/s/Echo", b"", extra=[(b"a", b"v" * 30_000)])
    other = peer.begin("/s/Echo", b"")
    peer.say()
    await peer.hear()
    assert (peer.status(large), peer.status(other)) == (EXHAUSTED, OK)


async def test_a_call_behind_the_last_goodbye_is_refused(peer: Peer):
    """It is told so, and does not find a closed connection; the client leaves first, or is cut off."""
    peer.say()
    await peer.hear()
    peer.connection.drain()
    await peer.hear()
    reset = peer.begin("/s/Echo", b"")
    peer.say()
    await asyncio.sleep(0)
    assert not peer.pipe.closed
    refused = RstStreamFrame(reset)
    refused.error_code = ErrorCodes.REFUSED_STREAM
    assert refused.serialize() in peer.pipe.take()
