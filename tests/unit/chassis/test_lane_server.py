"""What a lane's server does with a defect of its own."""

import asyncio
from typing import Any

import pytest

from chassis.rpc.lane_server import LaneServicer


class Broken:
    """The stream of a lane whose frames cannot be read."""

    async def read(self) -> Any:
        raise ValueError("a defect")

    async def write(self, frame: Any) -> None:
        await asyncio.sleep(3600)


async def test_a_lane_that_breaks_does_not_end_in_silence() -> None:
    """Whoever serves the stream logs it, and tells the client."""
    with pytest.raises(ValueError, match="a defect"):
        await LaneServicer({}).Open(None, Broken())  # type: ignore[arg-type]  # what it needs of a stream
