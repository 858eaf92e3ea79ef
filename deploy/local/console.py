"""What the person at the terminal sees: steps of the supervisor, and the lines of the processes under their names."""

import sys
import threading
from typing import TextIO

from deploy.local.logs import is_store_warning, render


class Console:
    """Writes whole lines from any thread. `follow=False` keeps the processes' lines to their log files."""

    def __init__(self, stream: TextIO = sys.stdout, *, colour: bool, follow: bool) -> None:
        self._stream = stream
        self._colour = colour
        self._follow = follow
        self._lock = threading.Lock()

    def say(self, text: str) -> None:
        """A line of the supervisor's own."""
        self._write(f"\x1b[1m{text}\x1b[0m" if self._colour else text)

    def service_line(self, name: str, line: str) -> None:
        """A line of a service."""
        if self._follow:
            self._write(render(name, line, colour=self._colour))

    def store_line(self, name: str, line: str) -> None:
        """A line of a store, shown when it is a warning or worse."""
        if self._follow and is_store_warning(line):
            self._write(render(name, line, colour=self._colour))

    def _write(self, text: str) -> None:
        with self._lock:
            self._stream.write(text + "\n")
            self._stream.flush()
