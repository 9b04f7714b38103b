"""Real servers for every test that asks for one.

Shared ones are started by the first test that asks, and serve the whole run: a test takes a fresh database or virtual
host of its own on them, and must not break them. The ones named `own_…` are for one test alone, which may.
Everything is gone when the run ends, however it ends.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator

import pytest

from tests.backends.postgresql import Postgresql, PostgresqlPair
from tests.backends.rabbitmq import Rabbitmq
from tests.backends.redis import Redis, RedisSentinel
from tests.backends.server import ServerMissing


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The drill and journeys first: they take longest, and where two processes share the files none is to end alone."""
    items.sort(key=lambda item: ("drill" not in item.path.parts, "journeys" not in item.path.parts))


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """Skip a test whose server this machine does not have; in CI that is a failure: there, nothing goes untested."""
    try:
        yield
    except ServerMissing as missing:
        if os.environ.get("CI") == "true":
            pytest.fail(f"A server that the tests need is missing: {missing}", pytrace=False)
        pytest.skip(f"needs a server: {missing}")


def installed_program(name: str, package: str) -> str:
    """Where a program of a Debian package is; without it a test is skipped, and fails in CI."""
    with installed():
        if found := shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin"):
            return found
        raise ServerMissing(package)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Postgresql]:
    """A PostgreSQL for everybody; take a `database` on it."""
    with installed(), Postgresql(durable=False) as server:
        server.start()
        yield server


@pytest.fixture
def database(postgresql: Postgresql) -> str:
    """The name of a fresh, empty database on `postgresql`."""
    return postgresql.fresh_database()


@pytest.fixture
def own_postgresql() -> Iterator[Postgresql]:
    with installed(), Postgresql("own-postgresql") as server:
        server.start()
        yield server


@pytest.fixture
def postgresql_pair() -> Iterator[PostgresqlPair]:
    """A primary and its streaming replica, for one test alone."""
    with installed(), PostgresqlPair() as pair:
        pair.start()
        yield pair


@pytest.fixture
def synchronous_postgresql_pair() -> Iterator[PostgresqlPair]:
    """The same; a commit is answered when the replica has it."""
    with installed(), PostgresqlPair(synchronous=True) as pair:
        pair.start()
        yield pair


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    """A Redis for everybody; take a `redis_database` on it. Function libraries are shared by all databases."""
    with installed(), Redis() as server:
        server.start()
        yield server


@pytest.fixture
def redis_database(redis_server: Redis) -> int:
    """The number of an empty database on `redis_server`."""
    return redis_server.fresh_database()


@pytest.fixture
def own_redis() -> Iterator[Redis]:
    with installed(), Redis("own-redis") as server:
        server.start()
        yield server


@pytest.fixture(scope="session")
def redis_sentinel() -> Iterator[RedisSentinel]:
    """A master, two replicas and three Sentinels for everybody, on which nothing is broken."""
    with installed(), RedisSentinel() as group:
        group.start()
        yield group


@pytest.fixture
def own_redis_sentinel() -> Iterator[RedisSentinel]:
    with installed(), RedisSentinel() as group:
        group.start()
        yield group


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[Rabbitmq]:
    """A RabbitMQ for everybody; take a `vhost` on it."""
    with installed(), Rabbitmq() as server:
        server.start()
        yield server


@pytest.fixture
def vhost(rabbitmq: Rabbitmq) -> str:
    """The name of a fresh, empty virtual host on `rabbitmq`."""
    return rabbitmq.fresh_vhost()


@pytest.fixture(scope="session")
def breakable_rabbitmq() -> Iterator[Rabbitmq]:
    """One that a test, or a file of tests, may break while it runs. Started once: that takes ten seconds and more."""
    with installed(), Rabbitmq("breakable-rabbitmq") as server:
        server.start()
        yield server


@pytest.fixture
def own_rabbitmq(breakable_rabbitmq: Rabbitmq) -> Iterator[Rabbitmq]:
    """It is mended after each test, so that the next has it whole; take a fresh virtual host."""
    yield breakable_rabbitmq
    breakable_rabbitmq.resume()
    if breakable_rabbitmq.is_running:
        breakable_rabbitmq.clear_memory_alarm()
    else:
        breakable_rabbitmq.start()
