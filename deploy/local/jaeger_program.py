"""Finds a Jaeger program, and builds one from its public Go module where Go is installed."""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from shutil import which

from deploy.local.environment import Environment
from deploy.local.problems import Problem

# The newest tag of the module whose cmd/jaeger is Jaeger v2 and that builds without fetching sub-modules.
_MODULE = "github.com/jaegertracing/jaeger@v1.76.0"


def find_jaeger(environment: Environment) -> Path | None:
    """The program named by JAEGER_BIN, on PATH, or in the user's cache. Raises Problem when JAEGER_BIN is wrong."""
    if given := environment.get("JAEGER_BIN"):
        if not os.access(given, os.X_OK):
            raise Problem(f"JAEGER_BIN names {given}, which is no program")
        return Path(given)
    if on_path := which("jaeger"):
        return Path(on_path)
    kept = environment.cache / "jaeger"
    return kept if kept.exists() else None


def build_jaeger(environment: Environment) -> Path:
    """Builds the program into the user's cache; takes minutes. Raises Problem when Go is missing or fails."""
    if which("go") is None:
        raise Problem("Building Jaeger needs Go (https://go.dev/dl); or set JAEGER_BIN to a jaeger program")
    environment.cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="agentmesh-jaeger-") as work:
        print(f"Downloading {_MODULE}", flush=True)
        module = json.loads(_go(["mod", "download", "-json", _MODULE], Path(work)))
        # The module cache is read-only, and a build writes beside go.mod.
        source = Path(work) / "source"
        shutil.copytree(module["Dir"], source)
        for path in (source, *source.rglob("*")):
            path.chmod(path.stat().st_mode | 0o200)
        print("Building it; this takes some minutes", flush=True)
        draft = environment.cache / f".jaeger.{os.getpid()}"
        _go(["build", "-trimpath", "-ldflags=-s -w", "-o", str(draft), "./cmd/jaeger"], source)
    return draft.replace(environment.cache / "jaeger")


def _go(arguments: list[str], cwd: Path) -> str:
    done = subprocess.run(["go", *arguments], cwd=cwd, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise Problem(f"`go {' '.join(arguments)}` failed with code {done.returncode}")
    return done.stdout
