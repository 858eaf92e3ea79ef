"""What the caller's environment says to this package: the only place here that reads it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from deploy.local.problems import Problem

ROOT = Path(__file__).resolve().parents[2]
_DEFAULT_HTTP_PORT = 8000
_LAST_PORT = 65_535


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The variables a copy is planned from, and the two that tell it from another copy."""

    values: Mapping[str, str]

    def get(self, name: str) -> str:
        """The value of NAME, or the content of the file that NAME_FILE names; empty when neither is given."""
        if given := self.values.get(name):
            return given
        file = self.values.get(f"{name}_FILE")
        return Path(file).read_text(encoding="utf-8").strip() if file else ""

    @property
    def state_path(self) -> Path:
        """MESH_STATE_DIR, or `.run` in the checkout."""
        given = self.get("MESH_STATE_DIR")
        return Path(given).absolute() if given else ROOT / ".run"

    @property
    def http_port(self) -> int:
        """MESH_HTTP_PORT, or 8000. Raises Problem when it is no port."""
        given = self.get("MESH_HTTP_PORT") or str(_DEFAULT_HTTP_PORT)
        if not given.isdecimal() or not 0 < int(given) <= _LAST_PORT:
            raise Problem(f"MESH_HTTP_PORT is {given!r}, which is no port.")
        return int(given)

    @property
    def cache(self) -> Path:
        """Where programs that are not part of the system are kept for every copy of this user."""
        given = self.get("XDG_CACHE_HOME")
        return (Path(given) if given else Path.home() / ".cache") / "agentmesh"

    @property
    def redis_url(self) -> str:
        """REDIS_URL, or one composed of REDIS_HOST, REDIS_PORT and REDIS_PASSWORD; empty when none is given."""
        if self.get("REDIS_URL") or not self.get("REDIS_HOST"):
            return self.get("REDIS_URL")
        login = f":{self.get('REDIS_PASSWORD')}@" if self.get("REDIS_PASSWORD") else ""
        return f"redis://{login}{self.get('REDIS_HOST')}:{self.get('REDIS_PORT') or 6379}/0"


def current() -> Environment:
    """The environment of this process."""
    return Environment(values=dict(os.environ))  # noqa: TID251 - the one place of this package that reads it


def without_password(url: str) -> str:
    """The URL without its password."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    login = f"{parts.username}@" if parts.username else ""
    return parts._replace(netloc=f"{login}{parts.hostname}:{parts.port}").geturl()
