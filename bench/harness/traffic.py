"""Who follows which link: the same requests for every server that is asked, as browsers behind a proxy send them."""

import random
from collections.abc import Sequence
from itertools import cycle, islice

CODES = 10_000
VISITORS = 10_000

_MOST_REQUESTS = 200_000  # prepared ones; they are sent round and round
_BROWSERS = (
    "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.6 "
    "Mobile/15E148 Safari/604.1",
)


def code_of(number: int) -> str:
    """The code of the link with this number: no two have the same, and neighbours do not look alike."""
    return f"{number * 2_654_435_761 % 2**32:08x}"


def target_of(number: int) -> str:
    return f"https://example.com/some/page/{code_of(number)}?from=newsletter"


def codes(count: int) -> list[str]:
    return [code_of(number) for number in range(1, count + 1)]


def visits(codes_in_turn: Sequence[str], count: int, seed: int = 1) -> list[tuple[str, str, str]]:
    """Code, address and browser of so many visits: every code as often as every other, in no order."""
    chance = random.Random(seed)
    addresses = [f"198.{18 + number // 65536}.{number // 256 % 256}.{number % 256}" for number in range(VISITORS)]
    few = len(codes_in_turn) <= count
    whom = list(islice(cycle(codes_in_turn), count)) if few else chance.sample(codes_in_turn, count)
    chance.shuffle(whom)
    chance.shuffle(addresses)
    return list(zip(whom, islice(cycle(addresses), count), islice(cycle(_BROWSERS), count), strict=True))


def request(code: str, address: str, browser: str, host: str = "s.example") -> bytes:
    """What a browser sends through a proxy: some 500 bytes."""
    return (
        f"GET /{code} HTTP/1.1\r\n"
        f"Host: {host}\r\n"
        f"User-Agent: {browser}\r\n"
        "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n"
        "Accept-Language: en-US,en;q=0.5\r\n"
        "Accept-Encoding: gzip, deflate, br, zstd\r\n"
        "Referer: https://news.example/today\r\n"
        f"X-Forwarded-For: {address}\r\n"
        "Upgrade-Insecure-Requests: 1\r\n"
        "Sec-Fetch-Dest: document\r\n"
        "Sec-Fetch-Mode: navigate\r\n"
        "Sec-Fetch-Site: cross-site\r\n"
        "Connection: keep-alive\r\n"
        "\r\n"
    ).encode()


def requests(codes_in_turn: Sequence[str]) -> list[bytes]:
    """As many as it takes to ask for every code, and to send every visitor, some times."""
    count = min(_MOST_REQUESTS, max(2 * VISITORS, len(codes_in_turn)))
    return [request(*visit) for visit in visits(codes_in_turn, count)]


def targets(count: int) -> dict[str, str]:
    """Of the links with the first numbers: code and target."""
    return {code_of(number): target_of(number) for number in range(1, count + 1)}
