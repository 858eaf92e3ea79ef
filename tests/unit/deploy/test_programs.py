"""Where programs come from: the newest broker, and apt sources derived from the machine's own."""

from pathlib import Path

import pytest

from deploy.local.consul_program import find_consul, source_lines
from deploy.local.environment import Environment
from deploy.local.jaeger_program import find_jaeger
from deploy.local.problems import Problem
from deploy.local.stores.rabbitmq import server_script
from deploy.local.watch import next_delay


def test_sources_follow_the_configured_mirror():
    """The main suite's mirror is asked for the older release; security and update suites are not."""
    lines = source_lines(
        [
            "http://mirror.example/some/debian/ bookworm main",
            "http://mirror.example/some/debian/ bookworm contrib",
            "http://mirror.example/debian/ bookworm-updates main",
            "http://mirror.example/debian-security/ bookworm-security main",
        ]
    )
    assert [line.split()[-3:] for line in lines] == [
        ["http://mirror.example/some/debian", "bullseye", "main"],
        ["http://mirror.example/debian", "bullseye", "main"],
    ]


def test_a_kept_consul_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Without one on PATH the cache is looked into."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert find_consul(tmp_path) is None
    (tmp_path / "consul").touch()
    assert find_consul(tmp_path) == tmp_path / "consul"


def test_a_wrong_jaeger_is_refused(tmp_path: Path):
    """JAEGER_BIN that names no program is an error, not a reason to look elsewhere."""
    with pytest.raises(Problem, match="JAEGER_BIN"):
        find_jaeger(Environment(values={"JAEGER_BIN": str(tmp_path / "none")}))


def test_the_newest_broker_counts(tmp_path: Path):
    """Versions are compared as numbers."""
    for version in ("3.9.1", "3.10.8"):
        script = tmp_path / f"rabbitmq_server-{version}" / "sbin" / "rabbitmq-server"
        script.parent.mkdir(parents=True)
        script.touch()
    assert server_script(tmp_path).parts[-3] == "rabbitmq_server-3.10.8"


def test_no_broker_is_a_sentence(tmp_path: Path):
    """Its absence names the package."""
    with pytest.raises(Problem, match="rabbitmq-server is not installed"):
        server_script(tmp_path)


def test_restarts_wait_longer_while_they_fail():
    """The wait doubles to its bound, and a long life forgives."""
    delays = [0.0]
    for _ in range(8):
        delays.append(next_delay(delays[-1], lived_seconds=1))
    assert delays[1:] == [0.5, 1, 2, 4, 8, 15, 15, 15]
    assert next_delay(15, lived_seconds=61) == 0.5
