"""The committed stubs are what the contracts generate."""

import filecmp
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROTO = ROOT / "proto"


def test_stubs_have_not_drifted(tmp_path: Path):
    """Generating them anew changes nothing."""
    scripts = Path(sys.executable).parent
    contracts = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    plugins = [f"--plugin=protoc-gen-{name}={scripts / f'protoc-gen-{name}'}" for name in ("mypy", "mypy_grpc")]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", *plugins, *outputs, *contracts]
    subprocess.run(command, check=True, capture_output=True)
    generated = [path.relative_to(tmp_path) for path in tmp_path.rglob("*_pb2*")]
    committed = {path.relative_to(PROTO) for path in PROTO.rglob("*_pb2*.py*") if "__pycache__" not in path.parts}
    assert set(generated) == committed
    assert [str(name) for name in generated if not filecmp.cmp(tmp_path / name, PROTO / name, shallow=False)] == []
