"""The OpenAPI documents: whole, and readable where they are wanted. tests/journeys/test_bad_input.py holds the running
services to them."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import uvicorn

from tests.services.conftest import RETENTION, Clock, ToldSpool, followed, make_shortener, open_directory
from urlshortener.links.code import RESERVED
from urlshortener.links.link import Draft
from urlshortener.services.analytics import analytics_app
from urlshortener.services.http import Readiness
from urlshortener.stats.sqlite import SqliteStats


class Doors:
    """Both doors on sockets, in a thread and a loop of their own."""

    def __init__(self, migrated: Path, folder: Path) -> None:
        self._migrated = migrated
        self._folder = folder
        self._is_up = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._servers: list[uvicorn.Server] = []
        self.urls: list[str] = []

    async def serve(self) -> None:
        clock, readiness = Clock(), Readiness({"links": lambda: "ok"})
        readiness.ready()
        stats = SqliteStats(self._folder / "stats.db", retention=RETENTION, clock=clock)
        async with open_directory(self._migrated, self._folder) as directory:
            await stats.record([followed("cat", 1, clock.at)])
            await directory.create(Draft(uuid4(), "cat", "https://example.com/", clock.at, code_was_chosen=True))
            apps = [
                make_shortener(directory, ToldSpool(), clock, readiness),
                analytics_app(stats, directory.follow, readiness, now=clock, series_retention=RETENTION),
            ]
            await self._serve(apps)
        await stats.close()

    async def _serve(self, apps: list[Any]) -> None:
        self._servers = [
            uvicorn.Server(
                uvicorn.Config(app, port=0, lifespan="off", log_config=None, access_log=False, server_header=False)
            )
            for app in apps
        ]
        tasks = [asyncio.create_task(server.serve()) for server in self._servers]
        while not all(server.started for server in self._servers):
            await asyncio.sleep(0.01)
        self.urls = [f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}" for server in self._servers]
        self._is_up.set()
        await asyncio.gather(*tasks)

    @contextmanager
    def open(self) -> Iterator["Doors"]:
        thread = threading.Thread(target=lambda: asyncio.run(self.serve()), daemon=True)
        thread.start()
        assert self._is_up.wait(30)
        try:
            yield self
        finally:
            for server in self._servers:
                server.should_exit = True
            thread.join(30)


@pytest.fixture(scope="module")
def doors(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    with Doors(migrated, tmp_path_factory.mktemp("doors")).open() as doors:
        yield doors


@pytest.mark.parametrize("door", [0, 1])
def test_the_first_part_of_every_route_is_kept_from_codes(doors: Doors, door: int) -> None:
    document = httpx.get(f"{doors.urls[door]}/openapi.json").json()
    assert {path.split("/")[1] for path in document["paths"]} - {"{code}"} <= RESERVED


@pytest.mark.parametrize("door", [0, 1])
def test_a_document_is_titled_described_and_has_examples(doors: Doors, door: int) -> None:
    document = httpx.get(f"{doors.urls[door]}/openapi.json").json()
    assert document["info"]["title"] and document["info"]["description"]
    for operations in document["paths"].values():
        for operation in operations.values():
            assert operation["summary"]
            assert "500" in operation["responses"]
            for answer in operation["responses"].values():
                assert answer["description"]
                assert all("example" in content for content in answer.get("content", {}).values())
            for content in operation.get("requestBody", {}).get("content", {}).values():
                assert content["examples"]


@pytest.mark.parametrize("door", [0, 1])
def test_an_example_shows_every_field(doors: Doors, door: int) -> None:
    document = httpx.get(f"{doors.urls[door]}/openapi.json").json()
    schemas = document["components"]["schemas"]
    for operations in document["paths"].values():
        for operation in operations.values():
            for status, answer in operation["responses"].items():
                content = answer.get("content", {}).get("application/json", {})
                if "$ref" in content.get("schema", {}):
                    fields = schemas[content["schema"]["$ref"].rsplit("/", 1)[1]]["properties"]
                    assert content["example"].keys() == fields.keys(), (operation["summary"], status)


def test_the_analytics_document_is_also_below_its_prefix(doors: Doors) -> None:
    above, below = (httpx.get(f"{doors.urls[1]}{prefix}/openapi.json") for prefix in ("", "/api/v1/analytics"))
    assert above.status_code == below.status_code == 200
    assert above.content == below.content
    assert httpx.get(f"{doors.urls[1]}/api/v1/analytics/docs").text == httpx.get(f"{doors.urls[1]}/docs").text


def test_a_redirect_on_a_socket_names_no_server_and_bears_a_date(doors: Doors) -> None:
    answer = httpx.get(f"{doors.urls[0]}/cat")
    assert answer.status_code == 307
    assert "date" in answer.headers and "server" not in answer.headers
