"""Programs for benchmarks that are built from public Go modules into the user's cache directory, once."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

_BUILD_SECONDS = 900


@dataclass(frozen=True, slots=True, kw_only=True)
class GoModule:
    """A command of a module at one version; the proxy of Go modules keeps it."""

    name: str
    module: str
    version: str
    package: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """The program, or a sentence that says why there is none."""

    program: Path | None
    reason: str


def build(wanted: GoModule) -> Build:
    """Builds it, which takes about a minute the first time."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agentmesh"
    program = cache / f"{wanted.name}-{wanted.version}"
    if program.exists():
        return Build(program=program, reason="")
    if shutil.which("go") is None:
        return Build(program=None, reason=f"Go is not installed, so {wanted.module} is left out")
    cache.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder:
        # A module around it and no `go install`: that one refuses modules that replace others.
        go_mod = f"module around\n\ngo 1.25\n\nrequire {wanted.module} {wanted.version}\n"
        (Path(folder) / "go.mod").write_text(go_mod, encoding="utf-8")
        # Beside its place first: who looks meanwhile finds a whole program or none.
        draft = program.with_suffix(f".{os.getpid()}")
        command = ["go", "build", "-mod=mod", "-o", str(draft), f"{wanted.module}/{wanted.package}"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            return Build(program=None, reason=f"{wanted.module} does not build here and is left out: {last}")
        draft.rename(program)
    return Build(program=program, reason="")
