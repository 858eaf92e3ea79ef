"""Free TCP ports on loopback for processes that are about to start."""

import fcntl
import os
import secrets
import socket
import tempfile
from functools import lru_cache
from pathlib import Path

# Below the range the kernel hands to outgoing connections (32768 and up on Linux): a store that is stopped for a
# while finds its port still free when it starts again.
_FIRST, _LAST = 20_000, 32_000
_ATTEMPTS = 1_000

_given: set[int] = set()


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a listener could bind the port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port that is free now and that no process of this user has given out, as long as that process runs."""
    for _ in range(_ATTEMPTS):
        port = _FIRST + secrets.randbelow(_LAST - _FIRST)
        if port not in _given and _claim(port) and is_free(port):
            _given.add(port)
            return port
    raise OSError(f"no free port between {_FIRST} and {_LAST} on 127.0.0.1")


def _claim(port: int) -> bool:
    """Between the choice of a port and its first listener another process must not choose it too."""
    try:
        fcntl.lockf(_claims(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except (BlockingIOError, PermissionError):
        # Which of the two says that another process has it depends on the system.
        return False
    return True


@lru_cache
def _claims() -> int:
    """One file for all processes of this user, a byte for each port; the system ends a process's claims with it."""
    path = Path(tempfile.gettempdir()) / f"agentmesh-ports-{os.getuid()}"
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
