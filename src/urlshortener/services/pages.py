"""Plain pages for people who meet the service in a browser. They need no script and load nothing."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse, Response

_TEMPLATES = Environment(loader=PackageLoader(__package__), autoescape=True, undefined=StrictUndefined)

# No script, no picture, no frame, nothing from elsewhere; style comes with the page itself.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex",
    "Referrer-Policy": "no-referrer",
}

_PROBLEMS = {
    404: (
        "There is no such link",
        "Perhaps a letter was lost or changed on the way: compare it with where you saw it.",
    ),
    410: ("This link is over", "It was here, but it is no longer. Whoever gave it to you may have a newer one."),
    503: ("One moment, please", "The link cannot be looked up right now. Try again in a few seconds."),
}
_ANY_PROBLEM = ("This did not work", "The request cannot be answered.")

_PAGES = frozenset(("text/html", "application/xhtml+xml"))
_DATA = frozenset(("application/json", "application/problem+json", "application/*", "*/*"))


def page(html: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return HTMLResponse(html, status, {**_HEADERS, **(headers or {})})


def problem_page(status: int) -> str:
    title, words = _PROBLEMS.get(status, _ANY_PROBLEM)
    return _render("problem.html", title=title, words=words, status=status)


def front_page(title: str, words: str) -> str:
    return _render("front.html", title=title, words=words)


def reading_page(info: Mapping[str, Any], routes: Sequence[Mapping[str, Any]], schemas: Mapping[str, Any]) -> str:
    """The OpenAPI document for people; services/openapi.py prepares what is shown."""
    return _render("docs.html", title=info["title"], info=info, routes=routes, schemas=schemas)


def wants_page(accept: Iterable[str]) -> bool:
    """Whether an Accept header asks for a page rather than for data: by weight, then by order."""
    best = (0.0, False)
    for part in ",".join(accept).lower().split(","):
        kind, _, parameters = part.strip().partition(";")
        weight = _weight(parameters)
        kind = kind.strip()
        if weight > best[0] and (kind in _PAGES or kind in _DATA):
            best = (weight, kind in _PAGES)
    return best[1]


def _weight(parameters: str) -> float:
    for parameter in parameters.split(";"):
        name, _, value = parameter.strip().partition("=")
        if name == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def _render(template: str, **words: Any) -> str:
    return _TEMPLATES.get_template(template).render(words)
