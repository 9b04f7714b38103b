"""Following a link: what a visitor gets, and what is remembered of him."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import httpx
import pytest

from tests.services.conftest import Clock, ToldSpool, asking, make_shortener
from tests.services.test_shortener import created, problem
from urlshortener.events import strict
from urlshortener.events.spool import Spool
from urlshortener.links.directory import Directory
from urlshortener.services.http import Readiness
from urlshortener.services.redirect import redirect_headers
from urlshortener.telemetry import REDIRECTS, REGISTRY

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


async def test_a_visitor_is_sent_to_exactly_the_kept_address(shortener: httpx.AsyncClient) -> None:
    await created(shortener, url="https://example.com/%7Ea?b=c%20d&e=#f", code="cat")
    answer = await shortener.get("/cat?utm=ignored&url=https://evil.example")
    assert answer.status_code == 307
    assert dict(answer.headers) == {
        "location": "https://example.com/%7Ea?b=c%20d&e=#f",
        "cache-control": "private, no-store",
        "x-robots-tag": "noindex",
        "content-length": "0",
    }
    assert answer.content == b""


async def test_neither_making_a_link_nor_following_it_asks_the_framework(
    shortener: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastapi.FastAPI.__call__", None)
    await created(shortener, code="cat")
    assert (await shortener.get("/cat")).status_code == (await shortener.head("/cat")).status_code == 307
    assert (await shortener.get("/dog")).status_code == 404


async def test_a_path_that_begins_otherwise_is_no_code(
    directory: Directory, spool: ToldSpool, clock: Clock, readiness: Readiness
) -> None:
    app = make_shortener(directory, spool, clock, readiness)
    async with asking(app) as client:
        await created(client, code="cat")
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "*cat", "query_string": b"", "headers": [], "app": app}
    await app(scope, AsyncMock(), send)
    assert sent[0]["status"] == 404


@pytest.mark.parametrize("accept", [BROWSER, "*/*"])
async def test_no_cache_keeps_what_may_be_another_answer_in_a_moment(shortener: httpx.AsyncClient, accept: str) -> None:
    never = await shortener.get("/cat", headers={"Accept": accept})
    assert (never.status_code, never.headers["cache-control"]) == (404, "no-store")
    await created(shortener, code="cat")
    read = await shortener.get("/api/v1/urls/cat")
    assert (read.status_code, read.headers["cache-control"]) == (200, "no-store")
    await shortener.delete("/api/v1/urls/cat")
    over = await shortener.get("/cat", headers={"Accept": accept})
    assert (over.status_code, over.headers["cache-control"]) == (410, "no-store")


async def test_a_referrer_policy_is_sent_only_where_a_setting_names_one(
    directory: Any, spool: ToldSpool, clock: Clock, readiness: Readiness
) -> None:
    async with asking(make_shortener(directory, spool, clock, readiness, referrer_policy="no-referrer")) as client:
        await created(client, code="cat")
        assert (await client.get("/cat")).headers["referrer-policy"] == "no-referrer"


async def test_the_headers_are_made_of_the_link_alone(directory: Any, shortener: httpx.AsyncClient) -> None:
    await created(shortener, code="cat")
    link = directory.known("cat")
    assert link is not None
    assert redirect_headers(link, "") == redirect_headers(link, "")
    assert (await shortener.get("/cat")).headers.raw == redirect_headers(link, "")


async def test_what_a_visitor_told_is_in_the_spool_with_a_cut_address(
    shortener: httpx.AsyncClient, spool: ToldSpool, clock: Clock
) -> None:
    await created(shortener, code="cat")
    await shortener.get("/cat", headers={"User-Agent": "Cat/1", "Referer": "https://from.example/"})
    (access,) = spool.appended
    assert (access.code, access.at, access.user_agent) == ("cat", clock.at, "Cat/1")
    assert (access.ip_address, access.referer) == ("203.0.113.0", "https://from.example/")
    assert access.visitor and "203.0.113.7" not in access.visitor


async def test_the_edge_s_id_of_a_request_is_in_the_spool_if_a_trusted_proxy_told_it(
    directory: Any, spool: ToldSpool, clock: Clock, readiness: Readiness
) -> None:
    app = make_shortener(directory, spool, clock, readiness)
    told: list[Any] = ["4bf92f3577b34da6a3ce929d0e0e4736", "a" * 64, "a" * 65, "a b", "a,b", b"\xff", ""]
    for peer in ("10.0.0.1", "203.0.113.7"):
        async with asking(app, peer) as client:
            await client.post("/api/v1/urls", json={"url": "https://example.com/", "code": "cat"})
            for request_id in told:
                await client.get("/cat", headers=[("X-Edge-Request-Id", request_id), ("X-Request-Id", "the-client-s")])
            await client.get("/cat", headers=[("X-Edge-Request-Id", "one"), ("X-Edge-Request-Id", "two")])
    assert [access.request_id for access in spool.appended] == [told[0], told[1], *[None] * 14]


async def test_the_header_of_the_edge_s_id_has_the_name_of_the_setting(
    directory: Any, spool: ToldSpool, clock: Clock, readiness: Readiness
) -> None:
    app = make_shortener(directory, spool, clock, readiness, request_id_header="X-Ours")
    async with asking(app, "10.0.0.1") as client:
        await created(client, code="cat")
        await client.get("/cat", headers={"x-ours": "4bf9", "X-Edge-Request-Id": "5555"})
    assert [access.request_id for access in spool.appended] == ["4bf9"]


async def test_the_visitor_leaves_only_after_the_spool_has_the_access(
    shortener: httpx.AsyncClient, spool: ToldSpool
) -> None:
    await created(shortener, code="cat")
    spool.is_slow = True
    visit = asyncio.create_task(shortener.get("/cat"))
    async with asyncio.timeout(5):
        while not spool.futures:
            await asyncio.sleep(0)
    for _ in range(50):  # turns in which the answer could slip out
        await asyncio.sleep(0)
    assert not visit.done()
    spool.futures[0].set_result(None)
    assert (await visit).status_code == 307


async def test_head_redirects_and_is_not_counted(shortener: httpx.AsyncClient, spool: ToldSpool) -> None:
    await created(shortener, code="cat")
    head, get = await shortener.head("/cat"), await shortener.get("/cat")
    assert head.headers == get.headers and head.status_code == get.status_code
    assert len(spool.appended) == 1


async def test_odd_and_long_headers_are_kept_cut(shortener: httpx.AsyncClient, spool: ToldSpool) -> None:
    await created(shortener, code="cat")
    odd = {b"User-Agent": b"\xff\x80" * 2000, b"Referer": b"\x01\xfe" * 2000, b"X-Forwarded-For": b"\xff, ,,"}
    assert (await shortener.get("/cat", headers=odd)).status_code == 307
    (access,) = spool.appended
    assert len(access.user_agent or "") == 512 and len(access.referer or "") == 1024


async def test_what_never_existed_is_a_404_and_is_not_counted(shortener: httpx.AsyncClient, spool: ToldSpool) -> None:
    assert problem(await shortener.get("/unknown"))[:2] == (404, "NOT_FOUND")
    assert spool.appended == []


async def test_what_is_over_is_a_410(shortener: httpx.AsyncClient, clock: Clock, spool: ToldSpool) -> None:
    for code in ("expired", "disabled", "deleted"):
        await created(shortener, code=code, expires_at=(clock.at + timedelta(hours=1)).isoformat())
    await shortener.patch("/api/v1/urls/disabled", json={"enabled": False})
    await shortener.delete("/api/v1/urls/deleted")
    assert (await shortener.get("/expired")).status_code == 307
    clock.advance(hours=1)
    for code in ("expired", "disabled", "deleted"):
        assert problem(await shortener.get(f"/{code}"))[:2] == (410, "GONE")
    assert [access.code for access in spool.appended] == ["expired"]


class NobodyAsks:
    """A directory that fails whoever asks it."""

    def known(self, code: str) -> None:
        raise AssertionError(f"the store was asked for {code!r}")

    follow = known


@pytest.mark.parametrize(
    "path", ["/%00", "/%ff", "/%C3%BC", "/a%20b", "/a.b", "/" + "x" * 65, "/cat%0a", "/cat%0d%0aX:y", "/c%C0%AEt", "/$"]
)
async def test_what_cannot_be_a_code_is_a_404_without_asking_anybody(
    spool: ToldSpool, clock: Clock, readiness: Readiness, path: str
) -> None:
    async with asking(make_shortener(NobodyAsks(), spool, clock, readiness)) as client:
        assert problem(await client.get(path))[:2] == (404, "NOT_FOUND")


@pytest.mark.parametrize("path", ["/cat/", "/cat/more", "/api", "/api/v2/urls", "/docs/", "/cat%2F"])
async def test_other_paths_are_a_404_and_never_another_redirect(shortener: httpx.AsyncClient, path: str) -> None:
    await created(shortener, code="cat")
    assert problem(await shortener.get(path))[:2] == (404, "NOT_FOUND")


async def test_a_browser_gets_a_plain_page(shortener: httpx.AsyncClient) -> None:
    await created(shortener, code="cat")
    await shortener.delete("/api/v1/urls/cat")
    for path, status in (("/unknown", 404), ("/cat", 410), ("/", 200), ("/a/b", 404)):
        answer = await shortener.get(path, headers={"Accept": BROWSER})
        assert (answer.status_code, answer.headers["content-type"]) == (status, "text/html; charset=utf-8")
        assert "<h1>" in answer.text and "unknown" not in answer.text
        assert "default-src 'none'" in answer.headers["content-security-policy"]


async def test_below_api_even_a_browser_gets_a_problem(shortener: httpx.AsyncClient) -> None:
    assert problem(await shortener.get("/api/v1/urls/unknown", headers={"Accept": BROWSER}))[0] == 404


@pytest.mark.parametrize(("outcome", "path"), [("found", "/cat"), ("unknown", "/unknown"), ("gone", "/gone")])
async def test_redirects_are_measured_by_how_they_ended(shortener: httpx.AsyncClient, outcome: str, path: str) -> None:
    await created(shortener, code="cat")
    await created(shortener, code="gone")
    await shortener.delete("/api/v1/urls/gone")
    before = REDIRECTS.labels(outcome)._value.get()
    await shortener.get(path)
    assert REDIRECTS.labels(outcome)._value.get() == before + 1


async def test_metrics_bear_templates_and_never_codes(shortener: httpx.AsyncClient) -> None:
    await created(shortener, code="meow")
    for method, path in (("GET", "/meow"), ("GET", "/api/v1/urls/meow"), ("BREW", "/meow"), ("GET", "/meow/x")):
        await shortener.request(method, path)
    labels = [sample.labels for metric in REGISTRY.collect() for sample in metric.samples]
    seen = {(label["route"], label["method"]) for label in labels if "route" in label and "method" in label}
    assert {("/{code}", "GET"), ("/api/v1/urls/{code}", "GET"), ("/{code}", "other"), ("unmatched", "GET")} <= seen
    assert not any("meow" in value for label in labels for value in label.values())


async def test_a_visitor_whose_visit_a_strict_spool_cannot_place_is_asked_to_come_again(
    directory: Any, clock: Clock, readiness: Readiness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strict, "LIMIT_SECONDS", 0.05)
    spool = Spool(tmp_path / "spool", 1 << 30, strict=True)
    async with asking(make_shortener(directory, spool, clock, readiness)) as client:
        await created(client, code="cat")
        answer = await client.get("/cat")
        assert answer.headers["retry-after"] == "1"
        assert problem(answer) == (503, "CHANNEL_UNAVAILABLE", None)
        following = asyncio.create_task(client.get("/cat"))
        for _ in range(2):
            spool.done(await spool.take())
        assert (await following).status_code == 307
