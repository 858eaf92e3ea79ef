"""The README's tour works as printed."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.mesh import Mesh

pytestmark = [pytest.mark.mesh, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]


def tour() -> str:
    """All shell blocks of the tour, in order."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    chapter = text[text.index("## The tour") : text.index("## When something is down")]
    return "\n".join(re.findall(r"```bash\n(.*?)```", chapter, re.DOTALL))


def test_the_tour(mesh: Mesh):
    """Every command succeeds, and what the text promises is in the output."""
    environment = {**os.environ, "MESH_STATE_DIR": str(mesh.state_dir)}
    script = "set -eo pipefail\n" + tour()
    run = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    said = run.stdout
    assert run.returncode == 0, said + run.stderr
    assert said.count("agent_completed") == 2, said + run.stderr
    assert said.index("execution_started") < said.index("agent_completed") < said.index("execution_completed")
    assert '"sentiment": "positive"' in said
    assert " 429" in said.replace("\n", " ")
    assert re.search(r"(?i)^retry-after: [1-9]", said, re.MULTILINE)
    for service in ("gateway", "agents", "tasks", "llm", "ratelimit"):
        assert re.search(rf"\d {service}$", said, re.MULTILINE), service
