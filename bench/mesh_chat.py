"""Chat through the whole mesh against an instant upstream, beside a bare FastAPI echo on the same server.

Everything is on: API key, rate limit with Redis, usage metering; limits are set so high that none is reached. One run
prints requests a second and latencies at each number of connections, the ratio to the echo, and the CPU each process
used per request. Run it with `python -m bench.mesh_chat`.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.support.load import Load, post
from bench.support.processes import ROOT, Usage, free_port, process

CONNECTIONS = (1, 32, 64, 128)
BODY = json.dumps({"model": "bench", "messages": [{"role": "user", "content": "Say something short, please."}]})
RULES = "version: 1\nclasses:\n" + "".join(
    f"  {name}.default:\n    - {{ name: {name}, algorithm: sliding_window, per: user, limit: 100000000, window: 1m }}\n"
    for name in ("v1", "aios", "openai", "support", "cwmai", "orchestrator")
)


def ask(url: str, body: Any = None, token: str = "", form: str = "") -> Any:
    """One request; the parsed answer."""
    data = form.encode() if form else json.dumps(body).encode()
    kind = "application/x-www-form-urlencoded" if form else "application/json"
    headers = {"Content-Type": kind, **({"Authorization": f"Bearer {token}"} if token else {})}
    with urllib.request.urlopen(urllib.request.Request(url, data, headers)) as answer:
        return json.load(answer)


@contextmanager
def mesh(state: Path, upstream_port: int, **more: str) -> Iterator[dict[str, str]]:
    """The whole mesh with its own stores, no trace sampled, and `more` settings; yields what `.run/env` says."""
    rules = state / "rules.yaml"
    rules.write_text(RULES)
    provider = {"name": "bench", "url": f"http://127.0.0.1:{upstream_port}/v1", "models": ["bench"]}
    environment = {
        **os.environ,
        "MESH_STATE_DIR": str(state / "run"),
        "MESH_HTTP_PORT": str(free_port()),
        "MESH_RATE_LIMITS_FILE": str(rules),
        "MESH_LLM_PROVIDERS": json.dumps([provider]),
        "OTEL_TRACES_SAMPLER_ARG": "0",
        **more,
    }
    environment.pop("OTEL_EXPORTER_OTLP_ENDPOINT", None)
    local = [sys.executable, "-m", "deploy.local"]
    subprocess.run([*local, "up"], cwd=ROOT, env=environment, check=True, stdout=sys.stderr)
    try:
        lines = shlex.split((state / "run" / "env").read_text(), comments=True)
        yield dict(line.split("=", 1) for line in lines if "=" in line)
    finally:
        subprocess.run([*local, "down"], cwd=ROOT, env=environment, check=True, stdout=sys.stderr)


def api_key(url: str) -> str:
    """The key of a new user."""
    person = {"username": "bench_user", "email": "bench@example.com", "password": "correct horse battery"}
    ask(f"{url}/api/auth/register", person)
    token = ask(f"{url}/api/auth/login", form="username=bench_user&password=correct+horse+battery")["access_token"]
    return str(ask(f"{url}/api/v1/keys", {"name": "bench"}, token)["key"])


def pids(state: Path) -> dict[str, int]:
    """All processes of the mesh by name, without the supervisor, whose children they are."""
    files = (state / "run" / "pids").glob("*.pid")
    return {path.stem: int(path.read_text()) for path in files if path.stem != "supervisor"}


def row(name: str, connections: int, load: Load, floor: float | None = None) -> None:
    """One line of the table."""
    ratio = f"{load.per_second / floor:5.2f}" if floor else "    –"
    print(
        f"| {name:5} | {connections:4} | {load.per_second:7.0f} | {ratio} | {load.p50:7.2f} | {load.p99:7.2f} "
        f"| {load.bad:4} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--connections", type=int, nargs="*", default=CONNECTIONS)
    arguments = parser.parse_args()
    seconds = arguments.seconds
    upstream_port, echo_port = free_port(), free_port()
    print("| what  | conn |   req/s | ratio |  p50 ms |  p99 ms |  bad |\n|---|---|---|---|---|---|---|")
    floors = {}
    # The gateway's own server, with the same parser and loop.
    serve = ["-m", "uvicorn", "--port", str(echo_port), "--http", "httptools", "--loop", "uvloop", "--no-access-log"]
    serve += ["--log-level", "warning"]
    with process([*serve, "bench.echo_app:app"], os.environ, port=echo_port):
        url = f"http://127.0.0.1:{echo_port}/v1/chat/completions"
        for connections in arguments.connections:
            load = post(url, BODY, {"Content-Type": "application/json"}, connections=connections, seconds=seconds)
            floors[connections] = load.per_second
            row("echo", connections, load)
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)
        upstream = process(["bench/upstream.py", "--port", str(upstream_port)], os.environ, port=upstream_port)
        with upstream as upstream_pid, mesh(state, upstream_port) as addresses:
            url = addresses["GATEWAY_URL"]
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {api_key(url)}"}
            url += "/v1/chat/completions"
            post(url, BODY, headers, connections=32, seconds=3)
            for connections in arguments.connections:
                usage = Usage({**pids(state), "upstream": upstream_pid})
                load = post(url, BODY, headers, connections=connections, seconds=seconds)
                row("mesh", connections, load, floors[connections])
                shares = sorted(usage.seconds().items(), key=lambda pair: -pair[1])
                told = ", ".join(f"{n} {1e6 * s / load.requests:.0f}" for n, s in shares if s * 1e6 > load.requests)
                print(f"    µs of CPU a request: {told}", flush=True)


if __name__ == "__main__":
    main()
