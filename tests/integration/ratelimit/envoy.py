"""The service in the place of envoyproxy/ratelimit: its folder, its ports, and ways to ask it."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
from envoy.extensions.common.ratelimit.v3.ratelimit_pb2 import RateLimitDescriptor
from envoy.service.ratelimit.v3 import rls_pb2 as pb
from envoy.service.ratelimit.v3.rls_pb2_grpc import RateLimitServiceStub

from deploy.local.ports import free_port

OK, OVER = pb.RateLimitResponse.OK, pb.RateLimitResponse.OVER_LIMIT


def request(*descriptors: dict[str, str], domain: str = "shop", **options: Any) -> pb.RateLimitRequest:
    """A request; each descriptor as its entries."""
    found = [
        RateLimitDescriptor(entries=[RateLimitDescriptor.Entry(key=key, value=value) for key, value in one.items()])
        for one in descriptors
    ]
    return pb.RateLimitRequest(domain=domain, descriptors=found, **options)


def redis_settings(url: str) -> dict[str, str]:
    """A Redis in the words of envoyproxy/ratelimit."""
    parts = urlsplit(url)
    address = f"{parts.hostname}:{parts.port}"
    return {"REDIS_SOCKET_TYPE": "tcp", "REDIS_URL": address, "REDIS_AUTH": parts.password or ""}


class EnvoyService:
    """Where the service listens, and what its files are."""

    def __init__(self, folder: Path, start: Callable[..., Any], redis_url: str, **environment: str) -> None:
        self.root = folder / "current"
        self.ports = {name: environment.get(name) or str(free_port()) for name in ("GRPC_PORT", "PORT", "DEBUG_PORT")}
        self.grpc = f"127.0.0.1:{self.ports['GRPC_PORT']}"
        settings = {
            "RUNTIME_ROOT": str(self.root),
            "RUNTIME_SUBDIRECTORY": "rl",
            **redis_settings(redis_url),
            **environment,
            **self.ports,
        }
        service = start(**settings)
        self.process = service.process
        self.mesh = str(service.address)
        self.until("health", lambda: self.get("PORT", "/healthcheck") == (200, "OK"))

    def get(self, face: str, path: str, body: object = None) -> tuple[int, str]:
        """Asks over HTTP; 0 when nobody listens."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        call = urllib.request.Request(f"http://127.0.0.1:{self.ports[face]}{path}", data=data)
        try:
            with urllib.request.urlopen(call, timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def figures(self) -> dict[str, int]:
        lines = self.get("DEBUG_PORT", "/stats")[1].splitlines()
        return {name: int(value) for name, value in (line.rsplit(": ", 1) for line in lines)}

    @contextmanager
    def stub(self, address: str = "") -> Iterator[RateLimitServiceStub]:
        with grpc.insecure_channel(address or self.grpc) as channel:
            grpc.channel_ready_future(channel).result(timeout=30)
            yield RateLimitServiceStub(channel)

    @staticmethod
    def until(what: str, holds: Callable[[], bool]) -> None:
        """Waits until something holds."""
        deadline = time.monotonic() + 30
        while not holds():
            assert time.monotonic() < deadline, f"waited 30 s for {what}"
            time.sleep(0.05)


def write(folder: Path, text: str) -> None:
    """Puts a configuration into a runtime folder."""
    path = folder / "rl" / "config" / "shop.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def swap(folder: Path, target: str) -> None:
    """Makes ``current`` another folder, at once."""
    (folder / "next").symlink_to(target)
    (folder / "next").rename(folder / "current")
