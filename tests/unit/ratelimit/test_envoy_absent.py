"""A process that does not stand in for envoyproxy/ratelimit pays nothing for it."""

import os
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[3]
_PROGRAM = """
import sys
import services.ratelimit.app
print(*sys.modules)
"""


def test_nothing_of_it_is_imported() -> None:
    """Neither Envoy's messages nor the HTTP server nor what uses them."""
    environment = {"PYTHONPATH": f"{_ROOT}:{_ROOT / 'proto'}", "PATH": os.defpath}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], cwd=_ROOT, env=environment, capture_output=True, text=True, check=True
    )
    loaded = done.stdout.split()
    assert "services.ratelimit.rpc.decisions" in loaded
    foreign = ("envoy.", "aiohttp.web", "services.ratelimit.descriptors", "services.ratelimit.rules.envoy")
    assert [name for name in loaded if name.startswith((*foreign, "services.ratelimit.rpc.envoy"))] == []
