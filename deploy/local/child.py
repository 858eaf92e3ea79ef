"""One child process: its own session, its pid file, its bounded log, and an end that leaves nothing of it behind.

It refuses to know what the child is for. Everything here blocks; callers with an event loop use a thread.
"""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from deploy.local.logs import BoundedLog, readable
from deploy.local.problems import Problem
from deploy.local.state import StateDir

_POLL_SECONDS = 0.02
_LINES_KEPT_ON_FAILURE = 15

OnLine = Callable[[str, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to execute. `stop_signal` asks it to end well, `grace_seconds` is how long it may take for that."""

    argv: Sequence[str | Path]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    grace_seconds: float = 10.0


class Child:
    """A process that can be started, signalled, awaited and started again under the same name."""

    def __init__(self, name: str, state: StateDir, on_line: OnLine | None = None) -> None:
        self.name = name
        self._state = state
        self._on_line = on_line
        self._process: subprocess.Popen[bytes] | None = None
        self._pump: threading.Thread | None = None
        self._command: Command | None = None
        self.log = BoundedLog(state.logs / f"{name}.log")

    @property
    def pid(self) -> int:
        """The pid of the running (or last) process; raises Problem when it was never started."""
        if self._process is None:
            raise Problem(f"{self.name} was never started")
        return self._process.pid

    @property
    def started(self) -> bool:
        """Whether there is, or was, a process."""
        return self._process is not None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        return None if self._process is None else self._process.poll()

    def start(self, command: Command) -> None:
        """Starts the process and writes its pid file. What an earlier one left of its group is ended first."""
        self.kill()
        name, value = self._state.marker
        self._command = command
        self._process = subprocess.Popen(
            [str(part) for part in command.argv],
            env={**command.env, name: value},
            cwd=command.cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._state.write_pid(self.name, self._process.pid)
        self._pump = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True, name=self.name)
        self._pump.start()

    def _read(self, stream: IO[bytes] | None) -> None:
        if stream is None:
            return
        with stream:
            for raw in stream:
                line = raw.decode(errors="replace").rstrip()
                self.log.write(line)
                if self._on_line is not None:
                    self._on_line(self.name, line)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the whole process group; a group that is gone already is no error."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def wait(self, seconds: float) -> bool:
        """Waits for the end. False when it still runs."""
        if self._process is None:
            return True
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def ask_to_stop(self) -> None:
        """Asks the process itself, not its group, to end: it knows how to end its own children in order."""
        if self.alive and self._command is not None:
            # A paused process could not hear it.
            self.signal(signal.SIGCONT)
            os.kill(self.pid, self._command.stop_signal)

    def finish(self, deadline: float) -> None:
        """Waits until `deadline` (monotonic seconds) for the end, then kills the group and forgets the pid."""
        if self._process is None:
            return
        self.wait(max(0.0, deadline - time.monotonic()))
        self.kill()

    def stop(self) -> None:
        """Ends the process: its stop signal, its grace, then SIGKILL for whatever of its group is left."""
        self.ask_to_stop()
        grace = 0.0 if self._command is None else self._command.grace_seconds
        self.finish(time.monotonic() + grace)

    def kill(self) -> None:
        """Ends the whole group at once."""
        if self._process is None:
            return
        self.signal(signal.SIGKILL)
        self._process.wait()
        if self._pump is not None:
            # Bounded: a grandchild that left the group may hold the pipe open; the thread is a daemon.
            self._pump.join(timeout=2)
        self._state.forget_pid(self.name)

    def wait_until(self, ready: Callable[[], bool], seconds: float) -> None:
        """Polls until `ready`. Raises Problem, with the end of the log, when the process dies or takes too long."""
        deadline = time.monotonic() + seconds
        while not ready():
            if not self.alive:
                code = self.exit_code
                # Its last words may still be in the pipe; this waits for them.
                self.kill()
                raise Problem(f"{self.name} ended with code {code} while starting.\n{self.last_words()}")
            if time.monotonic() > deadline:
                raise Problem(f"{self.name} was not ready after {seconds:g} s.\n{self.last_words()}")
            time.sleep(_POLL_SECONDS)

    def last_words(self) -> str:
        """The end of the log, readable and indented."""
        said = [part for line in self.log.tail(_LINES_KEPT_ON_FAILURE) for part in readable(line)[1].splitlines()]
        return "\n".join(f"    {line}" for line in said[-_LINES_KEPT_ON_FAILURE:])
