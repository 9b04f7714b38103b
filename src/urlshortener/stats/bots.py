"""Which visitors are programs and say so."""

import re
from functools import lru_cache

from crawleruseragents import CRAWLER_USER_AGENTS_DATA  # type: ignore[import-untyped]

from urlshortener.events.event import LONGEST_USER_AGENT

_REMEMBERED = 16_384  # user agents: some 10 MiB if somebody sends nonsense

_PATTERNS = [str(entry["pattern"]) for entry in CRAWLER_USER_AGENTS_DATA]
_PLAIN = re.compile(r"(?:[^\\\[\](){}+*?|^$.]|\\[^\w])+")  # a pattern that means only its own characters

# Nearly all patterns are plain words. Looking for each is several times faster than one large expression, and what
# remains is too few and too simple for a hostile text to be slow.
_WORDS = (
    "+http",  # no browser names its home page; an honest crawler that is on no list yet does
    *(re.sub(r"\\(.)", r"\1", pattern) for pattern in _PATTERNS if _PLAIN.fullmatch(pattern)),
)
_EXPRESSION = re.compile("|".join(pattern for pattern in _PATTERNS if not _PLAIN.fullmatch(pattern)))


def is_bot(user_agent: str | None) -> bool:
    """Whether this user agent is one of a known crawler, link previewer, monitor or library.

    No user agent is no bot: privacy proxies take it away, and foreign publishers may not send it; only who says so
    is one. Cheap for any text, and known by heart for those that come again.
    """
    return user_agent is not None and _matches(user_agent[:LONGEST_USER_AGENT])


@lru_cache(_REMEMBERED)
def _matches(user_agent: str) -> bool:
    return any(word in user_agent for word in _WORDS) or _EXPRESSION.search(user_agent) is not None
