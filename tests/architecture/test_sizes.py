"""Files and functions stay small enough to be read in one go."""

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILE_LINES, FUNCTION_LINES = 400, 50


def sources() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [ROOT / name for name in listed.stdout.split() if "_pb2" not in name and "/versions/" not in name]
    return [path for path in paths if path.exists()]


def too_long(path: Path, root: Path = ROOT) -> Iterator[str]:
    text = path.read_text(encoding="utf-8")
    if (lines := text.count("\n")) > FILE_LINES:
        yield f"{path.relative_to(root)}: {lines} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES:
                yield f"{path.relative_to(root)}:{node.lineno} {node.name}: {length} lines"


def test_no_file_and_no_function_is_too_long():
    """400 lines a file, 50 a function."""
    assert [problem for path in sources() for problem in too_long(path)] == []


def test_a_long_function_would_be_noticed(tmp_path: Path):
    """The check itself works."""
    (tmp_path / "x.py").write_text("def f():\n" + "    pass\n" * 50)
    assert len(list(too_long(tmp_path / "x.py", tmp_path))) == 1
