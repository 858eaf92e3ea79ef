"""ghz as the load generator for gRPC: Go, the same for every server, and told the messages by a descriptor set."""

import io
import json
import os
import resource
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import descriptor_pb2, proto
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import Message

from bench.support.go_program import GoModule
from bench.support.load import Load

GHZ = GoModule(name="ghz", module="github.com/bojand/ghz", version="v0.121.0", package="cmd/ghz")

# It keeps every result, and collecting that garbage stops its own calls: 99 % within 7 ms with it, within 1.5 without,
# by the same server at the same rate. A run is short, so it need not collect before it holds this much.
_NO_COLLECTION = {"GOGC": "off", "GOMEMLIMIT": "4GiB"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is called.

    Args:
        method: as in ``package.Service/Method``.
        descriptors: a file with a `FileDescriptorSet` that knows the method.
        requests: a file with requests one after the other, each behind its length; they are sent in turn.
    """

    address: str
    method: str
    descriptors: Path
    requests: Path


def call(
    program: Path,
    target: Target,
    *,
    callers: int,
    seconds: float,
    rate: int = 0,
    metadata: Mapping[str, str] | None = None,
) -> tuple[Load, float]:
    """Calls for so long, and says how it went and how many CPU seconds that took the generator.

    Args:
        callers: each waits for its answer before it calls again; they share one connection.
        rate: calls a second at most; as many as are answered when 0.
    """
    command = [str(program), "--insecure", "--protoset", str(target.descriptors), "--call", target.method]
    command += ["--binary-file", str(target.requests), "-c", str(callers), "-z", f"{int(seconds * 1000)}ms"]
    # The last calls are waited for: cut off they would count as failed.
    command += ["--duration-stop", "wait", "-r", str(rate), "-O", "json"]
    if metadata:
        command += ["-m", json.dumps(metadata)]
    before = _children_seconds()
    settings = os.environ | _NO_COLLECTION
    done = subprocess.run([*command, target.address], capture_output=True, text=True, check=True, env=settings)
    used = _children_seconds() - before
    said = json.loads(done.stdout)
    answered = said.get("statusCodeDistribution") or {}
    latency = {one["percentage"]: one["latency"] / 1e6 for one in said.get("latencyDistribution") or []}
    load = Load(
        requests=said["count"],
        seconds=said["count"] / said["rps"],
        p50=latency.get(50, 0.0),
        p99=latency.get(99, 0.0),
        bad=said["count"] - answered.get("OK", 0),
    )
    return load, used


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def write_descriptors(path: Path, *files: FileDescriptor) -> None:
    """Writes a descriptor set of these files and all that they import."""
    found: dict[str, FileDescriptor] = {}

    def add(file: FileDescriptor) -> None:
        for needed in file.dependencies:
            add(needed)
        found.setdefault(file.name, file)

    for file in files:
        add(file)
    whole = descriptor_pb2.FileDescriptorSet()
    for file in found.values():
        file.CopyToProto(whole.file.add())
    path.write_bytes(whole.SerializeToString())


def write_requests(path: Path, requests: Iterable[Message]) -> None:
    """Writes requests as ghz reads them."""
    target = io.BytesIO()
    for request in requests:
        proto.serialize_length_prefixed(request, target)
    path.write_bytes(target.getvalue())
