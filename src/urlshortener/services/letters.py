"""`urlshortener dead-letters`: what could not be read as an event, for a person to look at and to send again."""

import sys
from collections.abc import Callable
from datetime import datetime

from urlshortener.events.dead_letters import DeadLetter
from urlshortener.services import backends
from urlshortener.settings import Settings

_MOST_SHOWN_OF_A_BODY = 300


async def show(settings: Settings, most: int) -> str:
    """The first of them: reason, when, and the beginning of the body."""
    letters = await backends.open_dead_letters(settings).first(most)
    if not letters:
        return "There are no dead letters."
    return "\n".join(_shown(number, letter) for number, letter in enumerate(letters, 1))


async def replay(settings: Settings, most: int, *, all_of_them: bool) -> str:
    """Send them again; say how many went."""
    done = await backends.open_dead_letters(settings).replay(most, all_of_them=all_of_them, progress=_progress())
    words = [f"{done.sent} sent again"]
    if done.left:
        words.append(f"{done.left} left, because they are still no events")
    return ", ".join(words) + "."


def _shown(number: int, letter: DeadLetter) -> str:
    body = letter.body.decode("utf-8", "backslashreplace").encode("unicode_escape").decode()
    cut = body if len(body) <= _MOST_SHOWN_OF_A_BODY else f"{body[:_MOST_SHOWN_OF_A_BODY]}…"
    verdict = "an event now: `replay` sends it" if letter.is_an_event_now else "no event"
    return f"{number}. {_time(letter.at)}  {letter.reason}\n   {len(letter.body)} bytes, {verdict}\n   {cut}"


def _time(at: datetime | None) -> str:
    return at.isoformat(timespec="seconds").replace("+00:00", "Z") if at else "some time ago"


def _progress() -> Callable[[int], None]:
    """A line that counts, for somebody who sits before it."""
    if not sys.stderr.isatty():
        return lambda _: None

    def told(sent: int) -> None:
        sys.stderr.write(f"\r{sent} so far ")
        sys.stderr.flush()

    return told
