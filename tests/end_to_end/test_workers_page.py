"""The worker of the page about workers works as printed."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.mesh import Mesh

pytestmark = [pytest.mark.mesh, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "workers.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The page's code in that language, in order."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def bash(script: str, folder: Path, mesh: Mesh) -> "subprocess.Popen[str]":
    """A script in a group of its own, as in a terminal; `folder` stands for the checkout."""
    return subprocess.Popen(
        ["env", "--default-signal", "bash", "-c", "set -eo pipefail\n" + script],
        cwd=folder,
        env={**os.environ, "MESH_STATE_DIR": str(mesh.state_dir)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_the_worker_works_as_printed(mesh: Mesh, tmp_path: Path):
    """It registers, does a task, and leaves when it is told to."""
    (worker,) = blocks("python")
    login, start, submit = blocks("bash")
    (tmp_path / "worker.py").write_text(worker, encoding="utf-8")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    with bash(login + start, tmp_path, mesh) as working:
        assert working.stdout is not None
        try:
            assert working.stdout.readline() == "registered words.count\n"
            with bash(login + submit, tmp_path, mesh) as submitting:
                said, _ = submitting.communicate(timeout=60)
            assert '"type":"succeeded"' in said, said
            assert said.splitlines()[-1] == '{"words":6,"different":4}'
        finally:
            os.killpg(working.pid, signal.SIGINT)
        assert '"drained"' in working.stdout.read()
