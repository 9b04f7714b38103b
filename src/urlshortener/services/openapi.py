"""What the doors say of themselves: an OpenAPI document, and a page to read it by, without a script or a network.

Routes, parameters and security come from FastAPI; bodies and answers from the very values that are sent and parsed.
"""

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from urlshortener import __version__
from urlshortener.services import pages
from urlshortener.services.http import PROBLEM_TYPE

_REF = "#/components/schemas/"

_PROBLEMS = {
    400: ("The body is not JSON, or the Host header names no host.", "INVALID_BODY", "The body is not JSON."),
    401: ("The token is missing or wrong.", "UNAUTHORIZED", "This needs the token."),
    404: ("There is no such thing.", "NOT_FOUND", "No link has this code."),
    409: ("The code is taken.", "CODE_TAKEN", "The code cat is taken."),
    410: ("The link is over: expired, disabled or deleted.", "GONE", "This link is over."),
    413: ("The body is larger than 16 KiB (a list: 4 MiB).", "BODY_TOO_LARGE", "The body is larger than 16 KiB."),
    415: ("The body is not application/json.", "UNSUPPORTED_MEDIA_TYPE", "The body has to be application/json."),
    422: ("A field or parameter is not acceptable.", "INVALID_PARAMETER", "limit: at most 100 is wanted."),
    500: ("A defect of the service; it was logged.", "INTERNAL", "Something went wrong here. It was logged."),
    503: ("Another system does not answer: try again.", "STORE_UNAVAILABLE", "Links cannot be reached right now."),
}


class Problem(msgspec.Struct, omit_defaults=True):
    """An error, after RFC 9457. `code` is a stable word to rely on; `detail` is for people."""

    type: Annotated[str, msgspec.Meta(description="about:blank: the title is that of the status.")]
    title: str
    status: int
    detail: str
    code: Annotated[str, msgspec.Meta(description="A stable word in capitals.", examples=["NOT_FOUND"])]
    field: Annotated[str, msgspec.Meta(description="The part of the request that is meant, where one is.")] | None = (
        None
    )


class Health(msgspec.Struct):
    """The process lives."""

    status: Annotated[str, msgspec.Meta(examples=["ok"])]
    service_name: str


class Readiness(msgspec.Struct):
    """Whether the service wants visitors, and how its dependencies are. The words inform; they decide nothing."""

    status: Annotated[str, msgspec.Meta(examples=["ready", "not ready"])]
    service_name: str
    dependencies: Annotated[dict[str, str], msgspec.Meta(description="One word for each dependency.")]


def answers(status: int, words: str, kind: type | None, example: object, *problems: int) -> dict[int | str, Any]:
    """The `responses` of a route: its success, and each problem that it may answer with."""
    success: dict[str, Any] = {"description": words}
    if kind is not None:
        success["content"] = {"application/json": {"schema": ref(kind), "example": example}}
    return {status: success, **{problem: _problem(problem) for problem in (*problems, 500)}}


def body(kind: type, examples: Mapping[str, object]) -> dict[str, Any]:
    """The `openapi_extra` of a route that takes such a JSON body."""
    content = {"schema": ref(kind), "examples": {name: {"value": value} for name, value in examples.items()}}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def ref(kind: type) -> dict[str, str]:
    """How a schema of the document is named from within it."""
    return {"$ref": _REF + kind.__name__}


def _problem(status: int) -> dict[str, Any]:
    words, code, detail = _PROBLEMS[status]
    example = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
    }
    described: dict[str, Any] = {
        "description": words,
        "content": {PROBLEM_TYPE: {"schema": ref(Problem), "example": example}},
    }
    if status == 503:
        described["headers"] = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "string"}}}
    return described


def document(
    app: FastAPI, title: str, description: str, kinds: Sequence[type], more_paths: Mapping[str, Any]
) -> dict[str, Any]:
    """The OpenAPI document of all routes that the application has by now."""
    made = get_openapi(title=title, version=__version__, description=description, routes=app.routes)
    made["info"]["license"] = {"name": "Apache-2.0", "identifier": "Apache-2.0"}
    _, schemas = msgspec.json.schema_components([*kinds, Problem, Health, Readiness], ref_template=_REF + "{name}")
    made.setdefault("components", {})["schemas"] = schemas
    ours = {path: operations | made["paths"].get(path, {}) for path, operations in more_paths.items()}
    made["paths"] = ours | {path: operations for path, operations in made["paths"].items() if path not in ours}
    for operations in made["paths"].values():
        for operation in operations.values():
            _forget_frameworks_own(operation)
    return made


def _forget_frameworks_own(operation: dict[str, Any]) -> None:
    """A 422 that only the framework thinks of."""
    refused = operation["responses"].get("422", {})
    if PROBLEM_TYPE not in refused.get("content", {}):
        operation["responses"].pop("422", None)


def reading_page(made: Mapping[str, Any]) -> str:
    """The document for people."""
    return pages.reading_page(made["info"], _shown_routes(made), _shown_schemas(made))


def _shown_routes(made: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "method": method.upper(),
            "path": path,
            "anchor": operation["operationId"],
            "summary": operation["summary"],
            "description": operation.get("description", ""),
            "needs_token": bool(operation.get("security")),
            "parameters": [_shown_parameter(parameter) for parameter in operation.get("parameters", [])],
            "body": _shown_body(operation.get("requestBody")),
            "answers": [_shown_answer(status, answer) for status, answer in operation["responses"].items()],
        }
        for path, operations in made["paths"].items()
        for method, operation in operations.items()
    ]


def _shown_parameter(parameter: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": parameter["name"],
        "place": parameter["in"],
        "required": parameter.get("required", False),
        "words": parameter.get("description", ""),
    }


def _shown_body(described: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if described is None:
        return None
    content = described["content"]["application/json"]
    examples = [_pretty(example["value"]) for example in content["examples"].values()]
    return {"schema": _name(content), "examples": examples}


def _shown_answer(status: str, answer: Mapping[str, Any]) -> dict[str, Any]:
    content: Mapping[str, Any] = next(iter(answer.get("content", {}).values()), {})
    example = content.get("example")
    return {
        "status": status,
        "words": answer["description"],
        "schema": _name(content),
        "example": _pretty(example) if example is not None and status.startswith("2") else "",
    }


def _shown_schemas(made: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: {
            "description": schema.get("description", ""),
            "fields": [
                {
                    "name": field,
                    "kind": _kind(described),
                    "required": field in schema.get("required", []),
                    "words": _described(described),
                }
                for field, described in schema["properties"].items()
            ],
        }
        for name, schema in made["components"]["schemas"].items()
    }


def _kind(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_kind(part) for part in schema["anyOf"])
    if "$ref" in schema:
        return str(schema["$ref"]).removeprefix(_REF)
    if schema.get("type") == "array":
        return f"list of {_kind(schema['items'])}"
    return str(schema.get("format") or schema.get("type", "anything"))


def _described(schema: Mapping[str, Any]) -> str:
    parts = [schema, *schema.get("anyOf", [])]
    return next((str(part["description"]) for part in parts if "description" in part), "")


def _name(content: Mapping[str, Any]) -> str:
    return str(content.get("schema", {}).get("$ref", "")).removeprefix(_REF)


def _pretty(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
