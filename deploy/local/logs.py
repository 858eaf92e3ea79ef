"""Logs of the processes: bounded files, and JSON lines made readable for a terminal."""

import json
import re
import threading
from collections import deque
from pathlib import Path

_LIMIT_BYTES = 16 * 1024 * 1024
_KEYS_OF_EVERY_LINE = frozenset(
    {"event", "level", "logger", "timestamp", "service", "trace_id", "span_id", "exception", "instance"}
)
_COLOURS = ("36", "32", "35", "34", "96", "92", "95", "94")
_LEVEL_COLOURS = {"warning": "33", "error": "31", "critical": "31"}

# What stores say that a developer wants to see: their warnings and worse, in each one's own notation.
_STORE_WARNING = re.compile(
    r"\[(?:warning|error|critical|WARN|ERROR)\]"
    r"|^\d+:[A-Z] .{20,30} # (?!oO0|Warning: 32)"
    r"|\b(?:WARNING|ERROR|FATAL|PANIC):"
)


class BoundedLog:
    """A log file of at most twice the limit: the full one is kept as `.1` when a new one begins."""

    def __init__(self, path: Path, limit_bytes: int = _LIMIT_BYTES) -> None:
        self.path = path
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()

    def write(self, line: str) -> None:
        """Appends one line."""
        data = (line + "\n").encode()
        with self._lock:
            with self.path.open("ab") as file:
                file.write(data)
                full = file.tell() >= self._limit_bytes
            if full:
                self.path.replace(self.path.with_suffix(".log.1"))

    def tail(self, count: int) -> list[str]:
        """The last lines, oldest first; empty when nothing was written yet."""
        if not self.path.exists():
            return []
        with self.path.open(encoding="utf-8", errors="replace") as file:
            return [line.rstrip("\n") for line in deque(file, maxlen=count)]


def is_store_warning(line: str) -> bool:
    """Whether a store's line is a warning or worse."""
    return _STORE_WARNING.search(line) is not None


def says_ready(line: str) -> bool:
    """Whether a service's line is the one by which the chassis says that the process is ready."""
    if '"Ready"' not in line:
        return False
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return isinstance(record, dict) and record.get("event") == "Ready" and record.get("logger") == "chassis.lifecycle"


def readable(line: str) -> tuple[str, str]:
    """A log line as (level, text): JSON lines become `sentence key=value`, others stay what they are."""
    try:
        record = json.loads(line)
    except ValueError:
        return "info", line
    if not isinstance(record, dict) or "event" not in record:
        return "info", line
    values = [f"{key}={value}" for key, value in record.items() if key not in _KEYS_OF_EVERY_LINE]
    text = " ".join([str(record["event"]), *values])
    if trouble := record.get("exception"):
        text += f"\n{trouble}"
    return str(record.get("level", "info")), text


def render(name: str, line: str, *, colour: bool, width: int = 14) -> str:
    """One process's line for the terminal: `name | message`, an exception's lines under the same name."""
    level, text = readable(line)
    prefix = f"{name:<{width}} |"
    if colour:
        prefix = f"\x1b[{_COLOURS[sum(name.encode()) % len(_COLOURS)]}m{prefix}\x1b[0m"
        if code := _LEVEL_COLOURS.get(level):
            text = "\n".join(f"\x1b[{code}m{part}\x1b[0m" for part in text.splitlines())
    return "\n".join(f"{prefix} {part}" for part in text.splitlines() or [""])
