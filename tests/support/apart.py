"""A Redis on a host of its own, as far as the network goes: behind a virtual cable on which packets are really lost."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from shutil import which

from deploy.local.child import Command
from deploy.local.state import StateDir
from deploy.local.stores.redis import Redis

# Of the range that is set apart for tests of networks.
_NETWORK = "198.18.{number}."
_MACS = ("02:00:00:00:00:01", "02:00:00:00:00:02")
_NOBODY = "02:00:00:00:00:ff"


class Cable:
    """A network namespace and the pair of interfaces that leads there."""

    def __init__(self) -> None:
        number = os.getpid()
        self.namespace = f"apart{number}"
        self._near, self._far = f"near{number}", f"far{number}"
        network = _NETWORK.format(number=number % 256)
        self.near, self.far = f"{network}1", f"{network}2"

    def lay(self) -> None:
        """Raises CalledProcessError where that is not allowed."""
        _ip("netns", "add", self.namespace)
        far = ("peer", "name", self._far, "address", _MACS[1], "netns", self.namespace)
        _ip("link", "add", self._near, "address", _MACS[0], "type", "veth", *far)
        for place, name, address in (((), self._near, self.near), (self._there, self._far, self.far)):
            _ip(*place, "address", "add", f"{address}/24", "dev", name)
            _ip(*place, "link", "set", name, "up")
        self.mend()

    @property
    def _there(self) -> tuple[str, str]:
        return "-netns", self.namespace

    def take_away(self) -> None:
        """The namespace takes its interface along, and that the other end."""
        subprocess.run(["ip", "netns", "delete", self.namespace], check=False, capture_output=True)

    def cut(self) -> None:
        """From now on every packet goes to nobody, in both directions, and no end is told."""
        self._lead(_NOBODY, _NOBODY)

    def mend(self) -> None:
        """Packets arrive again."""
        self._lead(*_MACS)

    def _lead(self, near: str, far: str) -> None:
        _ip("neighbour", "replace", self.far, "lladdr", far, "nud", "permanent", "dev", self._near)
        _ip(*self._there, "neighbour", "replace", self.near, "lladdr", near, "nud", "permanent", "dev", self._far)

    async def lose_all(self) -> None:
        """Every packet of a second."""
        await self._lose(1.0)

    async def lose_some(self) -> None:
        """Every third instant for some seconds, so that what is sent again is lost again."""
        for _ in range(20):
            await self._lose(0.04)
            await asyncio.sleep(0.08)

    async def _lose(self, seconds: float) -> None:
        await asyncio.to_thread(self.cut)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(self.mend)


class RedisApart(Redis):
    """A Redis at the far end."""

    name = "redis-apart"

    def __init__(self, state: StateDir, cable: Cable) -> None:
        super().__init__(state)
        self.host = cable.far
        self._namespace = cable.namespace

    def command(self) -> Command:
        command = super().command()
        return Command(argv=["ip", "netns", "exec", self._namespace, *command.argv], env=command.env, cwd=command.cwd)


@contextmanager
def cable() -> Iterator[Cable | None]:
    """A cable, or None where this process may lay none."""
    found = Cable()
    try:
        if which("ip") is None:
            yield None
            return
        try:
            found.lay()
        except subprocess.CalledProcessError:
            yield None
        else:
            yield found
    finally:
        found.take_away()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
