"""The `make` that runs a copy in the foreground. A terminal signals all of a group; who signals `make` alone reaches
nobody else: asked by SIGINT or SIGHUP it only waits for what it has started to end. So that has to look.
"""

import os
import signal
from contextlib import suppress
from pathlib import Path

_NAMES = frozenset({"make", "gmake"})
# While make waits it blocks the signal that it was asked by.
_BLOCKED = "SigBlk:"
_ASKED = sum(1 << (number - 1) for number in (signal.SIGINT, signal.SIGHUP))


def find_make() -> int | None:
    """The process id of the `make` that started this process, if one did."""
    parent = os.getppid()
    with suppress(OSError):
        if Path(f"/proc/{parent}/comm").read_text(encoding="utf-8").strip() in _NAMES:
            return parent
    return None


def is_asked_to_end(make: int) -> bool:
    """Whether that `make` waits for the end of this process, or is gone. For a moment also while it starts something:
    it is so when it stays so.
    """
    if os.getppid() != make:
        return True
    with suppress(OSError):
        for line in Path(f"/proc/{make}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith(_BLOCKED):
                return bool(int(line.removeprefix(_BLOCKED), 16) & _ASKED)
    return False
