"""wrk as the load generator: C, so that it takes little of the two cores it shares with what it measures."""

import json
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass

_DONE = """
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('\\nJSON {"requests": %d, "seconds": %.6f, "p50": %.3f, "p99": %.3f, "bad": %d}\\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1000, latency:percentile(99) / 1000,
    e.status + e.timeout + e.read + e.connect))
end
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one run measured. Latencies in milliseconds; `bad` counts answers that were not 2xx and broken
    connections.
    """

    requests: int
    seconds: float
    p50: float
    p99: float
    bad: int

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds


def post(url: str, body: str, headers: Mapping[str, str], *, connections: int, seconds: int) -> Load:
    """Posts the same body over and over on that many connections."""
    lines = [f"wrk.headers[{json.dumps(name)}] = {json.dumps(value)}" for name, value in headers.items()]
    script = "\n".join(['wrk.method = "POST"', f"wrk.body = {json.dumps(body)}", *lines, _DONE])
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", file.name, url]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    [line] = [line for line in output.splitlines() if line.startswith("JSON ")]
    return Load(**json.loads(line[5:]))
