"""Who came, as far as we want to know it: visitors can be told apart for a day, and nobody can be found by it later."""

import ipaddress
from datetime import date, datetime
from functools import lru_cache
from hashlib import blake2b

_REMEMBERED_ADDRESSES = 8192
_KEY_BYTES = 32
_VISITOR_BYTES = 12  # 96 bits: no two visitors of a day share one by chance


class Visitors:
    """Cuts addresses and hashes visitors; all replicas with the same secret give the same answers.

    The key of a day is derived from the secret and the UTC day, so that a visitor of today cannot be recognised
    tomorrow. Who has the secret can try addresses: change it, and the past is closed to them too.
    """

    def __init__(self, secret: str, keep_full_address: bool) -> None:
        self._secret = blake2b(secret.encode(), digest_size=_KEY_BYTES, person=b"visitor-secret").digest()
        self._day = date.min
        self._of_the_day = blake2b()
        shown = _whole if keep_full_address else _cut
        self.address = lru_cache(_REMEMBERED_ADDRESSES)(shown)
        """What an event may say of an address: `/24` of IPv4, `/48` of IPv6; None for what is no address."""

    def visitor(self, full: str | None, user_agent: str | None, at: datetime) -> str:
        """The visitor of that UTC day, as 24 hexadecimal digits. `at` is in UTC."""
        keyed = self.keyed(at).copy()
        keyed.update(f"{full or ''}\0{user_agent or ''}".encode("utf-8", "surrogatepass"))
        return keyed.hexdigest()

    def keyed(self, at: datetime) -> blake2b:
        """The hash with that day's key in it: to be copied, and fed with address, a zero byte and user agent."""
        day = at.date()
        if day != self._day:
            key = blake2b(day.isoformat().encode(), key=self._secret, digest_size=_KEY_BYTES).digest()
            self._of_the_day = blake2b(key=key, digest_size=_VISITOR_BYTES)
            self._day = day
        return self._of_the_day


def _parsed(full: str | None) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address((full or "").partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _whole(full: str | None) -> str | None:
    address = _parsed(full)
    return None if address is None else str(address)


def _cut(full: str | None) -> str | None:
    address = _parsed(full)
    if address is None:
        return None
    kept = 24 if address.version == 4 else 48
    dropped = address.max_prefixlen - kept
    return str(type(address)(int(address) >> dropped << dropped))
