"""Everything that can go wrong, as a tree.

    UrlShortenerError
    ├── WrongSetting              the start is stopped, in words that name the setting
    ├── Refused                   the caller asked for what cannot be: never try again as it is
    │   ├── InvalidBody               not JSON, or not the fields that were asked for
    │   ├── InvalidUrl                a target that no link may have
    │   ├── InvalidCode               a code that no link may have
    │   ├── InvalidParameter          a query parameter, header or time out of bounds
    │   │   └── NotToCome                 a link that would be over before it is made
    │   ├── CodeTaken                 somebody was first
    │   ├── KeyReused                 an Idempotency-Key that came with another body before
    │   ├── NotFound                  there never was such a thing
    │   └── Gone                      there was, and it is over
    └── Unavailable               another system did not answer: may be tried again
        ├── StoreUnavailable          a database or Redis; nothing was done
        ├── ChannelUnavailable        the event channel; nothing was lost, the spool keeps it
        └── OutcomeUnknown            it may have been done: try again with the same identity

`services/http.py` turns each into a response; `code` is the stable word a client may rely on.
No message here may carry a driver's words, a query or a secret: it is shown to strangers.
"""


class UrlShortenerError(Exception):
    """Any error that this package raises on purpose."""

    code = "INTERNAL"

    @property
    def detail(self) -> str:
        """One sentence for the person who asked."""
        return str(self)


class WrongSetting(UrlShortenerError):
    """A setting that cannot work. The message names it and says what would be right."""

    code = "WRONG_SETTING"


class Refused(UrlShortenerError):
    """The request cannot be done as it stands, now or later."""

    code = "REFUSED"

    def __init__(self, detail: str, field: str | None = None) -> None:
        super().__init__(detail)
        self.field = field  # which part of the request is meant, where one is


class InvalidBody(Refused):
    code = "INVALID_BODY"


class InvalidUrl(Refused):
    code = "INVALID_URL"

    def __init__(self, detail: str, field: str | None = "url") -> None:
        super().__init__(detail, field)


class InvalidCode(Refused):
    code = "INVALID_CODE"

    def __init__(self, detail: str, field: str | None = "code") -> None:
        super().__init__(detail, field)


class InvalidParameter(Refused):
    code = "INVALID_PARAMETER"


class NotToCome(InvalidParameter):
    """A link would be over before it is made."""

    def __init__(self) -> None:
        super().__init__("expires_at: it has to lie in the future.", "expires_at")


class CodeTaken(Refused):
    code = "CODE_TAKEN"

    def __init__(self, taken: str) -> None:
        super().__init__(f"The code {taken} is taken.", "code")


class KeyReused(Refused):
    code = "KEY_REUSED"

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key was used with another body before.", "Idempotency-Key")


class NotFound(Refused):
    code = "NOT_FOUND"


class Gone(Refused):
    code = "GONE"


class Unavailable(UrlShortenerError):
    """Another system did not answer in time. Trying again later may help."""

    code = "UNAVAILABLE"
    retry_after_seconds = 1


class StoreUnavailable(Unavailable):
    code = "STORE_UNAVAILABLE"


class ChannelUnavailable(Unavailable):
    code = "CHANNEL_UNAVAILABLE"


class OutcomeUnknown(Unavailable):
    code = "OUTCOME_UNKNOWN"
