"""A process from outside: signals, doors and exit codes."""

import asyncio
import contextlib
import gc
import json
import logging
import os
import re
import select
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvloop
from starlette.types import Receive, Scope, Send

import urlshortener
from tests.backends.ports import free_port
from tests.backends.waiting import wait_until
from tests.journeys.systems import Process
from urlshortener.services.http import Readiness, ops_app
from urlshortener.services.protocol import LimitedProtocol
from urlshortener.services.runner import Door, _served, listen, serve

_TOKEN = "a-token-of-the-tests-0123"


@pytest.fixture
def process() -> Iterator[Process]:
    with Process("run", {"DRAIN_DELAY": "2s"}) as process:
        process.start()
        yield process


@pytest.fixture(scope="module")
def door() -> Iterator[Process]:
    """One that no test stops."""
    with Process("run", {}) as process:
        process.start()
        yield process


def _status(url: str) -> int | str:
    try:
        return httpx.get(url, timeout=2).status_code
    except httpx.HTTPError as error:
        return type(error).__name__


def _pid(process: Process) -> int:
    """Of the process itself, below its keeper."""
    assert process._keeper is not None
    children = Path(f"/proc/{process._keeper.pid}/task/{process._keeper.pid}/children").read_text().split()
    return int(children[0])


def _exit_code(command: str, environment: Mapping[str, str], folder: Path) -> tuple[int, str]:
    plain = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
    done = subprocess.run(
        [sys.executable, "-m", "urlshortener", command],
        env={**plain, "DATA_DIR": str(folder), **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def _free_doors() -> dict[str, str]:
    names = ("SHORTENER_PORT", "ANALYTICS_PORT", "SHORTENER_OPS_PORT", "ANALYTICS_OPS_PORT")
    return {name: str(free_port()) for name in names}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_when_proxies_have_looked_elsewhere(process: Process, number: signal.Signals) -> None:
    (shortener, _), (ops, _) = process.urls, process.ops_urls
    os.kill(_pid(process), number)
    wait_until(lambda: _status(f"{ops}/ready") == 503, "it says that it is not ready", within_seconds=1.9)
    assert _status(f"{shortener}/health") == 200  # while it drains, it serves
    wait_until(lambda: not process.is_running, "it ends", within_seconds=10)
    assert process._keeper is not None
    assert process._keeper.returncode == 0
    assert '"exit_code":0' in process.log_tail()


def test_a_second_signal_skips_the_waiting() -> None:
    with Process("run", {"DRAIN_DELAY": "60s"}) as process:
        process.start()
        pid = _pid(process)
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: '"draining"' in process.log_tail(), "it drains", within_seconds=5)
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not process.is_running, "it ends", within_seconds=10)


def test_a_stop_while_it_waits_for_its_database_is_a_clean_one() -> None:
    settings = {
        "LINKS_URL": f"postgresql://app@127.0.0.1:{free_port()}/links",
        "EVENTS_URL": f"amqp://127.0.0.1:{free_port()}/",
        "VISITOR_SECRET": "the-same-on-every-replica",
    }
    with Process("shortener", settings) as process:
        process.launch()
        wait_until(lambda: _status(f"{process.ops_urls[0]}/ready") == 503, "its doors are open", within_seconds=15)
        assert _status(f"{process.urls[0]}/health") == 200
        assert _status(f"{process.urls[0]}/somecode") == 503
        os.kill(_pid(process), signal.SIGTERM)
        wait_until(lambda: not process.is_running, "it ends", within_seconds=10)
        assert process._keeper is not None
        assert process._keeper.returncode == 0


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"HOST": "0.0.0.0"}, "ADMIN_TOKEN"),
        ({"HOST": "::"}, "ADMIN_TOKEN"),
        ({"HOST": "nosuch.invalid", "ADMIN_TOKEN": _TOKEN}, "HOST"),
        ({"LINKS_URL": "mysql://db/links"}, "LINKS_URL"),
        ({"STATS_URL": "sqlite://host/stats.db"}, "STATS_URL"),
        ({"LINKS_READ_URL": "postgresql://db/links"}, "LINKS_READ_URL"),
    ],
)
def test_a_wrong_setting_stops_the_start_in_words(environment: dict[str, str], words: str, tmp_path: Path) -> None:
    code, said = _exit_code("run", {**_free_doors(), **environment}, tmp_path)
    assert code == 78
    assert said.startswith(f"urlshortener: {words}: ")
    assert "Traceback" not in said


@pytest.mark.parametrize("command", ["shortener", "analytics"])
def test_a_service_shares_nothing_that_lies_in_a_file(command: str, tmp_path: Path) -> None:
    code, said = _exit_code(command, {}, tmp_path)
    assert (code, "LINKS_URL" in said, "postgresql://" in said) == (78, True, True)


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    doors = _free_doors()
    with socket.create_server(("127.0.0.1", int(doors["ANALYTICS_PORT"]))):
        code, said = _exit_code("run", doors, tmp_path)
    assert code == 78
    assert "ANALYTICS_PORT" in said


def test_migrate_says_what_it_did_and_does_it_once(tmp_path: Path) -> None:
    first, second = (_exit_code("migrate", {}, tmp_path) for _ in range(2))
    assert (first[0], second[0]) == (0, 0)
    assert first[1].strip()
    assert first[1] != second[1]


def test_migrate_leaves_a_newer_database_as_it_is_so_that_a_rollback_starts(tmp_path: Path) -> None:
    assert _exit_code("migrate", {}, tmp_path)[0] == 0
    with contextlib.closing(sqlite3.connect(tmp_path / "links.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    code, said = _exit_code("migrate", {}, tmp_path)
    assert (code, "newer than this version knows" in said) == (0, True)
    with Process("run", {"DATA_DIR": str(tmp_path)}) as process:
        process.start()


def test_it_tells_its_version() -> None:
    assert _exit_code("--version", {}, Path()) == (0, f"urlshortener {urlshortener.__version__}\n")


def test_migrate_against_a_database_that_is_away_ends_with_its_own_code(tmp_path: Path) -> None:
    url = f"postgresql://app@127.0.0.1:{free_port()}/links"
    code, said = _exit_code("migrate", {"LINKS_URL": url}, tmp_path)
    assert code == 69
    assert "Traceback" not in said


def test_the_visitor_secret_is_made_once_and_for_its_owner_only(door: Process) -> None:
    path = door.folder / "data" / "visitor-secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_text()) >= 32


def test_logs_are_lines_of_json_and_show_no_secret() -> None:
    settings = {"LOG_LEVEL": "debug", "ADMIN_TOKEN": _TOKEN, "VISITOR_SECRET": "secret-of-all-replicas"}
    with Process("run", settings) as process:
        process.start()
        httpx.post(f"{process.urls[0]}/api/v1/urls", json={"url": "https://e.example/"}, headers={"X-Api-Key": _TOKEN})
        process.stop()
        log = process.log.read_text()
    lines = [line for line in log.splitlines() if line.startswith("{")]
    assert {"ready", "draining", "stopped"} <= {json.loads(line)["event"] for line in lines}
    assert _TOKEN not in log
    assert "secret-of-all-replicas" not in log


@pytest.mark.parametrize("command", ["shortener", "analytics"])
def test_servers_that_are_away_are_complained_of_without_their_passwords(command: str) -> None:
    settings = {
        "LOG_LEVEL": "debug",
        "LINKS_URL": f"postgresql://app:password-one@127.0.0.1:{free_port()}/links",
        "EVENTS_URL": f"amqp://app:password-two@127.0.0.1:{free_port()}/",
        "STATS_URL": f"redis+sentinel://:password-three@127.0.0.1:{free_port()}/mymaster/0",
        "VISITOR_SECRET": "secret-of-all-replicas",
    }
    with Process(command, settings) as process:
        process.launch()
        wait_until(lambda: '"waiting"' in process.log_tail(), "it complains", within_seconds=15)
        assert _status(f"{process.urls[0]}/somecode") in (404, 503)
        process.stop()
        log = process.log.read_text()
    assert {json.loads(line)["level"] for line in log.splitlines()} >= {"warning"}
    assert not re.search("password-|secret-of", log)


def test_both_lines_of_the_greeting_work_when_they_are_pasted(door: Process) -> None:
    create, follow = re.findall(r"^  (curl .*)$", door.log.read_text(), re.M)
    assert '"code":"cat"' in subprocess.run(["bash", "-c", create], capture_output=True, text=True, check=True).stdout
    pasted = subprocess.run(["bash", "-c", follow], capture_output=True, text=True, check=True).stdout
    assert "307 Temporary Redirect" in pasted
    assert '"access_count":' in pasted


# the order of a stop, on a small service of the tests


class Service:
    """Answers when it may, and ends as it is told."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.asked = 0
        self.work = asyncio.Event()  # set: its task ends, which it should not
        self.ended: list[str] = []
        self.starts: Callable[[], Any] = _nothing
        self.ends: Sequence[Callable[[], Any]] = [_nothing]
        self.readiness = Readiness()
        self.doors = [
            Door(listen("127.0.0.1", 0, "PORT"), self._answer),
            Door(listen("127.0.0.1", 0, "OPS_PORT"), ops_app("a-service", self.readiness), stays_open=True),
        ]

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked += 1
        await self.may_answer.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    @contextlib.asynccontextmanager
    async def _up(self) -> AsyncIterator[list[asyncio.Task[Any]]]:
        async with contextlib.AsyncExitStack() as stack:
            for number, end in enumerate(self.ends):
                stack.push_async_callback(self._part_ends, f"part {number}", end)
            await self.starts()
            yield [asyncio.create_task(self.work.wait(), name="work")]

    async def _part_ends(self, name: str, end: Callable[[], Any]) -> None:
        try:
            await end()
        finally:
            self.ended.append(name)

    async def serve(self, drain_delay: float = 0, stop_timeout: float = 5) -> int:
        return await serve(
            self.doors,
            self._up(),
            self.readiness,
            drain_delay=timedelta(seconds=drain_delay),
            stop_timeout=timedelta(seconds=stop_timeout),
        )

    async def until_ready(self) -> None:
        await _until(lambda: self.readiness.is_ready)


async def _nothing() -> None: ...


async def _hangs() -> None:
    await asyncio.Event().wait()


async def _fails() -> None:
    raise RuntimeError("a part that cannot end")


async def _until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    service = Service()
    yield service
    for door in service.doors:
        door.socket.close()
    gc.unfreeze()


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


async def test_a_request_under_way_is_finished_while_the_door_takes_no_other_and_probes_go_on(service: Service) -> None:
    door, ops = (door.url for door in service.doors)
    running = asyncio.create_task(service.serve())
    await service.until_ready()
    async with httpx.AsyncClient() as client, httpx.AsyncClient() as other:
        assert (await other.get(f"{ops}/ready")).status_code == 200
        under_way = asyncio.create_task(client.get(door))
        await _until(lambda: service.asked)
        _terminate()
        await _until_refused(door)
        assert (await other.get(f"{ops}/ready")).status_code == 503
        assert not running.done()
        assert service.ended == []
        service.may_answer.set()
        assert (await under_way).status_code == 204
    assert await running == 0
    assert service.ended == ["part 0"]


async def _until_refused(url: str) -> None:
    """Until nobody can connect there any more. Who was connecting when the door closed is reset."""
    host, port = url.removeprefix("http://").split(":")
    with contextlib.suppress(ConnectionRefusedError, ConnectionResetError):
        async with asyncio.timeout(10):
            while True:
                _, writer = await asyncio.open_connection(host, int(port))
                writer.close()


async def test_what_was_there_at_the_start_is_not_looked_through_again(service: Service) -> None:
    """It would stop the loop for tens of milliseconds each time."""
    running = asyncio.create_task(service.serve())
    await service.until_ready()
    frozen, left = gc.get_freeze_count(), len(gc.get_objects())
    gc.unfreeze()
    assert frozen > 10 * left
    _terminate()
    assert await running == 0


async def test_nobody_waits_for_proxies_that_were_never_told_to_come(service: Service) -> None:
    service.starts = _hangs
    running = asyncio.create_task(service.serve(drain_delay=60))
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"{service.doors[1].url}/ready")).status_code == 503
    _terminate()
    async with asyncio.timeout(3):
        assert await running == 0
    assert service.ended == ["part 0"]


async def test_a_stop_ends_in_time_whatever_hangs_and_every_part_has_its_turn(service: Service) -> None:
    service.ends = [_nothing, _hangs, _nothing, _hangs, _hangs]
    running = asyncio.create_task(service.serve(stop_timeout=1))
    await service.until_ready()
    async with httpx.AsyncClient(timeout=10) as client:
        never_answered = asyncio.create_task(client.get(service.doors[0].url))
        await _until(lambda: service.asked)
        began = time.monotonic()
        _terminate()
        assert await running == 0
        assert time.monotonic() - began < 1.5
        assert service.ended == ["part 4", "part 3", "part 2", "part 1", "part 0"]
        never_answered.cancel()


async def test_a_part_that_fails_at_the_end_is_logged_and_holds_up_no_other(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    service.ends = [_nothing, _fails, _nothing]
    running = asyncio.create_task(service.serve())
    await service.until_ready()
    _terminate()
    assert await running == 0
    assert service.ended == ["part 2", "part 1", "part 0"]
    assert [record.message for record in caplog.records if record.levelno == logging.ERROR] == ["stop_failed"]


async def test_a_start_that_fails_closes_what_was_open(service: Service) -> None:
    service.starts = _fails
    urls = [door.url for door in service.doors]
    with pytest.raises(RuntimeError):
        await service.serve(drain_delay=60)
    assert service.ended == ["part 0"]
    for url in urls:
        await _until_refused(url)


async def test_work_that_ends_by_itself_is_a_defect_and_ends_the_process(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    running = asyncio.create_task(service.serve())
    await service.until_ready()
    service.work.set()
    assert await running == 1
    assert service.ended == ["part 0"]
    assert "task_ended" in caplog.text


def test_new_connections_do_not_wait_for_a_turn_of_the_loop_each() -> None:
    """A turn is long while many connections are busy."""
    visitors = 200

    async def turns_until_all_are_answered() -> int:
        listening = listen("127.0.0.1", 0, "SHORTENER_PORT")
        async with _served([Door(listening, ops_app("shortener-service", Readiness()))]):
            await asyncio.sleep(0.1)
            address = listening.getsockname()
            with contextlib.ExitStack() as stack:
                waiting = [stack.enter_context(socket.create_connection(address, 5)) for _ in range(visitors)]
                for visitor in waiting:
                    visitor.sendall(b"GET /health HTTP/1.1\r\nHost: door\r\nConnection: close\r\n\r\n")
                for turns in range(10 * visitors):
                    waiting = [visitor for visitor in waiting if not select.select([visitor], [], [], 0)[0]]
                    if not waiting:
                        return turns
                    await asyncio.sleep(0)
        raise AssertionError(f"{len(waiting)} of {visitors} were not answered")

    assert uvloop.run(turns_until_all_are_answered()) < visitors / 2


async def test_no_connection_is_left_open_when_a_door_is_closed() -> None:
    """As one that came just while the others were told to end: nobody told it."""
    listening = listen("127.0.0.1", 0, "SHORTENER_PORT")
    served = _served([Door(listening, ops_app("shortener-service", Readiness()), _Deaf)])
    await served.__aenter__()
    reader, writer = await asyncio.open_connection(*listening.getsockname())
    writer.write(b"GET /health HTTP/1.1\r\nHost: door\r\n\r\n")
    await reader.readuntil(b'"shortener-service"}')
    closing = asyncio.create_task(served.__aexit__(None, None, None))
    await asyncio.sleep(0.3)
    assert not closing.done()
    closing.cancel()  # its time is over
    async with asyncio.timeout(5):
        await asyncio.wait({closing})
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""


class _Deaf(LimitedProtocol):
    def shutdown(self) -> None: ...
