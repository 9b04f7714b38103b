"""A thousand links in one request: to each the answer that it would have got alone."""

from datetime import timedelta
from typing import Any

import httpx
import pytest

from tests.services.conftest import Clock, ToldSpool, asking, make_shortener
from tests.services.test_shortener import problem
from urlshortener.links.directory import Directory
from urlshortener.services.creates import MOST_BULK_BYTES, MOST_BULK_LINKS
from urlshortener.services.http import Readiness

URL = "https://example.com/"


async def made(client: httpx.AsyncClient, *items: Any) -> list[dict[str, Any]]:
    answer = await client.post("/api/v1/urls/bulk", json={"items": items})
    assert answer.status_code == 200, answer.text
    outcomes: list[dict[str, Any]] = answer.json()["items"]
    assert len(outcomes) == len(items)
    return outcomes


def shape(outcome: dict[str, Any]) -> tuple[int, str, str | None]:
    """Status, and the link's code; or the problem's code and field."""
    if outcome["status"] == 201:
        assert set(outcome) == {"status", "link"}
        return 201, outcome["link"]["code"], None
    assert set(outcome) == {"status", "problem"} and outcome["problem"]["status"] == outcome["status"]
    return outcome["status"], outcome["problem"]["code"], outcome["problem"].get("field")


async def test_each_gets_its_own_answer_in_their_order(shortener: httpx.AsyncClient) -> None:
    outcomes = await made(
        shortener,
        {"url": URL, "code": "cat"},
        {"url": "ftp://example.com/"},
        {"url": URL, "code": "cat"},
        {"url": 5},
        "no object",
        {"url": URL, "code": "api"},
        {"url": URL, "expires_at": "2000-01-01T00:00:00Z"},
        {"url": URL, "idempotency_key": "\t"},
        {"url": URL, "code": "dog"},
    )
    assert [shape(outcome) for outcome in outcomes] == [
        (201, "cat", None),
        (422, "INVALID_URL", "url"),
        (409, "CODE_TAKEN", "code"),
        (422, "INVALID_BODY", "url"),
        (422, "INVALID_BODY", None),
        (422, "INVALID_CODE", "code"),
        (422, "INVALID_PARAMETER", "expires_at"),
        (422, "INVALID_PARAMETER", "idempotency_key"),
        (201, "dog", None),
    ]
    assert (await shortener.get("/dog")).status_code == 307


async def test_a_link_of_many_is_as_one_that_was_made_alone(shortener: httpx.AsyncClient) -> None:
    item = {"url": URL, "expires_at": "2030-01-01T00:00:00+05:45"}
    [of_many] = await made(shortener, item)
    alone = (await shortener.post("/api/v1/urls", json=item)).json()
    theirs = {"id", "code", "short_url"}
    assert {name: value for name, value in of_many["link"].items() if name not in theirs} == {
        name: value for name, value in alone.items() if name not in theirs
    }


async def test_a_problem_of_many_is_as_one_that_was_answered_alone(shortener: httpx.AsyncClient) -> None:
    for item in ({"url": "ftp://example.com/"}, {}, {"url": URL, "code": "a"}):
        [of_many] = await made(shortener, item)
        alone = await shortener.post("/api/v1/urls", json=item)
        assert (of_many["status"], of_many["problem"]) == (alone.status_code, alone.json())


async def test_a_repeated_list_gives_the_same_links(shortener: httpx.AsyncClient) -> None:
    items = [{"url": f"{URL}{number}", "idempotency_key": f"k{number}"} for number in range(20)]
    assert await made(shortener, *items) == await made(shortener, *items)
    listed = (await shortener.get("/api/v1/urls", params={"limit": 100})).json()["items"]
    assert len(listed) == len(items)


async def test_keys_are_shared_with_single_creates(shortener: httpx.AsyncClient) -> None:
    alone = await shortener.post("/api/v1/urls", json={"url": URL}, headers={"Idempotency-Key": "k"})
    same, other = await made(
        shortener, {"url": URL, "idempotency_key": "k"}, {"url": f"{URL}2", "idempotency_key": "k"}
    )
    assert same == {"status": 201, "link": alone.json()}
    assert shape(other) == (422, "KEY_REUSED", "idempotency_key")


async def test_a_key_gives_its_link_again_after_the_end_of_it_and_makes_none_then(
    shortener: httpx.AsyncClient, clock: Clock
) -> None:
    item = {"url": URL, "expires_at": (clock.at + timedelta(hours=1)).isoformat(), "idempotency_key": "k"}
    [first] = await made(shortener, item)
    clock.advance(days=1)
    assert await made(shortener, item) == [first]
    alone = {name: value for name, value in item.items() if name != "idempotency_key"}
    again = await shortener.post("/api/v1/urls", json=alone, headers={"Idempotency-Key": "k"})
    assert (again.status_code, again.json()) == (201, first["link"])
    [other] = await made(shortener, item | {"idempotency_key": "another"})
    assert shape(other) == (422, "INVALID_PARAMETER", "expires_at")


async def test_the_key_of_a_deleted_link_is_gone(shortener: httpx.AsyncClient) -> None:
    item = {"url": URL, "code": "cat", "idempotency_key": "k"}
    await made(shortener, item)
    await shortener.delete("/api/v1/urls/cat")
    assert [shape(outcome) for outcome in await made(shortener, item)] == [(410, "GONE", "idempotency_key")]


@pytest.mark.parametrize("count", [0, MOST_BULK_LINKS + 1])
async def test_a_list_has_1_to_1000_links(shortener: httpx.AsyncClient, count: int) -> None:
    answer = await shortener.post("/api/v1/urls/bulk", json={"items": [{"url": URL}] * count})
    assert problem(answer) == (422, "INVALID_BODY", "items")
    assert (await shortener.get("/api/v1/urls")).json()["items"] == []


async def test_a_thousand_of_the_longest_addresses_are_taken(shortener: httpx.AsyncClient) -> None:
    items = [{"url": f"{URL}{number:04}{'a' * (2044 - len(URL))}"} for number in range(MOST_BULK_LINKS)]
    outcomes = await made(shortener, *items)
    assert {outcome["status"] for outcome in outcomes} == {201}
    assert [outcome["link"]["original_url"] for outcome in outcomes] == [item["url"] for item in items]


async def test_what_is_no_list_is_refused_as_a_whole(shortener: httpx.AsyncClient) -> None:
    async def refused(content: bytes, media_type: str = "application/json") -> tuple[int, str, str | None]:
        headers = {"Content-Type": media_type}
        return problem(await shortener.post("/api/v1/urls/bulk", content=content, headers=headers))

    assert await refused(b'{"items":[') == (400, "INVALID_BODY", None)
    assert await refused(b"[]") == (422, "INVALID_BODY", None)
    assert await refused(b"{}", "text/plain") == (415, "UNSUPPORTED_MEDIA_TYPE", "Content-Type")
    assert await refused(b" " * (MOST_BULK_BYTES + 1)) == (413, "BODY_TOO_LARGE", None)


async def test_only_the_holder_of_the_token_makes_links(
    directory: Directory, spool: ToldSpool, clock: Clock, readiness: Readiness
) -> None:
    token = "a-token-of-the-tests"
    async with asking(make_shortener(directory, spool, clock, readiness, admin_token=token)) as client:
        for path, body in (("/api/v1/urls", {"url": URL}), ("/api/v1/urls/bulk", {"items": [{"url": URL}]})):
            assert problem(await client.post(path, json=body))[:2] == (401, "UNAUTHORIZED")
            wrong = {"Authorization": f"Bearer {token}x", "X-Api-Key": token[:-1]}
            assert problem(await client.post(path, json=body, headers=wrong))[:2] == (401, "UNAUTHORIZED")
            for right in ({"Authorization": f"bearer {token}"}, {"X-Api-Key": token}):
                assert (await client.post(path, json=body, headers=right)).status_code in (200, 201)


async def test_a_code_may_be_the_word_bulk(shortener: httpx.AsyncClient) -> None:
    await made(shortener, {"url": URL, "code": "bulk"})
    assert (await shortener.get("/api/v1/urls/bulk")).json()["code"] == "bulk"
    answer = await shortener.request("TRACE", "/api/v1/urls/bulk")
    assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE, GET, PATCH, POST, PUT")
