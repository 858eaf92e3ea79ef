"""Where a Jaeger is found, `make run` starts it, and one trace of a task can be read from its query API."""

import asyncio
import secrets

import pytest

from tests.support.client import client
from tests.support.mesh import throw_away_mesh

pytestmark = [pytest.mark.mesh, pytest.mark.timeout(240)]


async def test_one_trace_in_jaeger():
    """Gateway, limiter, agents, tasks, the worker and the model stand in the trace that the client began."""
    with throw_away_mesh() as mesh:
        if "JAEGER_URL" not in mesh.env:
            pytest.skip("no Jaeger here: `make jaeger` builds one")
        trace = secrets.token_hex(16)
        headers = {"traceparent": f"00-{trace}-{secrets.token_hex(8)}-01"}
        async with client(mesh.url) as admin, client(mesh.env["JAEGER_URL"]) as jaeger:
            await admin.login(mesh.env["ADMIN_USERNAME"], mesh.env["ADMIN_PASSWORD"])
            body = {"agent_ids": ["task-coordinator"], "timeout_seconds": 60}
            await admin.post("/api/execute", body, headers=headers)
            await admin.submit("sentiment_analysis", {"text": "fine"}, headers=headers)
            wanted = {"gateway", "ratelimit", "agents", "tasks", "tasks-worker", "llm"}
            seen: set[str] = set()
            async with asyncio.timeout(60):
                while not wanted <= seen:
                    found = await jaeger.get(f"/api/traces/{trace}")
                    processes = found.body["data"][0]["processes"] if found.status == 200 else {}
                    seen = {process["serviceName"] for process in processes.values()}
                    await asyncio.sleep(0.3)
