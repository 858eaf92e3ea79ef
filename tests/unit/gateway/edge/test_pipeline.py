import pytest

from chassis import telemetry
from chassis.errors import Conflict, Internal, Unavailable
from services.gateway.edge.asgi import Receive, Scope, Send
from services.gateway.edge.context import current
from tests.unit.gateway.edge.limiter import decision
from tests.unit.gateway.edge.world import ANN, ClientGone, World

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def raising(error: Exception, *, after_start: bool = False):
    """An application that fails."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if after_start:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise error

    return app


def keeping(seen: list[Scope]):
    """An application that keeps its scope and answers nothing but 204."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return app


async def test_routes_see_who_asks_and_what_was_decided():
    """The context of a request is complete when its route runs."""
    seen: list[Scope] = []
    world = World(keeping(seen))
    await world.ask(x_request_id="abc-1", traceparent=TRACE)
    context = current(seen[0])
    assert (context.request_id, context.principal, context.route_class) == ("abc-1", ANN, "v1.chat")
    assert (context.client_ip, context.decision, context.degraded) == ("192.0.2.7", decision(), False)
    assert context.traceparent[3:35] == TRACE[3:35]


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "a\nb", "é"])
async def test_insane_request_ids_are_replaced(given: str):
    """An id that could break a log or a header is not passed on."""
    answer = await World().ask(x_request_id=given)
    assert answer.headers["x-request-id"].startswith("req_")


async def test_every_answer_carries_the_security_headers():
    """Answers, refusals and faults alike."""
    for world in (World(), World(raising(ValueError("secret"))), World(raising(Conflict()))):
        headers = (await world.ask()).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-ratelimit-limit"] == "10"
        assert headers["x-request-id"]


async def test_a_warm_credential_is_not_verified_again():
    """What memory knows is not asked for."""
    world = World()
    assert (await world.ask()).status == 200
    assert world.identities.asked == []
    assert (await world.ask(authorization="Bearer cold")).status == 200
    assert world.identities.asked == ["cold"]


@pytest.mark.parametrize("authorization", ["Bearer wrong", "Basic YTpi", "Bearer ", "Bearer"])
async def test_bad_credentials_are_401_and_use_up_the_limit_of_their_address(authorization: str):
    """Guessing counts against the address it comes from."""
    world = World()
    answer = await world.ask(authorization=authorization)
    assert (answer.status, answer.body["code"]) == (401, "AUTH_FAILED")
    assert [(subject.user, subject.role, subject.ip) for subject in world.limiter.asked] == [
        ("192.0.2.7", "anonymous", "192.0.2.7")
    ]
    world.limiter.answer = decision(allowed=False, retry_after_ms=100)
    assert (await world.ask(authorization=authorization)).status == 429


async def test_nobody_knows_is_503_and_not_401():
    """A credential that cannot be verified now may be right."""
    world = World()
    world.identities.error = Unavailable(code="DATABASE_ERROR", retry_after_seconds=1.0)
    answer = await world.ask(authorization="Bearer unknown")
    assert (answer.status, answer.body["code"]) == (503, "DATABASE_ERROR")


async def test_public_paths_ask_nobody():
    """Health is neither authenticated nor limited; login is limited by address, whatever credential comes with it."""
    world = World()
    assert (await world.ask("/health", "GET", authorization="Bearer wrong")).status == 200
    assert world.limiter.asked == []
    assert (await world.ask("/login", authorization="Bearer wrong")).status == 200
    assert (world.identities.asked, world.limiter.asked[0].role) == ([], "anonymous")


async def test_a_denied_request_never_reaches_its_route():
    """429 says which rule, and when to come back; the route does not run."""
    seen: list[Scope] = []
    world = World(keeping(seen))
    world.limiter.answer = decision(allowed=False, retry_after_ms=1500)
    answer = await world.ask()
    assert (answer.status, answer.body["code"], seen) == (429, "RATE_LIMITED", [])
    assert answer.body["details"] == {"rule": "v1_chat"}
    assert answer.headers["x-ratelimit-rule"] == "v1_chat"


async def test_mesh_errors_are_rendered_in_their_dialect():
    """The renderer gets path, Accept, id and time."""
    answer = await World(raising(Conflict("Taken", code="TAKEN"))).ask("/some/path", accept="text/x")
    assert (answer.status, answer.body["code"], answer.body["message"]) == (409, "TAKEN", "Taken")
    assert (answer.body["path"], answer.body["accept"]) == ("/some/path", "text/x")
    assert answer.body["id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    "error", [ValueError("secret path"), Internal(private="secret path"), RecursionError("secret")]
)
async def test_faults_tell_nothing(error: Exception):
    """A fault of ours is a 500 with an id and without a word about its cause."""
    answer = await World(raising(error)).ask()
    assert (answer.status, answer.body["code"]) == (500, "INTERNAL")
    assert b"secret" not in answer.messages[1]["body"]


@pytest.mark.parametrize(("given", "told"), [(None, 1.0), (7.0, 7.0)])
async def test_every_503_says_when_to_ask_again(given: float | None, told: float):
    """What the error knows, else a second."""
    answer = await World(raising(Unavailable(retry_after_seconds=given))).ask()
    assert (answer.status, answer.body["retry_after"]) == (503, told)


async def test_an_application_that_ends_without_an_answer_is_a_fault():
    """The client gets a 500, not silence."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        return

    assert (await World(app).ask()).status == 500


@pytest.mark.parametrize("error", [ValueError(), Unavailable()])
async def test_a_failure_in_the_middle_of_an_answer_breaks_the_connection(error: Exception):
    """After the first byte only the server can say that something went wrong: by ending the connection."""
    with pytest.raises((Internal, Unavailable)):
        await World(raising(error, after_start=True)).ask()


async def test_a_client_that_left_counts_as_such():
    """It counts as 499; should somebody still read, what arrived was not a whole request, which is no fault of ours."""
    world = World(raising(ClientGone()))
    assert (await world.ask()).status == 400
    assert (await World(raising(ClientGone(), after_start=True)).ask()).status == 200
    assert world.sample("mesh_http_request_seconds_count", route="unmatched", method="POST", status="499") == 1


async def test_requests_are_counted_by_template():
    """The path itself is no label, and neither is a method that nobody knows."""
    world = World()
    await world.ask("/route/7")
    await world.ask("/route/8", "BREW")
    count = "mesh_http_request_seconds_count"
    assert world.sample(count, route="/route/{id}", method="POST", status="200") == 1
    assert world.sample(count, route="/route/{id}", method="other", status="200") == 1
    assert world.sample("mesh_http_in_flight") == 0
    assert world.metrics.totals[0] == 2


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        ((b"x" * 100,), {"content_length": "100"}, 200),
        ((b"x" * 101,), {"content_length": "101"}, 413),
        ((b"x" * 60, b"x" * 40), {}, 200),
        ((b"x" * 60, b"x" * 41), {}, 413),
        ((b"",), {"content_length": "many"}, 400),
        ((b"",), {"content_length": "-1"}, 400),
    ],
)
async def test_bodies_are_bounded(body: tuple[bytes, ...], headers: dict[str, str], status: int):
    """Announced or streamed, a body may have as many bytes as the setting says."""
    assert (await World().ask(body=body, **headers)).status == status


async def test_hosts_that_are_not_ours_are_refused():
    """A Host header outside the list is a 400 before anybody is asked."""
    world = World(hosts=["mesh.example", ".mesh.example"])
    assert (await world.ask(host="mesh.example:8000")).status == 200
    assert (await world.ask(host="a.b.mesh.example")).status == 200
    assert (await world.ask(host="evil.example")).status == 400
    assert len(world.limiter.asked) == 2


async def test_a_preflight_is_answered_here():
    """CORS asks before it sends a credential."""
    world = World()
    answer = await world.ask(
        method="OPTIONS", authorization="", origin="http://localhost:10011", access_control_request_method="POST"
    )
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (204, "http://localhost:10011")
    assert world.limiter.asked == []
    foreign = await world.ask(method="OPTIONS", origin="http://evil.example", access_control_request_method="POST")
    assert "access-control-allow-origin" not in foreign.headers


async def test_lifespan_is_no_request():
    """The process opens and closes what it needs; the server's lifespan says nothing."""
    world = World()
    await world.edge({"type": "lifespan"}, None, None)  # type: ignore[arg-type]  # neither may be touched
    assert world.metrics.totals == (0, 0.0)


async def test_the_trace_runs_through_the_application():
    """What the application calls belongs to the caller's trace."""
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(telemetry.current_traceparent())
        raise Conflict

    await World(app).ask(traceparent=TRACE)
    await World(app).ask(traceparent="nonsense")
    assert seen[0][3:35] == TRACE[3:35]
    assert len(seen[1]) == 55
    assert telemetry.current_traceparent() == ""
