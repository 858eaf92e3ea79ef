"""Finds a Consul program: on PATH, in the user's cache, or from Debian 11's packages.

Debian 12 ships none, but Debian 11's runs on it. The package comes from the mirror this machine is configured for,
verified by apt as any other; nothing of it is installed into the system.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from shutil import which
from urllib.parse import urlsplit

from deploy.local.problems import Problem

_RELEASE = "bullseye"
_STEP_SECONDS = 120
_FORMAT = "$(REPO_URI) $(RELEASE) $(COMPONENT)"
# Debian's own keys, newer and older releases alike; without the file apt trusts what it is told to trust.
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def find_consul(cache: Path) -> Path | None:
    """The program when it is on this machine already."""
    if on_path := which("consul"):
        return Path(on_path)
    kept = cache / "consul"
    return kept if kept.exists() else None


def fetch_consul(cache: Path) -> Path:
    """Downloads the program into the cache. Raises Problem with the reason when that cannot be done."""
    if which("apt-get") is None:
        raise Problem("there is no apt-get to fetch Consul with")
    lines = source_lines(_run(["apt-get", "indextargets", "--format", _FORMAT, "Created-By: Packages"]).splitlines())
    if not lines:
        raise Problem("apt has no Debian mirror configured to fetch Consul from")
    cache.mkdir(parents=True, exist_ok=True)
    reasons = []
    for line in lines:
        with tempfile.TemporaryDirectory(prefix="agentmesh-consul-") as work:
            try:
                return _fetch(line, Path(work), cache)
            except Problem as problem:
                reasons.append(str(problem))
    raise Problem("; ".join(reasons))


def source_lines(targets: Iterable[str]) -> list[str]:
    """Source lines of apt for the older release, derived from the mirrors of the running one, likeliest first.

    `targets` are lines of "address release component". Security and update suites are passed over.
    """
    found: dict[str, None] = {}
    option = f"[signed-by={_KEYRING}] " if _KEYRING.exists() else ""
    for target in targets:
        uri, release, component = target.split()
        if component != "main" or "-" in release or "security" in uri:
            continue
        site = urlsplit(uri)
        for address in (uri.rstrip("/"), f"{site.scheme}://{site.netloc}/debian"):
            found[f"deb {option}{address} {_RELEASE} main"] = None
    return list(found)


def _fetch(source_line: str, work: Path, cache: Path) -> Path:
    sources = work / "sources.list"
    sources.write_text(source_line + "\n", encoding="utf-8")
    for directory in ("lists/partial", "archives/partial"):
        (work / directory).mkdir(parents=True)
    options = {
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": work / "lists",
        "Dir::Cache": work,
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
        "Acquire::Retries": "1",
        "Acquire::http::Timeout": "15",
    }
    apt = ["apt-get", "-qq", *(part for name, value in options.items() for part in ("-o", f"{name}={value}"))]
    _run([*apt, "update"], work)
    _run([*apt, "download", "consul"], work)
    packages = list(work.glob("consul_*.deb"))
    if not packages:
        raise Problem(f"the mirror has no Consul in {_RELEASE}")
    _run(["dpkg", "-x", str(packages[0]), str(work / "unpacked")], work)
    return _keep(work / "unpacked" / "usr" / "bin" / "consul", cache)


def _keep(program: Path, cache: Path) -> Path:
    draft = cache / f".consul.{program.parents[3].name}"
    shutil.copy2(program, draft)
    return draft.replace(cache / "consul")


def _run(argv: list[str], cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(
            argv, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_STEP_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise Problem(f"{argv[0]} took longer than {_STEP_SECONDS} s") from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise Problem(f"{argv[0]} {argv[-1]} failed: {last}")
    return done.stdout
