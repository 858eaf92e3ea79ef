"""Bytes that nearly are a client's."""

import asyncio
import random

import pytest

from tests.unit.chassis.http2_peer import Handlers, Peer


def recorded(peer: Peer) -> bytes:
    """A client's bytes: settings, calls of all kinds, with metadata, resets and pings."""
    peer.h2.ping(b"12345678")
    for path in ("/s/Echo", "/s/Together", "/s/First", "/s/Wait", "/s/Nothing"):
        for extra in ((b"grpc-timeout", b"5S"), (b"grpc-encoding", b"gzip"), (b"a-bin", b"AQI=,!")):
            stream_id = peer.begin(path, b"body", extra=[extra])
    peer.h2.increment_flow_control_window(1000)
    peer.h2.reset_stream(stream_id)
    return bytes(peer.h2.data_to_send())


def mutated(data: bytes, chance: random.Random) -> bytes:
    """The same with some bytes changed, dropped or said twice, after the greeting of 24 bytes."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(24, len(changed))
        match chance.randrange(4):
            case 0:
                changed[at] ^= 1 << chance.randrange(8)
            case 1:
                changed[at] = chance.randrange(256)
            case 2:
                del changed[at : at + chance.randint(1, 12)]
            case _:
                changed[at:at] = changed[at : at + chance.randint(1, 40)]
    return bytes(changed)


async def survives(served: Handlers, noise: bytes, cut: int) -> None:
    """A connection takes such bytes in two reads and is over afterwards, with all of its calls."""
    peer = Peer(served)
    for part in (noise[:cut], noise[cut:]):
        if not peer.pipe.closed:
            peer.connection.data_received(part)
        for _ in range(4):
            await asyncio.sleep(0)
    peer.connection.abort()
    async with asyncio.timeout(30):
        await peer.lost.wait()
        while peer.served.tasks:
            await asyncio.sleep(0)
    assert not peer.connection._calls


@pytest.mark.parametrize("rounds", [300, pytest.param(20_000, marks=pytest.mark.long)])
async def test_noise_ends_its_own_connection(rounds: int, capsys: pytest.CaptureFixture[str]):
    """Whatever bytes come, nothing is raised, nothing unexpected is logged, and no call is left."""
    served = Handlers()
    data = recorded(Peer(served))
    chance = random.Random(7)
    for _ in range(rounds):
        await survives(served, mutated(data, chance), chance.randrange(len(data)))
    out = capsys.readouterr().out
    assert "A connection failed" not in out
    assert "ended in an error" not in out
