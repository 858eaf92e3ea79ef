"""Webhooks over real processes, to a receiver of one's own; and the page about them is true."""

import json
import re
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from deploy.local.ports import free_port
from tests.support.client import Client, client
from tests.support.mesh import Mesh
from tests.support.receiver import Got, Receiver, receiving

pytestmark = [pytest.mark.mesh, pytest.mark.timeout(240)]

PAGE = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text(encoding="utf-8")
WEBHOOKS = "/api/webhooks"


@pytest.fixture
async def hooks() -> AsyncIterator[Receiver]:
    async with receiving() as opened:
        yield opened


@pytest.fixture(scope="module")
def verifiers() -> list[Callable[[str, Got], Any]]:
    """The two examples of the page, as they are printed there."""
    by_headers, by_body = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    for example in (by_headers, by_body):
        exec(example, names)
    return [
        lambda secret, call: names["verified"](secret, call.headers, call.body),
        lambda secret, call: names["verified_by_body"](secret, call.body),
    ]


async def made(user: Client, url: str, **given: Any) -> dict[str, Any]:
    """A new webhook, with its secret."""
    answer = await user.post(WEBHOOKS, {"url": url, **given})
    assert answer.status == 201, answer
    return dict(answer.body)


async def pinged(user: Client, webhook: dict[str, Any]) -> str:
    """The event id of a ping that is on its way."""
    answer = await user.post(f"{WEBHOOKS}/{webhook['id']}/test")
    assert answer.status == 202, answer
    return str(answer.body["event_id"])


async def settled(user: Client, webhook: dict[str, Any], event_id: str, state: str = "delivered") -> dict[str, Any]:
    """The delivery of an event once it is in that state."""
    path = f"{WEBHOOKS}/{webhook['id']}/deliveries?state={state}"
    log = await user.until(path, lambda body: any(each["event_id"] == event_id for each in body))
    return next(each for each in log.body if each["event_id"] == event_id)


def shape(value: Any) -> Any:
    """What of a document does not change: names, and which values are objects."""
    return {name: shape(each) for name, each in value.items()} if isinstance(value, dict) else None


def examples() -> dict[str, Any]:
    """The bodies that the page shows, by event."""
    shown = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)]
    return {body["event"]: body for body in shown}


async def agent_of(admin: Client) -> str:
    """An active agent."""
    body = {"name": f"Bot-{secrets.token_hex(4)}", "role": "Analysis"}
    agent_id = str((await admin.post("/api/agents", body)).body["id"])
    changed = await admin.call("PUT", f"/api/agents/{agent_id}", {"status": "active"})
    assert changed.status == 200, changed
    return agent_id


async def test_what_ends_is_told_and_can_be_verified(
    user: Client, admin: Client, hooks: Receiver, verifiers: list[Callable[[str, Got], Any]]
):
    """A task and an execution, each in the shape of the page's example, by both its ways and with no other secret."""
    webhook = await made(user, hooks.url)
    await user.submit("automation", {"action": "test"})
    started = await user.post("/api/execute", {"agent_ids": [await agent_of(admin)], "input": "Say hi"})
    assert started.status == 200, started
    told = ["task.completed", "execution.started", "agent.execution.completed", "execution.completed"]
    for name in told:
        (call, *_) = await hooks.until(1, lambda call, name=name: call.document["event"] == name)  # type: ignore[misc]  # bound now
        for verify in verifiers:
            assert verify(webhook["secret"], call) == call.document
            assert verify("whsec_" + "A" * 44, call) is None
        event = call.document
        if name.startswith(("agent.", "execution.")):
            assert event["data"]["execution_id"] == started.body["execution_id"]
        assert shape(event) == shape(examples()[name]), event


async def test_bodies_that_were_changed_are_not_believed(
    user: Client, hooks: Receiver, verifiers: list[Callable[[str, Got], Any]]
):
    """By one letter, wherever it stands."""
    webhook = await made(user, hooks.url)
    await pinged(user, webhook)
    (call,) = await hooks.until(1)
    assert shape(call.document) == shape(examples()["webhook.ping"])
    for changed in (call.body.replace(b"ping", b"pong"), call.body[:-3] + b'x"}', b"", b"{}"):
        for verify in verifiers:
            assert verify(webhook["secret"], Got(headers=call.headers, body=changed)) is None


async def test_a_receiver_that_was_down_is_told_later_under_the_same_id(user: Client):
    """And again by a replay, under that id once more."""
    hooks = Receiver(port=free_port())
    webhook = await made(user, hooks.url)
    event_id = await pinged(user, webhook)
    path = f"{WEBHOOKS}/{webhook['id']}/deliveries"
    await user.until(path, lambda body: body and body[0]["tries"])
    async with receiving(hooks):
        await hooks.until(1, lambda call: call.event_id == event_id)
        delivery = await settled(user, webhook, event_id)
        first, *_, last = delivery["tries"]
        assert (first["status"], last["status"], bool(first["error"])) == (None, 204, True)
        assert "127.0.0.1" not in first["error"]
        replayed = await user.post(f"{path}/{delivery['id']}/replay")
        assert (replayed.status, replayed.body) == (200, {"replayed": 1})
        again = await hooks.until(2, lambda call: call.event_id == event_id)
    assert again[0].body == again[1].body


async def test_what_failed_is_made_again(user: Client, hooks: Receiver):
    """Once the schedule is over, all at once since a time."""
    hooks.usual = 500
    webhook = await made(user, hooks.url)
    event_id = await pinged(user, webhook)
    failed = await settled(user, webhook, event_id, "failed")
    assert {one["status"] for one in failed["tries"]} == {500}
    hooks.usual = 204
    since = {"failed_since": failed["created_at"]}
    assert (await user.post(f"{WEBHOOKS}/{webhook['id']}/replay", since)).body == {"replayed": 1}
    await settled(user, webhook, event_id)
    assert {call.event_id for call in hooks.got} == {event_id}


async def test_two_secrets_sign_while_one_takes_over(user: Client, hooks: Receiver):
    """Then the new one alone, and no more of the old."""
    webhook = await made(user, hooks.url)
    secrets_seen = [webhook["secret"]]
    for overlap in ({}, {"overlap_seconds": 0}):
        turned = await user.post(f"{WEBHOOKS}/{webhook['id']}/secret", overlap)
        secrets_seen.append(turned.body["secret"])
        event_id = await pinged(user, webhook)
        (call,) = await hooks.until(1, lambda call, event_id=event_id: call.event_id == event_id)  # type: ignore[misc]  # bound now
        valid = [secret for secret in secrets_seen if _verifies(secret, call)]
        assert valid == (secrets_seen if not overlap else secrets_seen[-1:])
    assert len(set(secrets_seen)) == 3


def _verifies(secret: str, call: Got) -> bool:
    try:
        Webhook(secret).verify(call.body.decode(), call.headers)
    except WebhookVerificationError:
        return False
    return True


async def test_a_receiver_that_is_gone_is_left_alone(user: Client, hooks: Receiver):
    """Until its owner enables it again."""
    hooks.usual = 410
    webhook = await made(user, hooks.url)
    await settled(user, webhook, await pinged(user, webhook), "failed")
    path = f"{WEBHOOKS}/{webhook['id']}"
    seen = (await user.until(path, lambda body: not body["enabled"])).body
    assert seen["disabled_reason"] == "gone"
    refused = await user.post(f"{path}/test")
    assert (refused.status, refused.body["code"]) == (409, "WEBHOOK_DISABLED")
    hooks.usual = 200
    enabled = await user.call("PATCH", path, {"enabled": True})
    assert (enabled.body["enabled"], enabled.body["disabled_reason"]) == (True, None)
    await settled(user, webhook, await pinged(user, webhook))
    assert len(hooks.got) == 2


async def test_addresses_inside_are_refused(user: Client):
    """Of this mesh only 127.0.0.0/8 may be called; nothing is kept of what was refused."""
    for url, code in (
        ("https://10.0.0.1/", "WEBHOOK_ADDRESS"),
        ("https://[::1]/", "WEBHOOK_ADDRESS"),
        ("https://169.254.169.254/latest/meta-data", "WEBHOOK_ADDRESS"),
        ("ftp://example.com/", "WEBHOOK_URL"),
        ("https://user:password@example.com/", "WEBHOOK_URL"),
        ("https://0x7f.1/", "WEBHOOK_URL"),
    ):
        refused = await user.post(WEBHOOKS, {"url": url})
        assert (refused.status, refused.body["code"]) == (400, code), (url, refused)
        assert refused.body["errors"][0]["field"] == "url"
    assert (await user.get(WEBHOOKS)).body == []


async def test_another_users_webhook_is_not_found(user: Client, admin: Client, mesh: Mesh, hooks: Receiver):
    """Nor are its deliveries; an administrator finds it."""
    webhook = await made(user, hooks.url)
    path = f"{WEBHOOKS}/{webhook['id']}"
    async with client(mesh.url) as other:
        await other.sign_up()
        for asked in (await other.get(path), await other.get(f"{path}/deliveries"), await other.post(f"{path}/test")):
            assert (asked.status, asked.body["code"]) == (404, "WEBHOOK_NOT_FOUND"), asked
        assert (await other.call("DELETE", path)).status == 404
    assert (await admin.get(path)).body["id"] == webhook["id"]
    assert (await user.call("DELETE", path)).status == 204
    assert (await user.get(path)).status == 404
