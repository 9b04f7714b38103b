"""The management routes: each row of the contract."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest

from tests.services.conftest import Clock, ToldSpool, asking, make_shortener
from urlshortener.errors import OutcomeUnknown, StoreUnavailable
from urlshortener.services.http import Readiness

TOKEN = "a-token-of-the-tests"


async def created(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await client.post("/api/v1/urls", json={"url": "https://example.com/", **body})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def problem(answer: httpx.Response) -> tuple[int, str, str | None]:
    """Status, code and field, of an answer that is a whole problem."""
    assert answer.headers["content-type"] == "application/problem+json"
    words = answer.json()
    assert words["type"] == "about:blank" and words["title"] and words["detail"]
    assert words["status"] == answer.status_code
    return answer.status_code, words["code"], words.get("field")


async def test_a_created_link_is_shown_whole_and_compact(shortener: httpx.AsyncClient) -> None:
    answer = await shortener.post("/api/v1/urls", json={"url": "HTTP://Example.com:80/ü?q=1#f", "code": "cat"})
    assert answer.status_code == 201
    assert answer.headers["location"] == "/api/v1/urls/cat"
    assert answer.headers["content-type"] == "application/json"
    link = answer.json()
    assert str(UUID(link.pop("id")))
    assert link == {
        "code": "cat",
        "short_url": "http://s.example/cat",
        "original_url": "http://example.com/%C3%BC?q=1#f",
        "created_at": "2026-11-23T10:00:00.123456Z",
        "updated_at": "2026-11-23T10:00:00.123456Z",
        "expires_at": None,
        "enabled": True,
    }
    assert b": " not in answer.content and b", " not in answer.content


async def test_a_drawn_code_has_eight_characters(shortener: httpx.AsyncClient) -> None:
    link = await created(shortener)
    assert len(link["code"]) == 8 and link["code"].isalnum()


async def test_an_expiry_is_kept_in_utc(shortener: httpx.AsyncClient) -> None:
    link = await created(shortener, expires_at="2027-01-01T05:45:00+05:45")
    assert link["expires_at"] == "2027-01-01T00:00:00Z"


async def test_the_same_key_and_meaning_give_the_same_link(shortener: httpx.AsyncClient) -> None:
    key = {"Idempotency-Key": "k 1", "Content-Type": "application/json"}
    first = await shortener.post("/api/v1/urls", content=b'{"url":"https://example.com"}', headers=key)
    again = await shortener.post("/api/v1/urls", content=b'{ "url" : "https://example.com/" }', headers=key)
    assert first.status_code == again.status_code == 201
    assert first.json() == again.json()


async def test_a_replay_shows_the_link_as_it_is_now(shortener: httpx.AsyncClient) -> None:
    key = {"Idempotency-Key": "k"}
    body = {"url": "https://example.com/", "code": "cat"}
    await shortener.post("/api/v1/urls", json=body, headers=key)
    await shortener.patch("/api/v1/urls/cat", json={"enabled": False})
    again = await shortener.post("/api/v1/urls", json=body, headers=key)
    assert (again.status_code, again.json()["enabled"]) == (201, False)


async def test_the_same_key_with_another_body_is_refused(shortener: httpx.AsyncClient) -> None:
    key = {"Idempotency-Key": "k"}
    await shortener.post("/api/v1/urls", json={"url": "https://example.com/1"}, headers=key)
    other = await shortener.post("/api/v1/urls", json={"url": "https://example.com/2"}, headers=key)
    assert problem(other) == (422, "KEY_REUSED", "Idempotency-Key")


async def test_a_refusal_does_not_use_a_key_up(shortener: httpx.AsyncClient) -> None:
    key = {"Idempotency-Key": "k"}
    refused = await shortener.post("/api/v1/urls", json={"url": "ftp://example.com/"}, headers=key)
    assert problem(refused) == (422, "INVALID_URL", "url")
    assert (await shortener.post("/api/v1/urls", json={"url": "https://example.com/"}, headers=key)).status_code == 201


async def test_a_replay_of_a_deleted_link_is_gone(shortener: httpx.AsyncClient) -> None:
    key = {"Idempotency-Key": "k"}
    body = {"url": "https://example.com/", "code": "cat"}
    await shortener.post("/api/v1/urls", json=body, headers=key)
    await shortener.delete("/api/v1/urls/cat")
    assert problem(await shortener.post("/api/v1/urls", json=body, headers=key))[:2] == (410, "GONE")


async def test_a_retry_that_comes_after_the_expiry_gets_its_link(shortener: httpx.AsyncClient, clock: Clock) -> None:
    body = {"url": "https://example.com/", "expires_at": (clock.at + timedelta(seconds=2)).isoformat()}
    first = await shortener.post("/api/v1/urls", json=body, headers={"Idempotency-Key": "k"})
    clock.advance(seconds=5)
    again = await shortener.post("/api/v1/urls", json=body, headers={"Idempotency-Key": "k"})
    assert (again.status_code, again.json()) == (201, first.json())


@pytest.mark.parametrize("key", ["", "k" * 129, "tab\tin", "ü".encode().decode("latin-1")])
async def test_a_key_is_1_to_128_printable_characters(shortener: httpx.AsyncClient, key: str) -> None:
    headers = {b"Idempotency-Key": key.encode("latin-1")}
    answer = await shortener.post("/api/v1/urls", json={"url": "https://example.com/"}, headers=headers)
    assert problem(answer) == (422, "INVALID_PARAMETER", "Idempotency-Key")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, (422, "INVALID_BODY", "url")),
        ({"url": None}, (422, "INVALID_BODY", "url")),
        ({"url": 1}, (422, "INVALID_BODY", "url")),
        ([], (422, "INVALID_BODY", None)),
        ("https://example.com/", (422, "INVALID_BODY", None)),
        ({"url": "javascript:alert(1)"}, (422, "INVALID_URL", "url")),
        ({"url": "https://user:secret@example.com/"}, (422, "INVALID_URL", "url")),
        ({"url": "https://example.com/\u0000"}, (422, "INVALID_URL", "url")),
        ({"url": "https://example.com/" + "a" * 2048}, (422, "INVALID_URL", "url")),
        ({"url": "https://example.com/", "code": "ab"}, (422, "INVALID_CODE", "code")),
        ({"url": "https://example.com/", "code": "a" * 65}, (422, "INVALID_CODE", "code")),
        ({"url": "https://example.com/", "code": "a/b"}, (422, "INVALID_CODE", "code")),
        ({"url": "https://example.com/", "code": "health"}, (422, "INVALID_CODE", "code")),
        ({"url": "https://example.com/", "code": 7}, (422, "INVALID_BODY", "code")),
        ({"url": "https://example.com/", "expires_at": "tomorrow"}, (422, "INVALID_BODY", "expires_at")),
        ({"url": "https://example.com/", "expires_at": "2030-01-01T00:00:00"}, (422, "INVALID_BODY", "expires_at")),
        ({"url": "https://example.com/", "expires_at": 1893456000}, (422, "INVALID_BODY", "expires_at")),
        (
            {"url": "https://example.com/", "expires_at": "2026-11-23T10:00:00Z"},
            (422, "INVALID_PARAMETER", "expires_at"),
        ),
        (
            {"url": "https://example.com/", "expires_at": "9999-12-31T23:59:59-14:00"},
            (422, "INVALID_PARAMETER", "expires_at"),
        ),
    ],
)
async def test_what_no_link_may_be_is_refused_with_field_and_reason(
    shortener: httpx.AsyncClient, body: object, expected: tuple[int, str, str | None]
) -> None:
    assert problem(await shortener.post("/api/v1/urls", json=body)) == expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"url":"\xff"}',
        b"\xef\xbb\xbf{}",
        b'{"url":1} {',
        b'{"x":' + b"[" * 8000 + b"]" * 8000 + b"}",
        b"[" * 16000,
        b"NaN",
        b'{"url":"\\ud800"}',
    ],
)
async def test_what_is_not_json_is_a_400(shortener: httpx.AsyncClient, body: bytes) -> None:
    answer = await shortener.post("/api/v1/urls", content=body, headers={"Content-Type": "application/json"})
    assert problem(answer) == (400, "INVALID_BODY", None)


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", "", "\xff"]
)
async def test_another_content_type_is_a_415(shortener: httpx.AsyncClient, media_type: str) -> None:
    headers = {b"Content-Type": media_type.encode("latin-1")}
    answer = await shortener.post("/api/v1/urls", content=b'{"url":"https://example.com/"}', headers=headers)
    assert problem(answer)[:2] == (415, "UNSUPPORTED_MEDIA_TYPE")


async def test_json_may_name_its_charset(shortener: httpx.AsyncClient) -> None:
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    answer = await shortener.post("/api/v1/urls", content=b'{"url":"https://example.com/"}', headers=headers)
    assert answer.status_code == 201


async def test_unknown_fields_are_ignored(shortener: httpx.AsyncClient) -> None:
    assert "owner" not in await created(shortener, owner={"deep": [1]})


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/api/v1/urls"), ("PUT", "/api/v1/urls/cat"), ("PATCH", "/api/v1/urls/cat")]
)
@pytest.mark.parametrize("is_declared", [True, False])
async def test_more_than_16_kib_is_a_413(
    shortener: httpx.AsyncClient, method: str, path: str, is_declared: bool
) -> None:
    body = b'{"url":"https://example.com/' + b"a" * 16 * 1024 + b'"}'

    async def chunks() -> Any:
        for start in range(0, len(body), 1000):
            yield body[start : start + 1000]

    answer = await shortener.request(
        method, path, content=body if is_declared else chunks(), headers={"Content-Type": "application/json"}
    )
    assert problem(answer) == (413, "BODY_TOO_LARGE", None)


@pytest.mark.parametrize("length", ["9" * 5000, "99999"])
async def test_a_length_that_is_too_large_is_refused_before_the_body(shortener: httpx.AsyncClient, length: str) -> None:
    headers = {"Content-Type": "application/json", "Content-Length": length}
    assert problem(await shortener.post("/api/v1/urls", content=b"{}", headers=headers))[0] == 413


async def test_a_taken_code_is_a_409(shortener: httpx.AsyncClient) -> None:
    await created(shortener, code="cat")
    again = await shortener.post("/api/v1/urls", json={"url": "https://example.com/2", "code": "cat"})
    assert problem(again) == (409, "CODE_TAKEN", "code")


async def test_pages_lead_through_all_links_newest_first(shortener: httpx.AsyncClient, clock: Clock) -> None:
    for number in range(5):
        await created(shortener, code=f"cat{number}")
        clock.advance(seconds=1)
    seen: list[str] = []
    cursor: str | None = None
    for _ in range(3):
        answer = await shortener.get("/api/v1/urls", params={"limit": 2} | ({"cursor": cursor} if cursor else {}))
        seen += [link["code"] for link in answer.json()["items"]]
        cursor = answer.json()["next_cursor"]
    assert seen == ["cat4", "cat3", "cat2", "cat1", "cat0"]
    assert cursor is None


async def test_a_page_that_is_just_full_is_the_last(shortener: httpx.AsyncClient) -> None:
    await created(shortener)
    page = (await shortener.get("/api/v1/urls?limit=1")).json()
    assert (len(page["items"]), page["next_cursor"]) == (1, None)


@pytest.mark.parametrize("limit", ["0", "101", "-1", "x", "1.5", "", "9" * 5000])
async def test_a_limit_is_1_to_100(shortener: httpx.AsyncClient, limit: str) -> None:
    assert problem(await shortener.get("/api/v1/urls", params={"limit": limit})) == (422, "INVALID_PARAMETER", "limit")


@pytest.mark.parametrize("cursor", ["", "x", "ü", "A" * 32 + "=", "f" + "_" * 31, "\u0000", "AAAA" * 1000])
async def test_a_made_up_cursor_is_refused(shortener: httpx.AsyncClient, cursor: str) -> None:
    answer = await shortener.get("/api/v1/urls", params={"cursor": cursor})
    assert problem(answer) == (422, "INVALID_PARAMETER", "cursor")


async def test_a_link_is_read_by_its_code(shortener: httpx.AsyncClient) -> None:
    link = await created(shortener, code="cat")
    answer = await shortener.get("/api/v1/urls/cat")
    assert (answer.status_code, answer.json()) == (200, link)


async def test_put_gives_a_link_another_address(shortener: httpx.AsyncClient, clock: Clock) -> None:
    link = await created(shortener, code="cat")
    clock.advance(seconds=1)
    answer = await shortener.put("/api/v1/urls/cat", json={"url": "https://other.example/"})
    assert answer.status_code == 200
    moved = {"original_url": "https://other.example/", "updated_at": "2026-11-23T10:00:01.123456Z"}
    assert answer.json() == link | moved


async def test_patch_changes_what_it_names(shortener: httpx.AsyncClient) -> None:
    await created(shortener, code="cat", expires_at="2030-01-01T00:00:00Z")
    disabled = (await shortener.patch("/api/v1/urls/cat", json={"enabled": False})).json()
    assert (disabled["enabled"], disabled["expires_at"]) == (False, "2030-01-01T00:00:00Z")
    for_good = (await shortener.patch("/api/v1/urls/cat", json={"expires_at": None, "enabled": True})).json()
    assert (for_good["enabled"], for_good["expires_at"]) == (True, None)
    moved = (await shortener.patch("/api/v1/urls/cat", json={"url": "https://other.example"})).json()
    assert moved["original_url"] == "https://other.example/"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, None),
        ({"colour": "red"}, None),
        ({"url": None}, "url"),
        ({"enabled": None}, "enabled"),
        ({"enabled": "yes"}, "enabled"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"url": "mailto:cat@example.com"}, "url"),
    ],
)
async def test_a_change_that_cannot_be_is_a_422(shortener: httpx.AsyncClient, body: object, field: str | None) -> None:
    await created(shortener, code="cat")
    status, _, named = problem(await shortener.patch("/api/v1/urls/cat", json=body))
    assert (status, named) == (422, field)


async def test_a_deleted_link_is_gone_and_its_code_stays_taken(shortener: httpx.AsyncClient, clock: Clock) -> None:
    await created(shortener, code="cat")
    deleted = await shortener.delete("/api/v1/urls/cat")
    assert (deleted.status_code, deleted.content) == (204, b"")
    clock.advance(seconds=1)  # two deletions at one moment are one that was tried again
    assert problem(await shortener.delete("/api/v1/urls/cat"))[0] == 404
    assert problem(await shortener.get("/api/v1/urls/cat"))[0] == 404
    assert (await shortener.get("/api/v1/urls")).json()["items"] == []
    again = await shortener.post("/api/v1/urls", json={"url": "https://example.com/", "code": "cat"})
    assert problem(again)[0] == 409


@pytest.mark.parametrize("code", ["unknown", "a", "x" * 65, "%00", "%ff", "%C3%BC", "a%20b", "a.b", "%0a"])
async def test_a_code_that_nobody_has_is_a_404_everywhere(shortener: httpx.AsyncClient, code: str) -> None:
    path = f"/api/v1/urls/{code}"
    answers = [
        await shortener.get(path),
        await shortener.put(path, json={"url": "https://example.com/"}),
        await shortener.patch(path, json={"enabled": True}),
        await shortener.delete(path),
    ]
    assert [problem(answer)[:2] for answer in answers] == [(404, "NOT_FOUND")] * 4


async def test_the_public_url_is_what_short_links_begin_with(
    directory: Any, spool: ToldSpool, clock: Clock, readiness: Readiness
) -> None:
    app = make_shortener(directory, spool, clock, readiness, public_url="https://go.example/x")
    async with asking(app) as client:
        assert (await created(client, code="cat"))["short_url"] == "https://go.example/x/cat"


@pytest.mark.parametrize("host", ["evil.example/path", "a b", 'x"><script>', "", "a:b", "x@y"])
async def test_a_host_that_is_none_makes_no_link(shortener: httpx.AsyncClient, host: str) -> None:
    answer = await shortener.post("/api/v1/urls", json={"url": "https://example.com/"}, headers={"Host": host})
    assert problem(answer) == (400, "INVALID_HOST", "Host")
    assert (await shortener.get("/api/v1/urls")).json()["items"] == []


GUARDED = [
    ("POST", "/api/v1/urls"),
    ("GET", "/api/v1/urls"),
    ("GET", "/api/v1/urls?limit=0"),
    ("PUT", "/api/v1/urls/cat"),
    ("PATCH", "/api/v1/urls/cat"),
    ("DELETE", "/api/v1/urls/cat"),
]


@pytest.mark.parametrize(("method", "path"), GUARDED)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": "Bearer"},
        {"X-Api-Key": ""},
        {"X-Api-Key": b"\xff\xfe"},
    ],
)
async def test_writes_and_lists_need_the_token(
    directory: Any,
    spool: ToldSpool,
    clock: Clock,
    readiness: Readiness,
    method: str,
    path: str,
    headers: dict[str, Any],
) -> None:
    async with asking(make_shortener(directory, spool, clock, readiness, admin_token=TOKEN)) as client:
        answer = await client.request(method, path, headers=headers)
    assert problem(answer) == (401, "UNAUTHORIZED", None)
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("headers", [{"Authorization": f"Bearer {TOKEN}"}, {"X-Api-Key": TOKEN}])
async def test_the_token_opens_and_reading_needs_none(
    directory: Any, spool: ToldSpool, clock: Clock, readiness: Readiness, headers: dict[str, str]
) -> None:
    async with asking(make_shortener(directory, spool, clock, readiness, admin_token=TOKEN)) as client:
        body = {"url": "https://example.com/", "code": "cat"}
        assert (await client.post("/api/v1/urls", json=body, headers=headers)).status_code == 201
        assert (await client.get("/api/v1/urls", headers=headers)).status_code == 200
        assert (await client.get("/api/v1/urls/cat")).status_code == 200
        assert (await client.get("/cat")).status_code == 307
        assert (await client.get("/health")).status_code == 200


class NoDatabase:
    """A directory whose every way to a database is closed."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def known(self, code: str) -> None:
        return None

    async def refuse(self, *_: object) -> None:
        raise self._error

    follow = find = create = create_many = change = delete = page = refuse


async def test_a_browser_gets_a_page_while_no_database_answers(
    spool: ToldSpool, clock: Clock, readiness: Readiness
) -> None:
    async with asking(make_shortener(NoDatabase(StoreUnavailable()), spool, clock, readiness)) as client:
        answer = await client.get("/cat", headers={"Accept": "text/html"})
    assert (answer.status_code, answer.headers["content-type"]) == (503, "text/html; charset=utf-8")
    assert answer.headers["retry-after"] == "1"
    assert "<h1>" in answer.text


@pytest.mark.parametrize(
    ("error", "code"),
    [(StoreUnavailable("The database does not answer."), "STORE_UNAVAILABLE"), (OutcomeUnknown(), "OUTCOME_UNKNOWN")],
)
async def test_without_a_database_every_route_is_a_503_that_says_when_to_come_again(
    spool: ToldSpool, clock: Clock, readiness: Readiness, error: Exception, code: str
) -> None:
    async with asking(make_shortener(NoDatabase(error), spool, clock, readiness)) as client:
        answers = [
            await client.post("/api/v1/urls", json={"url": "https://example.com/"}),
            await client.post("/api/v1/urls/bulk", json={"items": [{"url": "https://example.com/"}]}),
            await client.get("/api/v1/urls"),
            await client.get("/api/v1/urls/cat"),
            await client.put("/api/v1/urls/cat", json={"url": "https://example.com/"}),
            await client.patch("/api/v1/urls/cat", json={"enabled": True}),
            await client.delete("/api/v1/urls/cat"),
            await client.get("/cat"),
        ]
    assert [problem(answer)[:2] for answer in answers] == [(503, code)] * 8
    assert {answer.headers["retry-after"] for answer in answers} == {"1"}


async def test_a_defect_is_a_500_without_details_and_is_logged_once(
    spool: ToldSpool, clock: Clock, readiness: Readiness, caplog: pytest.LogCaptureFixture
) -> None:
    async with asking(make_shortener(NoDatabase(RuntimeError("hunter2")), spool, clock, readiness)) as client:
        answers = [await client.get("/api/v1/urls/cat"), await client.get("/cat")]
        page = await client.get("/cat", headers={"accept": "text/html"})
    for answer in answers:
        assert problem(answer)[:2] == (500, "INTERNAL")
    assert (page.status_code, page.headers["content-type"]) == (500, "text/html; charset=utf-8")
    for answer in [*answers, page]:
        assert "hunter2" not in answer.text and "Traceback" not in answer.text
    assert [record.message for record in caplog.records] == ["unexpected_error"] * 3


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/health", "/ready", "/robots.txt"])
async def test_a_page_is_not_taken_for_a_code(shortener: httpx.AsyncClient, path: str) -> None:
    assert (await shortener.get(path)).status_code != 404
    assert (await shortener.head(path)).status_code != 404
