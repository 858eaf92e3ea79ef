"""Where a peer's packages are."""

from bench.support import peer_environment
from bench.support.processes import ROOT
from bench.support.task_systems import SYSTEMS

PEERS = [system.name for system in SYSTEMS if system.pinned]


def test_a_whole_environment_is_used_as_it_is(monkeypatch, tmp_path):
    """Nothing is installed twice; and what was cut short, having no mark at its end, is not taken for whole."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    runs = []

    def run(name, command):
        runs.append(name)
        if "venv" in command:
            (tmp_path / command[-1]).mkdir(parents=True)

    monkeypatch.setattr(peer_environment, "_run", run)
    first = peer_environment.python_of("celery")
    assert runs == ["celery", "celery"]
    assert peer_environment.python_of("celery") == first
    assert runs == ["celery", "celery"]
    (first.parents[1] / "whole").unlink()
    (first.parents[1]).rmdir()
    peer_environment.python_of("celery")
    assert len(runs) == 4


def test_every_package_of_every_peer_is_pinned():
    """A figure is of a version."""
    for name in PEERS:
        lines = (ROOT / "bench" / "peers" / f"{name}.txt").read_text().splitlines()
        assert any(line.startswith(f"{name}==") for line in lines)
        assert all("==" in line for line in lines)
