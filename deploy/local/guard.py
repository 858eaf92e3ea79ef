"""A tiny process that outlives its owner's sudden death just long enough to end what the owner started.

Its standard input is a pipe that the owner holds: end of file means the owner is gone.
"""

import subprocess
import sys
from pathlib import Path

from deploy.local.ending import end_copy
from deploy.local.state import StateDir


def start_guard(state: StateDir, *, erase: bool = False) -> "subprocess.Popen[bytes]":
    """Watches over this process. Close the guard's stdin to end it. `erase` removes the data at the end as well."""
    return subprocess.Popen(
        [sys.executable, "-m", "deploy.local.guard", str(state.path), *(["--erase"] if erase else [])],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


def main() -> None:
    """Waits for end of file, then clears the state directory named in the first argument."""
    sys.stdin.buffer.read()
    path = Path(sys.argv[1])
    if path.exists():
        state = StateDir(path)
        end_copy(state)
        if "--erase" in sys.argv:
            state.erase()


if __name__ == "__main__":
    main()
