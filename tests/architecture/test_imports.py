"""The import contracts hold, and they would notice if they did not."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("services", "worker", "chassis", "proto")


def lint(tree: Path) -> subprocess.CompletedProcess[str]:
    command = Path(sys.executable).with_name("lint-imports")
    environment = {**os.environ, "PYTHONPATH": f"{tree}{os.pathsep}{tree / 'proto'}"}
    arguments = [str(command), "--no-cache", "--config", str(tree / "pyproject.toml")]
    return subprocess.run(arguments, cwd=tree, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the code that a test may spoil."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_all_contracts_are_kept():
    """The tree as it is breaks none."""
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout


PLANTED = {
    "Services meet only on the wire": ("services/tasks/operations/planted.py", "import services.agents.model\n"),
    "Four services, one floor plan": ("services/tasks/utils.py", "X = 1\n"),
    "The rules know nothing of the world": ("services/agents/model.py", "import sqlalchemy\n"),
    "One room per vendor": ("services/llm/rpc.py", "import aio_pika\n"),
    "Faces hold no storage": ("services/tasks/wire.py", "import sqlalchemy\n"),
    "The chassis knows no domain": ("chassis/clock.py", "import mesh.tasks.v1.tasks_pb2\n"),
    "Services stand on the worker kit": ("chassis/errors.py", "import services.tasks.model\n"),
}


@pytest.mark.parametrize("contract", PLANTED)
def test_a_planted_violation_is_caught(tree: Path, contract: str):
    """Each contract names the violation that was planted against it."""
    name, text = PLANTED[contract]
    planted = tree / name
    if not planted.parent.is_dir():
        planted = planted.parent.with_suffix(".py")
    planted.write_text(text + (planted.read_text() if planted.exists() else ""))
    result = lint(tree)
    broken = [line for line in result.stdout.splitlines() if line.endswith("BROKEN") and contract in line]
    assert broken, result.stdout
