"""Runs a module under a wall clock that is off by as many seconds as a file says; monotonic time runs on.

``python -m tests.support.stepping_clock FILE MODULE``
"""

import datetime as dt
import runpy
import sys
import time
from pathlib import Path


def main(file: Path, module: str) -> None:
    """Takes over what tells the wall clock, then runs the module."""
    true_seconds, true_nanoseconds = time.time, time.time_ns

    def off() -> int:
        return int(file.read_text(encoding="utf-8"))

    class Datetime(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> "Datetime":
            return cls.fromtimestamp(time.time(), tz)

    time.time = lambda: true_seconds() + off()
    time.time_ns = lambda: true_nanoseconds() + off() * 1_000_000_000
    dt.datetime = Datetime  # type: ignore[misc]  # that is the trick
    sys.argv = [module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
