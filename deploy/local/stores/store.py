"""What every private store can do: start, stop, die, hang, and come back on the same ports with the same data."""

import signal
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress

import psutil

from deploy.local.child import Child, Command, OnLine
from deploy.local.state import StateDir

_START_SECONDS = 60.0


class Store(ABC):
    """One store. Its ports are chosen when the object is made and stay."""

    name: str

    def __init__(self, state: StateDir, on_line: OnLine | None = None) -> None:
        self.state = state
        self.directory = state.path / self.name
        self.child = Child(self.name, state, on_line)

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients reach it, login included."""

    @abstractmethod
    def command(self) -> Command:
        """How the server is started."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether the server serves now."""

    def prepare(self) -> None:
        """Lays out data and configuration before each start."""
        self.directory.mkdir(exist_ok=True)

    def start(self) -> None:
        """Starts the server and returns when it serves. Raises Problem when it does not; a running one is left."""
        if self.child.alive:
            return
        self.prepare()
        self.child.start(self.command())
        self.child.wait_until(self.answers, _START_SECONDS)

    def stop(self) -> None:
        """Ends the server in its own good order."""
        self.child.stop()

    def kill(self) -> None:
        """Ends the server as a power cut would."""
        self.child.kill()

    def pause(self) -> None:
        """Freezes the server: connections are accepted by the kernel, nothing answers."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        """Ends a pause."""
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: signal.Signals) -> None:
        # Not the group: each Postgres session is a session of the operating system as well.
        if self.child.alive:
            server = psutil.Process(self.child.pid)
            for process in (server, *server.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(number)

    def heal(self) -> None:
        """Brings the server back to serving, whatever was done to it."""
        self.resume()
        self.start()

    @property
    def children(self) -> tuple[Child, ...]:
        """Every process of the store, the server first."""
        return (self.child,)


def store_environment(**extra: str) -> Mapping[str, str]:
    """The environment of a store: nothing of the caller's, so that no stray variable changes what it does."""
    return {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", **extra}
