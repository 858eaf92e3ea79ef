"""One copy of the whole mesh: it refuses a second, recovers from every kill, and leaves nothing."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from deploy.local.leftovers import marked_pids
from deploy.local.ports import free_port, is_free
from deploy.local.probe import http_ready
from deploy.local.state import StateDir, parse_env
from tests.support.mesh import Mesh, local, running_mesh

pytestmark = [pytest.mark.mesh, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with running_mesh(tmp_path_factory.mktemp("copy"), MESH_DISCOVERY="static") as running:
        yield running


async def restarted(mesh: Mesh, name: str, before: int) -> None:
    async with asyncio.timeout(60):
        while mesh.state.read_pid(name) in (None, before):
            await asyncio.sleep(0.1)


def ports(env: dict[str, str]) -> set[int]:
    """Every port that `.run/env` names."""
    urls = [value if "://" in value else f"tcp://{value}" for name, value in env.items() if "ADMIN" not in name]
    return {port for url in urls if (port := urlsplit(url).port) is not None}


def test_a_second_supervisor_is_refused(copy: Mesh):
    """One sentence says that the directory is taken, and by whose rule another is chosen."""
    second = local("up", copy.state_dir)
    assert second.returncode == 1
    assert second.stderr.count("\n") == 1
    assert "MESH_STATE_DIR" in second.stderr


def test_a_taken_port_is_refused(copy: Mesh, tmp_path: Path):
    """A copy of its own directory does not start on another's port, and starts no store for it."""
    other = local("run", tmp_path, MESH_HTTP_PORT=str(urlsplit(copy.url).port))
    assert other.returncode == 1
    assert "MESH_HTTP_PORT" in other.stderr
    assert marked_pids(StateDir(tmp_path)) == []


@pytest.mark.parametrize("name", ["redis", "gateway"])
async def test_a_killed_process_comes_back(copy: Mesh, name: str):
    """A new process under the same name and address; the gateway serves again."""
    before = copy.pid(name)
    os.kill(before, signal.SIGKILL)
    await restarted(copy, name, before)
    async with asyncio.timeout(60):
        while not await http_ready(f"{copy.url}/readyz"):
            await asyncio.sleep(0.1)


def test_status_names_every_process(copy: Mesh):
    """All of them run."""
    shown = local("status", copy.state_dir)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    for name in ("supervisor", "postgres", "redis", "rabbitmq", "epmd", "gateway", "tasks-worker-1"):
        assert f"\n{name} " in f"\n{shown.stdout}", name


def test_a_killed_supervisor_is_recovered_from(copy: Mesh):
    """The next start ends what was left, finds its logins and data, and the end leaves no process and no port."""
    os.kill(copy.pid("supervisor"), signal.SIGKILL)
    again = local("up", copy.state_dir, MESH_HTTP_PORT=str(free_port()), MESH_DISCOVERY="static")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "left behind" in again.stdout
    env = parse_env(copy.state.env_file.read_text(encoding="utf-8"))
    assert env["ADMIN_PASSWORD"] == copy.env["ADMIN_PASSWORD"]
    assert local("down", copy.state_dir).returncode == 0
    assert marked_pids(copy.state) == []
    assert [port for port in ports({**copy.env}) | ports(env) if not is_free(port)] == []
    assert list(copy.state.pids.iterdir()) == []
    assert local("status", copy.state_dir).returncode == 1
