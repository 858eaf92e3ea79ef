"""The pages of the documentation: whole without any other host, public, and sent once."""

import re

import pytest

from services.gateway.apis.dialects import classify
from tests.unit.gateway.apis.world import World

PAGES = ["/docs", "/redoc", "/api/docs", "/api/redoc"]
ASSETS = {
    "/docs/start.js": ("text/javascript; charset=utf-8", "no-cache", b"/openapi.json"),
    "/docs/swagger-ui.css": ("text/css; charset=utf-8", "public, max-age=86400", b".swagger-ui"),
    "/docs/swagger-ui-bundle.js": ("text/javascript; charset=utf-8", "public, max-age=86400", b"SwaggerUIBundle"),
    "/redoc/redoc.standalone.js": ("text/javascript; charset=utf-8", "public, max-age=86400", b"Redoc"),
}


@pytest.mark.parametrize("path", PAGES)
async def test_the_pages_show_the_document(world: World, path):
    """Without a credential."""
    answer = await world.ask("GET", path, who="")
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b"/openapi.json" in answer.body


@pytest.mark.parametrize("path", PAGES)
async def test_the_pages_need_no_other_host(world: World, path):
    """What they refer to is ours, and is there without a credential."""
    page = (await world.ask("GET", path, who="")).body.decode()
    wanted = [url for url in re.findall(r'(?:src|href|url)="([^"]*)"', page) if url != "data:,"]
    assert any(url.endswith(".js") for url in wanted)
    assert "//" not in page
    for url in wanted:
        assert (await world.ask("GET", url, who="")).status == 200, url


@pytest.mark.parametrize("path", ASSETS)
async def test_the_viewers_are_served(world: World, path):
    """Whole, with the type that browsers insist on, to be kept for a day."""
    answer = await world.ask("GET", path, who="")
    assert answer.status == 200
    kind, kept, word = ASSETS[path]
    assert (answer.headers["content-type"], answer.headers["cache-control"], word in answer.body) == (kind, kept, True)
    assert int(answer.headers["content-length"]) == len(answer.body)


@pytest.mark.parametrize("path", [*PAGES, *ASSETS])
def test_no_limit_applies(path):
    """They are answered from memory, like everything public that browsers ask for."""
    assert classify("GET", path) == ""


@pytest.mark.parametrize("path", ["/openapi.json", "/docs", "/redoc/redoc.standalone.js"])
async def test_nothing_is_sent_twice(world: World, path):
    """Whoever names the tag, weakly or among others, hears that nothing changed; whoever names another gets it all."""
    whole = await world.ask("GET", path, who="")
    tag = whole.headers["etag"]
    for named in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        answer = await world.ask("GET", path, who="", headers={"If-None-Match": named})
        assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", tag)
    assert (await world.ask("GET", path, who="", headers={"If-None-Match": '"other"'})).body == whole.body


async def test_streams_are_explained_in_words_too(world: World):
    """The viewers show no schema of server-sent events."""
    paths = (await world.ask("GET", "/openapi.json")).json["paths"]
    described = paths["/api/v1/chat/stream"]["post"]["responses"]["200"]["description"]
    assert described == "OK. The data of server-sent events: TokenFrame or LastFrame"
