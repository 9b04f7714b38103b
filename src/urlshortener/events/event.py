"""That a link was followed: the one message that crosses from one service to the other, and how it is written down."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, TypeAlias

import msgspec


class EventId(msgspec.Struct, frozen=True, gc=False):
    """The identity of an event: the same on every redelivery, so that twice delivered is once counted.

    An epoch is one life of one writing process (never continued by the next, so no number is ever used
    twice); the sequence counts its events from 0.
    """

    epoch: str
    seq: int


class AccessEvent(msgspec.Struct, frozen=True, gc=False):
    """Someone followed a link: all that one service ever tells the other.

    `id` is the EventId, or the event_id of a foreign publisher that numbers nothing (then it is remembered
    for a day). The address is cut and the visitor hashed before an event is made. `request_id` is the edge's own id of
    the visitor's request: a proxy that asks a second shortener because the first one died asks with the same.
    """

    id: EventId | str
    code: str
    at: datetime  # UTC
    user_agent: str | None = None
    ip_address: str | None = None
    referer: str | None = None
    visitor: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an epoch had come when something of it was delivered: what was numbered below this has come, or will."""

    epoch: str
    host: str  # the shortener whose epoch it is, by the name of its machine
    highest_seq: int  # -1: it has no events
    is_last: bool  # nothing follows


class NotAnEvent(ValueError):
    """A body from the channel that is not an access event, or an array of them. The message is the reason, without
    any of the body's content."""


LONGEST_USER_AGENT = 512  # characters: of what a browser says about itself no more is kept than anybody will read
LONGEST_REFERER = 1024
_LARGEST_BODY_BYTES = 2 * 1024 * 1024  # ours are of 256 KiB at the most; those of versions before, of 0.9 MiB
_FIRST_YEAR, _LAST_YEAR = 1970, 2099  # what every store can keep; beyond, a clock is broken

# Printable, and no comma: two headers joined into one are no id.
REQUEST_ID = re.compile(r"[\x21-\x2b\x2d-\x7e]{1,64}")

_Printable = Annotated[str, msgspec.Meta(pattern=r"\A[\x20-\x7e]{1,64}\Z")]
_Word = Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9_-]{1,64}\Z")]
_Number = Annotated[int, msgspec.Meta(ge=0, lt=2**48)]  # as many as every store can tell apart
_Time = Annotated[datetime, msgspec.Meta(tz=True)]


class _Written(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """An event as it stands on the wire; the rules are enforced when it is read."""

    event_id: _Printable | None = None
    code: _Word
    accessed_at: _Time
    user_agent: str | None = None
    ip_address: str | None = None
    referer: str | None = None
    visitor: str | None = None
    epoch: _Word | None = None
    seq: _Number | None = None
    # Ours and not the contract's: from anybody else they are unknown fields, and hold anything.
    request_id: Any = msgspec.UNSET  # left out where there is none
    traceparent: Any = msgspec.UNSET  # read by events/traces.py alone


_json = msgspec.json.Encoder()


def encode(  # noqa: PLR0917 (called for every redirect: names would cost as much as the work)
    epoch: str,
    seq: int,
    event_id: str,
    code: str,
    at: datetime,
    user_agent: str | None,
    ip_address: str | None,
    referer: str | None,
    visitor: str | None,
    request_id: str | None = None,
    traceparent: str | None = None,
) -> bytes:
    """One compact JSON object, as the contract has it; headers may hold anything and are cut to their length.

    `traceparent` (W3C) is that of a redirect that is traced: few are.
    """
    written = _Written(
        event_id=event_id,
        code=code,
        accessed_at=at,
        user_agent=user_agent and user_agent[:LONGEST_USER_AGENT],
        ip_address=ip_address,
        referer=referer and referer[:LONGEST_REFERER],
        visitor=visitor,
        epoch=epoch,
        seq=seq,
        request_id=request_id or msgspec.UNSET,
        traceparent=traceparent or msgspec.UNSET,
    )
    try:
        return _json.encode(written)
    except UnicodeEncodeError:  # a lone surrogate, from header bytes that were no text
        readable = {"user_agent": _readable(written.user_agent), "referer": _readable(written.referer)}
        return _json.encode(msgspec.structs.replace(written, **readable))


def _readable(header: str | None) -> str | None:
    return header and header.encode("utf-8", "replace").decode()


# An access in pieces that are written already, for whoever has no time for objects: code, user agent, IP address and
# referer (as JSON: "…" or null), visitor, and what follows the number, if anything (,"request_id":"…").
Plain: TypeAlias = tuple[bytes, bytes, bytes, bytes, bytes, bytes]

# What all of a turn share is put in first, what each has for itself (two percent signs) later.
_PLAIN = (
    b'{"event_id":"%b%%08x","code":"%%b","accessed_at":%b,"user_agent":%%b,"ip_address":%%b,"referer":%%b,'
    b'"visitor":"%%b","epoch":"%b","seq":%%d%%b}'
)


def encode_plain(epoch: str, seq: int, event_ids: str, at: datetime, accesses: Sequence[Plain]) -> list[bytes]:
    """The very bytes that `encode` gives for these accesses, numbered from `seq` on, all of the same time.

    An event's id is `event_ids` and the number's last 32 bits. tests/events/test_event.py compares both ways.
    """
    plain = _PLAIN % (event_ids.encode(), _json.encode(at), epoch.encode())
    return [
        plain % (n & 0xFFFFFFFF, code, user_agent, ip_address, referer, visitor, n, more)
        for n, (code, user_agent, ip_address, referer, visitor, more) in enumerate(accesses, seq)
    ]


_one = msgspec.json.Decoder(_Written)
_several = msgspec.json.Decoder(list[_Written])


def decode(body: bytes) -> list[AccessEvent]:
    """The events of a message: one object, or an array of them. Unknown fields are ignored, long headers are cut.

    Raises NotAnEvent for everything else, also if only one of an array is no event. A time in the near future is let
    through: whose clock is right is not for the reader of one message to say. What comes out, every store can keep.
    """
    if len(body) > _LARGEST_BODY_BYTES:
        raise NotAnEvent(f"more than {_LARGEST_BODY_BYTES} bytes")
    try:
        written = _several.decode(body) if body[:64].lstrip()[:1] == b"[" else [_one.decode(body)]
        return [_event(one) for one in written]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise NotAnEvent(_reason(error)) from None


def _reason(error: Exception) -> str:
    """msgspec's messages name the field and what is wrong with it; the content itself is not in them."""
    return str(error)[:200] if isinstance(error, msgspec.DecodeError) else "not readable as JSON"


def _event(written: _Written) -> AccessEvent:
    user_agent, referer = written.user_agent, written.referer
    at = written.accessed_at.astimezone(UTC)
    if not _FIRST_YEAR <= at.year <= _LAST_YEAR:
        raise NotAnEvent(f"accessed_at is not between {_FIRST_YEAR} and {_LAST_YEAR}")
    return AccessEvent(
        _identity(written),
        written.code,
        at,
        user_agent and user_agent[:LONGEST_USER_AGENT],
        written.ip_address,
        referer and referer[:LONGEST_REFERER],
        written.visitor,
        None if written.seq is None else _request_id(written.request_id),  # a stranger's is an unknown field
    )


def _request_id(value: object) -> str | None:
    return value if isinstance(value, str) and REQUEST_ID.fullmatch(value) else None


def _identity(written: _Written) -> EventId | str:
    if written.epoch is not None and written.seq is not None:
        return EventId(written.epoch, written.seq)
    if written.epoch is not None or written.seq is not None:
        raise NotAnEvent("epoch and seq come together, or not at all")
    if written.event_id is None:
        raise NotAnEvent("neither epoch and seq nor an event_id")
    return written.event_id
