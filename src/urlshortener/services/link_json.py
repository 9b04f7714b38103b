"""Links as they stand in JSON: what is asked for, and what is shown."""

from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

import msgspec

from urlshortener.errors import InvalidParameter, NotToCome
from urlshortener.links.link import Link


class NewLink(msgspec.Struct):
    """A link that somebody wants."""

    url: Annotated[
        str, msgspec.Meta(description="The http or https address to go to.", examples=["https://example.com/a/page"])
    ]
    code: (
        Annotated[
            str,
            msgspec.Meta(
                description="A code of your choice: 3 to 64 of A-Z a-z 0-9 - _. Without it one is drawn.",
                extra_json_schema={"pattern": "^[A-Za-z0-9_-]{3,64}$"},
            ),
        ]
        | None
    ) = None
    expires_at: (
        Annotated[datetime, msgspec.Meta(tz=True, description="When it stops: a time to come, with its zone.")] | None
    ) = None


class NewAddress(msgspec.Struct):
    """Where a link is to lead from now on."""

    url: Annotated[str, msgspec.Meta(description="The http or https address to go to.")]


class LinkChange(msgspec.Struct):
    """What to change of a link: at least one of these. What is left out stays."""

    url: Annotated[str, msgspec.Meta(description="The http or https address to go to.")] | msgspec.UnsetType = (
        msgspec.UNSET
    )
    expires_at: (
        Annotated[datetime, msgspec.Meta(tz=True, description="When it stops; null: never.")] | msgspec.UnsetType | None
    ) = msgspec.UNSET
    enabled: Annotated[bool, msgspec.Meta(description="Whether it can be followed.")] | msgspec.UnsetType = (
        msgspec.UNSET
    )


class ShownLink(msgspec.Struct, frozen=True):
    """A link, as it is now."""

    id: UUID
    code: str
    short_url: Annotated[str, msgspec.Meta(description="What to give to people.")]
    original_url: Annotated[str, msgspec.Meta(description="The address, as a browser would write it.")]
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None
    enabled: bool


class LinkPage(msgspec.Struct, frozen=True):
    """Some links, newest first."""

    items: list[ShownLink]
    next_cursor: Annotated[str, msgspec.Meta(description="Asks for the next page; null on the last.")] | None


EXAMPLE = {
    "id": "0b8f9c3e-6f0a-4c7e-9f43-0d2f1f6f5a11",
    "code": "cat",
    "short_url": "https://s.example/cat",
    "original_url": "https://example.com/a/page",
    "created_at": "2030-01-01T10:00:00Z",
    "updated_at": "2030-01-01T10:00:00Z",
    "expires_at": "2031-01-01T00:00:00Z",
    "enabled": True,
}


def in_utc(expires_at: datetime | None) -> datetime | None:
    """InvalidParameter if there is no such time."""
    try:
        return expires_at and expires_at.astimezone(UTC)
    except OverflowError:
        raise InvalidParameter("expires_at: it lies outside the years 1 to 9999.", "expires_at") from None


def to_come(expires_at: datetime | None, now: datetime) -> datetime | None:
    """The time in UTC; NotToCome if it is over."""
    at = in_utc(expires_at)
    if at is not None and at <= now:
        raise NotToCome
    return at


def shown(link: Link, origin: str) -> ShownLink:
    """`origin` is what short links begin with, as `https://s.example`."""
    return ShownLink(
        id=link.id,
        code=link.code,
        short_url=f"{origin}/{link.code}",
        original_url=link.target,
        created_at=link.created_at.astimezone(UTC),
        updated_at=link.updated_at.astimezone(UTC),
        expires_at=link.expires_at and link.expires_at.astimezone(UTC),
        enabled=link.enabled,
    )
