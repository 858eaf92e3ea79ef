"""What the caller's variables mean."""

from pathlib import Path

import pytest

from deploy.local.environment import ROOT, Environment, without_password
from deploy.local.problems import Problem


@pytest.mark.parametrize(
    ("values", "url"),
    [
        ({}, ""),
        ({"REDIS_HOST": "cache"}, "redis://cache:6379/0"),
        ({"REDIS_HOST": "cache", "REDIS_PORT": "1", "REDIS_PASSWORD": "p"}, "redis://:p@cache:1/0"),
        ({"REDIS_URL": "redis://whole", "REDIS_HOST": "cache"}, "redis://whole"),
    ],
)
def test_redis_by_url_or_by_parts(values: dict[str, str], url: str):
    """Parts make a URL, and a whole one wins."""
    assert Environment(values=values).redis_url == url


def test_a_value_can_come_from_a_file(tmp_path: Path):
    """NAME_FILE is read, unless NAME itself is given."""
    (tmp_path / "secret").write_text("from file\n", encoding="utf-8")
    values = {"JWT_SECRET_FILE": str(tmp_path / "secret")}
    assert Environment(values=values).get("JWT_SECRET") == "from file"
    assert Environment(values={**values, "JWT_SECRET": "direct"}).get("JWT_SECRET") == "direct"


def test_defaults_are_the_checkout_and_port_8000():
    """Nothing given: `.run` beside the Makefile."""
    nothing = Environment(values={})
    assert (nothing.state_path, nothing.http_port) == (ROOT / ".run", 8000)


@pytest.mark.parametrize("port", ["http", "0", "65536", "-1", "8000.0"])
def test_what_is_no_port_is_refused(port: str):
    """The sentence names the variable."""
    with pytest.raises(Problem, match="MESH_HTTP_PORT"):
        _ = Environment(values={"MESH_HTTP_PORT": port}).http_port


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:secret@h:1/0", "redis://h:1/0"),
        ("amqp://mesh:secret@h:1/%2F", "amqp://mesh@h:1/%2F"),
        ("http://h:1", "http://h:1"),
    ],
)
def test_no_password_of_a_store_is_shown(url: str, shown: str):
    """The table keeps the rest of the address."""
    assert without_password(url) == shown
