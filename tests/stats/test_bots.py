from time import process_time

import pytest

from urlshortener.stats.bots import is_bot

BOTS = {
    "Googlebot": "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
    "Googlebot on a phone": (
        "Mozilla/5.0 (Linux; Android 6.0.1; Nexus 5X Build/MMB29P) AppleWebKit/537.36 (KHTML, like Gecko) "
        "Chrome/130.0.6723.69 Mobile Safari/537.36 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"
    ),
    "bingbot": "Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)",
    "GPTBot": "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; GPTBot/1.2; +https://openai.com/gptbot)",
    "Slack": "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)",
    "WhatsApp": "WhatsApp/2.23.20.0 A",
    "Facebook": "facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)",
    "Telegram": "TelegramBot (like TwitterBot)",
    "Discord": "Mozilla/5.0 (compatible; Discordbot/2.0; +https://discordapp.com)",
    "curl": "curl/7.88.1",
    "wget": "Wget/1.21.3",
    "requests": "python-requests/2.32.3",
    "a browser without a head": (
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/130.0.0.0 Safari/537.36"
    ),
    "one on no list": "Mozilla/5.0 (compatible; Nobody-Knows-It/0.1; +https://crawler.example/about)",
}

_WINDOWS = "Mozilla/5.0 (Windows NT 10.0; Win64; x64)"
_CHROME = "AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0"
PEOPLE = {
    "Chrome": f"{_WINDOWS} {_CHROME} Safari/537.36",
    "Chrome on a phone": f"Mozilla/5.0 (Linux; Android 10; K) {_CHROME} Mobile Safari/537.36",
    "Chrome on a Cubot phone": f"Mozilla/5.0 (Linux; Android 8.1.0; CUBOT_P20) {_CHROME} Mobile Safari/537.36",
    "Firefox": "Mozilla/5.0 (X11; Linux x86_64; rv:132.0) Gecko/20100101 Firefox/132.0",
    "Firefox on a phone": "Mozilla/5.0 (Android 14; Mobile; rv:132.0) Gecko/132.0 Firefox/132.0",
    "Safari": (
        "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) "
        "Version/18.0 Safari/605.1.15"
    ),
    "Safari on a phone": (
        "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
        "Version/18.0 Mobile/15E148 Safari/604.1"
    ),
    "Edge": f"{_WINDOWS} {_CHROME} Safari/537.36 Edg/130.0.0.0",
    "Edge on a phone": f"Mozilla/5.0 (Linux; Android 10; K) {_CHROME} Mobile Safari/537.36 EdgA/130.0.0.0",
    "Samsung": f"Mozilla/5.0 (Linux; Android 10; K) {_CHROME.replace('Chrome', 'SamsungBrowser/27.0 Chrome')} Safari",
    "none": None,
    "an empty one": "",
}


@pytest.mark.parametrize("user_agent", BOTS.values(), ids=BOTS)
def test_a_program_that_says_so_is_a_bot(user_agent: str) -> None:
    assert is_bot(user_agent)


@pytest.mark.parametrize("user_agent", PEOPLE.values(), ids=PEOPLE)
def test_a_person_is_none(user_agent: str | None) -> None:
    assert not is_bot(user_agent)


def test_what_stands_behind_512_characters_is_not_looked_at() -> None:
    assert is_bot("x" * (512 - len("Googlebot/")) + "Googlebot/")
    assert not is_bot("x" * 512 + "Googlebot/")


HOSTILE = [
    "a" * 512,
    "Current" * 74,  # the beginnings of the few patterns that look for an end
    "Spider" * 86,
    "ContextualBot" * 40,
    "Googlebo" * 64,
    "Mozilla/5.0 " * 43,
    "http://" * 74,
    "\0" * 512,
    "é" * 512,
    "(" * 512,
]


@pytest.mark.parametrize("user_agent", HOSTILE, ids=lambda text: ascii(text[:8]))
def test_no_text_keeps_it_busy(user_agent: str) -> None:
    fresh = [f"{number:04}{user_agent}"[:512] for number in range(20)]  # no two alike: none is known by heart
    began = process_time()
    for text in fresh:
        is_bot(text)
    assert (process_time() - began) / len(fresh) < 0.005
