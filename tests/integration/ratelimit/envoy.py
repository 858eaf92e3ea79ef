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
from mesh.ratelimit.v1 import ratelimit_pb2 as mesh_pb
from mesh.ratelimit.v1 import ratelimit_pb2_grpc as mesh_pb_grpc

from deploy.local.ports import free_port
from services.ratelimit.descriptors.denials import Denials
from services.ratelimit.descriptors.limits import DescriptorLimits, Manner
from services.ratelimit.descriptors.plan import Planner
from services.ratelimit.rules.envoy_folder import DescriptorFolder, Place
from tests.integration.ratelimit.conftest import Deciding

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


def limits_over(deciding: Deciding, root: Path, *, all_or_nothing: bool = False) -> DescriptorLimits:
    """Answers inside the test, over a limiter of the test's and the files in a runtime folder."""
    place, counts_denied = Place(root=root, subdirectory="rl"), not all_or_nothing
    return DescriptorLimits(
        deciding=deciding.limiter,
        configuration=DescriptorFolder(place, merge_domains=False, counts_denied=counts_denied),
        planner=Planner(prefix="", counts_denied=counts_denied),
        manner=Manner(),
        denials=Denials(0, time.monotonic),
        now_us=lambda: deciding.shadow.now_us,
    )


class EnvoyService:
    """Where the service listens, and what its files are."""

    def __init__(self, folder: Path, start: Callable[..., Any], redis_url: str, **environment: str) -> None:
        self.root = folder / "current"
        self.ports = {name: environment.get(name) or str(free_port()) for name in ("GRPC_PORT", "PORT", "DEBUG_PORT")}
        self.grpc = f"127.0.0.1:{self.ports['GRPC_PORT']}"
        settings = {
            "RUNTIME_ROOT": str(self.root),
            "RUNTIME_SUBDIRECTORY": "rl",
            # Generous, so that a busy machine is not taken for a Redis that hangs.
            "MESH_RATE_LIMITS_STORE_DEADLINE_SECONDS": "1",
            **redis_settings(redis_url),
            **environment,
            **self.ports,
        }
        service = start(**settings)
        self.process = service.process
        self.mesh = str(service.address)
        self.until("health", lambda: self.get("PORT", "/healthcheck") == (200, "OK"))
        self.until("Redis to decide", self._connected)

    def _connected(self) -> bool:
        with grpc.insecure_channel(self.mesh) as channel:
            status = mesh_pb_grpc.RatelimitServiceStub(channel).GetStatus(
                mesh_pb.GetStatusRequest(), timeout=20, wait_for_ready=True
            )
        return bool(status.store_connected)

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
