"""Free ports are free, never given twice, and out of the way of outgoing connections."""

import socket

from deploy.local.ports import free_port, is_free


def test_ports_do_not_repeat():
    """Many ports are all different and below the ephemeral range."""
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    assert max(ports) < 32_768


def test_a_listening_port_is_not_free():
    """A port somebody listens on is taken, and free again afterwards."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert not is_free(port)
    assert is_free(port)
