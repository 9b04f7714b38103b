"""Targets: the addresses that links stand for, read and written as a browser would."""

import re

import ada_url

from urlshortener.errors import InvalidUrl

LONGEST_TARGET_BYTES = 2048

_PLAIN = re.compile(rf"[!-\[\]-~]{{1,{LONGEST_TARGET_BYTES}}}")  # no blank, control character or backslash
_BLANK = re.compile(r"\s")  # as str.isspace has it
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SAFE_LOCATION = re.compile(r"https?://[\x21-\x7e]+")
_SCHEMES = ("http://", "https://")
_IPV4 = re.compile(r"(?:[0-9]+\.){3}[0-9]+")
_LONGEST_HOST = 253
_LONGEST_LABEL = 63


def normalised(text: str) -> str:
    """The address as a browser would go to it, in printable ASCII; InvalidUrl says what is wrong with it.

    The parser is the browsers' own (WHATWG). It forgives what must not be forgiven here: it strips tabs and line
    ends, and takes a backslash for a slash. So the text is looked at before it is parsed.
    """
    if not _PLAIN.fullmatch(text):
        _check_text(text)
    try:
        href = ada_url.normalize_url(text)
    except ValueError:
        raise InvalidUrl("This is not an address that a browser could go to.") from None
    if not href.startswith(_SCHEMES):
        raise InvalidUrl("Only addresses that begin with http:// or https:// can be shortened.")
    # As the parser writes an address, nothing in it can be taken for something else: what could be, it has escaped.
    authority = href.split("/", 3)[2]
    if "@" in authority:
        raise InvalidUrl("An address with a user name or password in it cannot be shortened.")
    if not authority.startswith("["):
        host = authority.partition(":")[0]
        if not _IPV4.fullmatch(host):
            _check_name(host)
    if len(href) > LONGEST_TARGET_BYTES:
        raise InvalidUrl(f"Written as browsers send it, the address is longer than {LONGEST_TARGET_BYTES:,} bytes.")
    if not is_safe_location(href):
        raise InvalidUrl("This is not an address that a browser could go to.")
    return href


def is_safe_location(text: str) -> bool:
    """Whether it may stand in a Location header: asked of whatever a database holds, rows older than our rules too."""
    return len(text) <= LONGEST_TARGET_BYTES and _SAFE_LOCATION.fullmatch(text) is not None


def _check_text(text: str) -> None:
    if not text:
        raise InvalidUrl("The address is empty.")
    try:
        size_bytes = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidUrl("The address holds half a character (a lone surrogate).") from None
    if size_bytes > LONGEST_TARGET_BYTES:
        raise InvalidUrl(f"The address is longer than {LONGEST_TARGET_BYTES:,} bytes.")
    if _BLANK.search(text):
        raise InvalidUrl("The address holds a blank or a line end.")
    if _CONTROL.search(text):
        raise InvalidUrl("The address holds a control character.")
    if "\\" in text:
        raise InvalidUrl("The address holds a backslash.")


def _check_name(host: str) -> None:
    """A name that can be found on the internet, or localhost; numbers were taken for addresses by the parser."""
    labels = host.removesuffix(".").split(".")
    if labels == ["localhost"]:
        return
    if len(host) > _LONGEST_HOST or not all(0 < len(label) <= _LONGEST_LABEL for label in labels):
        raise InvalidUrl("The address has no host that could exist.")
    if len(labels) < 2:
        raise InvalidUrl("The host of the address is not a whole name: it has no dot.")
