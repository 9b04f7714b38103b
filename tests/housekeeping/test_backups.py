"""docs/backups.md: its commands, run as they stand there, bring back what was lost. Only kubectl is a stand-in."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from tests.backends.postgresql import Postgresql
from tests.backends.redis import Redis
from tests.conftest import installed_program
from tests.housekeeping.k8s_cluster import Cluster, at
from tests.housekeeping.k8s_facts import postgresql as rendered_postgresql
from tests.housekeeping.k8s_schemas import faults_of_custom, folder_of_schemas
from tests.housekeeping.k8s_tables import CHECKOUT
from tests.links.stores import NOW, draft, opened, servers
from urlshortener.links import postgresql as links
from urlshortener.links.link import Link

_PAGE = (CHECKOUT / "docs" / "backups.md").read_text()

# Runs here what kubectl would run in a container, and writes the rest down.
_KUBECTL = """#!/bin/sh
echo "$*" >>calls
case "$1" in
get) echo url-shortener-db-1 ;;
exec)
    while [ "$1" != -- ]; do shift; done
    shift
    exec "$@" ;;
esac
"""


def _commands(heading: str) -> list[str]:
    section = _PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"```bash\n(.*?)```", section, re.DOTALL)


class Shell:
    """Somebody's, who follows the page."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self._folder = folder
        self._variables = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", **variables}
        (folder / "kubectl").write_text(_KUBECTL)
        (folder / "kubectl").chmod(0o755)

    def run(self, commands: str) -> str:
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail"],
            input=commands,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            cwd=self._folder,
            env=self._variables,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @property
    def calls(self) -> list[str]:
        return (self._folder / "calls").read_text().splitlines()


def _deployments_are_scaled(calls: list[str], service: str) -> list[str]:
    return [
        call.partition("--replicas=")[2].split()[0] for call in calls if call.startswith("scale") and service in call
    ]


async def test_links_come_back_from_a_dump(own_postgresql: Postgresql, tmp_path: Path) -> None:
    own_postgresql.run_sql(
        "CREATE ROLE urlshortener",
        "GRANT urlshortener TO app",
        "ALTER ROLE app SET role TO urlshortener",  # who owns the tables there
        "CREATE DATABASE urlshortener OWNER urlshortener",
    )
    where = servers("urlshortener", own_postgresql)
    await links.migrate(where)
    connection = {"PGHOST": own_postgresql.configuration["unix_socket_directories"].strip("'"), "PGUSER": "postgres"}
    shell = Shell(tmp_path, PGPORT=str(own_postgresql.port), **connection)
    dump, restore = _commands("Links")
    async with opened(links.open_store(where)) as store:
        await store.add_many([draft("cat")])
        before = await store.find_many(["cat"])
        shell.run(dump)
        assert await store.delete("cat", NOW)
        await store.add_many([draft("later")])
    shell.run(restore)
    async with opened(links.open_store(where)) as store:
        assert await store.find_many(["cat", "later"]) == before
        (new,) = await store.add_many([draft("new")])  # as the owner of all that came back
        assert isinstance(new, Link)
    await links.migrate(where)
    production = str(Cluster.rendered("prod").pods("shortener-service")[0])
    assert _deployments_are_scaled(shell.calls, "deployment/shortener-service") == ["0", production]


def test_counts_come_back_from_a_copy(own_redis: Redis, tmp_path: Path) -> None:
    installed_program("redis-cli", "redis-tools")
    shell = Shell(tmp_path, REDIS_PORT=str(own_redis.port), REDIS_PASSWORD=own_redis.password)
    for number in range(250):
        own_redis.ask("SET", f"count:{number}", str(number))
    for command in (
        "HSET h a 1",
        "ZADD z 1 a",
        "PFADD p a",
        "SETBIT b 9 1",
        "XADD x * a 1",
        "SADD s a",
        "EXPIRE h 900",
    ):
        own_redis.ask(*command.split())
    before = own_redis.ask("DEBUG", "DIGEST")
    copy, restore = _commands("Counts")
    shell.run(copy)
    own_redis.ask("FLUSHALL")
    own_redis.ask("SET", "count:later", "1")
    shell.run(restore)
    assert own_redis.ask("DEBUG", "DIGEST") == before
    assert 0 < own_redis.ask("TTL", "h") <= 900
    assert _deployments_are_scaled(shell.calls, "deployment/analytics-service") == [
        "0",
        str(Cluster.rendered("prod").pods("analytics-service")[0]),
    ]


@pytest.fixture
def manifests() -> dict[str, dict[str, object]]:
    found = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", _PAGE, re.DOTALL)]
    return {each["kind"]: each for each in found}


def test_a_recovery_is_what_the_operator_understands_and_reads_what_the_component_writes(
    manifests: dict[str, dict[str, object]],
) -> None:
    database = rendered_postgresql(Cluster.rendered_with("backups"))
    recovered, store = manifests["Cluster"], manifests["ObjectStore"]
    assert faults_of_custom(recovered, folder_of_schemas()) == []
    source, plugin = at(recovered, "spec.externalClusters.0"), at(database, "spec.plugins.0")
    assert at(recovered, "spec.bootstrap.recovery.source") == source["name"]
    assert at(source, "plugin.name") == plugin["name"]
    written_to = at(plugin, "parameters.barmanObjectName")
    assert at(source, "plugin.parameters") == {"barmanObjectName": written_to, "serverName": "url-shortener-db"}
    assert (at(store, "metadata.name"), at(store, "metadata.namespace")) == (written_to, "url-shortener-prod")
    for path in ("spec.imageName", "spec.storage"):
        assert at(recovered, path) == at(database, path)
    owner = at(database, "spec.bootstrap.initdb")
    for word in ("database", "owner"):
        assert at(recovered, f"spec.bootstrap.recovery.{word}") == owner[word]
