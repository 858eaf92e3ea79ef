"""Free ports are free, never given twice, and out of the way of outgoing connections."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local import ports
from deploy.local.ports import free_port, is_free

ROOT = Path(__file__).parents[3]


def test_ports_do_not_repeat():
    """Many ports are all different and below the ephemeral range."""
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    assert max(ports) < 32_768


def test_a_listening_port_is_not_free():
    """A port somebody listens on is taken, and free again afterwards."""
    with socket.socket() as listener:
        port = free_port()
        listener.bind(("127.0.0.1", port))
        listener.listen()
        assert not is_free(port)
    assert is_free(port)


def test_two_processes_are_never_given_the_same_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while nobody listens there; when a process has ended, its ports are free."""
    script = "from deploy.local.ports import free_port; print(free_port(), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as other:
        assert other.stdout is not None
        taken = int(other.stdout.readline())
        monkeypatch.setattr(ports, "_FIRST", taken)
        monkeypatch.setattr(ports, "_LAST", taken + 1)
        with pytest.raises(OSError, match="no free port"):
            free_port()
        other.communicate("")
    assert free_port() == taken
