"""A link is made, followed and counted: seen from outside only."""

import asyncio
import collections
import random
import time

import httpx

from tests.journeys.load import visit
from tests.journeys.systems import System

_JSON = {"Content-Type": "application/json"}


def made(system: System, url: str = "https://example.com/", **more: str) -> str:
    answer = httpx.post(f"{system.shortener}/api/v1/urls", json={"url": url, **more}, timeout=10)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["code"])


def counted(system: System, code: str) -> int:
    answer = httpx.get(f"{system.analytics}/api/v1/analytics/{code}", timeout=10)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["access_count"])


async def until_counted(system: System, expected: dict[str, int], within_seconds: float) -> dict[str, int]:
    """The counts of these codes as soon as they are as expected; as they are when the time is over."""
    end = time.monotonic() + within_seconds
    counts: dict[str, int] = {}
    async with httpx.AsyncClient(base_url=system.analytics, timeout=10) as client:
        while True:
            for code, wanted in expected.items():
                counts[code] = (await client.get(f"/api/v1/analytics/{code}")).json().get("access_count", -1)
                if counts[code] < wanted and time.monotonic() < end:
                    break
            else:
                return counts
            await asyncio.sleep(0.05)


async def test_a_link_is_made_followed_and_counted(system: System) -> None:
    code = made(system, "https://example.com/a?b=c#d")
    followed = httpx.get(f"{system.shortener}/{code}")
    assert (followed.status_code, followed.headers["location"]) == (307, "https://example.com/a?b=c#d")
    assert followed.content == b""
    assert "server" not in followed.headers
    assert await until_counted(system, {code: 1}, 10) == {code: 1}


def test_a_link_that_nobody_followed_has_zero(system: System) -> None:
    shown = httpx.get(f"{system.analytics}/api/v1/analytics/{made(system)}").json()
    assert (shown["access_count"], shown["last_accessed_at"], shown["visitors"]) == (0, None, 0)


def test_an_unknown_code_is_not_found_at_both_doors(system: System) -> None:
    assert httpx.get(f"{system.shortener}/nobody12").status_code == 404
    assert httpx.get(f"{system.analytics}/api/v1/analytics/nobody12").status_code == 404


def test_a_head_is_redirected_and_not_counted(system: System) -> None:
    code = made(system)
    assert httpx.head(f"{system.shortener}/{code}").status_code == 307
    assert counted(system, code) == 0


async def test_a_deleted_link_is_gone_and_keeps_its_count(system: System) -> None:
    code = made(system)
    assert httpx.get(f"{system.shortener}/{code}").status_code == 307
    assert await until_counted(system, {code: 1}, 10) == {code: 1}
    assert httpx.delete(f"{system.shortener}/api/v1/urls/{code}").status_code == 204
    assert httpx.get(f"{system.shortener}/{code}").status_code == 410
    assert counted(system, code) == 1


def test_a_changed_link_leads_to_its_new_address(system: System) -> None:
    code = made(system)
    assert httpx.get(f"{system.shortener}/{code}").headers["location"] == "https://example.com/"
    changed = httpx.put(f"{system.shortener}/api/v1/urls/{code}", json={"url": "https://example.org/new"})
    assert changed.status_code == 200
    assert httpx.get(f"{system.shortener}/{code}").headers["location"] == "https://example.org/new"


async def test_twenty_thousand_redirects_over_two_hundred_codes_are_counted_exactly(system: System) -> None:
    codes = [made(system, f"https://example.com/{number}") for number in range(200)]
    asked = [codes[random.randrange(200)] for _ in range(20_000)]
    began = time.monotonic()
    visits = await visit(system.shortener, asked)
    answered = time.monotonic()
    assert not visits.refused
    expected = dict(collections.Counter(asked))
    assert visits.redirected == expected
    assert await until_counted(system, expected, 60) == expected
    print(f"\n20,000 redirects in {answered - began:.1f} s; all counted {time.monotonic() - answered:.1f} s later")
