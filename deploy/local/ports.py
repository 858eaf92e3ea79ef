"""Free TCP ports on loopback for processes that are about to start."""

import secrets
import socket

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
    """A port that is free now and was not given out before by this process."""
    for _ in range(_ATTEMPTS):
        port = _FIRST + secrets.randbelow(_LAST - _FIRST)
        if port not in _given and is_free(port):
            _given.add(port)
            return port
    raise OSError(f"no free port between {_FIRST} and {_LAST} on 127.0.0.1")
