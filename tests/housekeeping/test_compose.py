"""compose.yaml: loaded as `docker compose` does, made of what k8s/ is made of, and with every name in it known."""

import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tests.backends.go_programs import built
from tests.backends.ports import free_port
from tests.backends.redis import Redis
from tests.backends.server import Server, ServerMissing
from tests.conftest import installed
from tests.housekeeping.k8s_cluster import Cluster
from tests.housekeeping.k8s_facts import images
from tests.housekeeping.k8s_tables import CHECKOUT
from urlshortener.settings import TABLE, Settings

_FILE = CHECKOUT / "compose.yaml"
_OURS = ("shortener", "analytics", "migrate")


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """Variables as they are without a .env."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", _FILE.read_text())
    return dict(yaml.safe_load(text)["services"])


def test_docker_compose_would_take_it() -> None:
    """By the library of `docker compose`: schema, interpolation, and that what is named is there."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PASSWORD", "ADMIN_TOKEN")}
    done = subprocess.run(
        [built("compose"), _FILE], capture_output=True, text=True, check=False, env=environment, timeout=60
    )
    assert done.stderr == ""
    understood = json.loads(done.stdout)
    assert set(_OURS) < set(understood["services"])
    assert understood["services"]["shortener"]["environment"]["LINKS_PASSWORD"] == "only-for-this-machine"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("restart: unless-stopped", "restarts: unless-stopped"),
        ("condition: service_healthy", "condition: healthy"),
        ("      postgresql:\n        condition", "      postgres:\n        condition"),
        ("- spool:/var", "- spools:/var"),
    ],
)
def test_docker_compose_would_not_take_a_mistake(old: str, new: str, tmp_path: Any) -> None:
    text = _FILE.read_text()
    assert old in text
    (tmp_path / "compose.yaml").write_text(text.replace(old, new))
    done = subprocess.run(
        [built("compose"), tmp_path / "compose.yaml"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1


def test_its_images_are_pinned_and_are_those_of_the_cluster(services: dict[str, Any]) -> None:
    of_the_cluster = images(Cluster.rendered("prod"))
    version = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["version"]
    for name, service in services.items():
        image, _, tag = service["image"].rpartition(":")
        assert re.match(r"v?\d+\.\d+", tag), name
        known = {each.rpartition(":")[2] for each in of_the_cluster if each.rpartition(":")[0] == image}
        assert known in ({tag}, set()), name
    assert {services[name]["image"] for name in _OURS} == {f"url-shortener:{version}"}
    jaeger = {each.rpartition(":")[2] for each in of_the_cluster if "jaeger-collector" in each}
    assert {services["jaeger"]["image"].rpartition(":")[2]} == jaeger
    database = next(each for each in of_the_cluster if "/postgresql:" in each)
    assert services["postgresql"]["image"].startswith("postgres:" + database.rpartition(":")[2].split("-")[0] + "-")


@pytest.mark.parametrize("name", _OURS)
def test_a_service_of_ours_has_right_settings_and_knows_only_hosts_that_are_there(
    services: dict[str, Any], name: str
) -> None:
    given = services[name]["environment"]
    assert set(given) <= {setting.name for setting in TABLE}
    settings = Settings.read(given)
    for address in (settings.links_url, settings.events_url, settings.stats_url):
        assert {host for host, _ in address.hosts} <= set(services)
    assert given["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://otel-collector:4317"


@pytest.mark.parametrize("name", _OURS)
def test_a_service_of_ours_is_as_confined_as_in_the_cluster(services: dict[str, Any], name: str) -> None:
    service = services[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["user"] == "10001:10001"
    assert "no-new-privileges:true" in service["security_opt"]


def test_nobody_waits_for_what_can_never_come(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for wanted, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                from_the_image = wanted in ("shortener", "analytics")
                assert from_the_image or "test" in services[wanted]["healthcheck"], f"{name} waits for {wanted}"
            else:
                assert services[wanted]["restart"] != "unless-stopped", f"{name} waits for the end of {wanted}"


def test_each_service_comes_after_what_it_needs(services: dict[str, Any]) -> None:
    def before(name: str) -> Iterator[str]:
        for wanted in services[name].get("depends_on", {}):
            yield wanted
            yield from before(wanted)

    assert {"postgresql", "rabbitmq", "migrate"} <= set(before("shortener"))
    assert {"postgresql", "rabbitmq", "migrate", "sentinel", "redis-1", "redis-2"} <= set(before("analytics"))
    assert {"shortener", "analytics"} <= set(before("nginx"))


def test_only_this_machine_can_reach_it(services: dict[str, Any]) -> None:
    doors = {name: each["ports"] for name, each in services.items() if "ports" in each}
    assert set(doors) >= {"nginx"}
    assert not set(doors) & set(_OURS)
    assert all(str(port).startswith("127.0.0.1:") for ports in doors.values() for port in ports)


def test_files_that_it_mounts_are_there(services: dict[str, Any]) -> None:
    mounted = [v.split(":")[0] for each in services.values() for v in each.get("volumes", []) if v.startswith("./")]
    assert mounted
    assert [each for each in mounted if not (CHECKOUT / each).exists()] == []


def test_the_sentinel_finds_the_master_under_its_name(own_redis: Redis) -> None:
    """docker/sentinel.conf on a real Sentinel: names instead of addresses, since containers change theirs."""
    text = (CHECKOUT / "docker" / "sentinel.conf").read_text()
    with installed(), _Sentinel(text, own_redis) as sentinel:
        sentinel.start()
        assert sentinel.said("get-master-addr-by-name", "mymaster") == ["localhost", str(own_redis.port)]
        assert sentinel.said("ckquorum", "mymaster")[0].startswith("OK 1 usable Sentinels")


class _Sentinel(Server):
    def __init__(self, text: str, master: Redis) -> None:
        if not shutil.which("redis-sentinel"):
            raise ServerMissing("redis-sentinel")
        super().__init__("compose-sentinel")
        self.port = free_port()
        self._file = self.folder / "sentinel.conf"
        self._file.write_text(
            text.replace("PASSWORD", master.password)
            .replace("redis-1 6379", f"localhost {master.port}")
            .replace("port 26379", f"bind 127.0.0.1\nport {self.port}")
            .replace("dir /data", f"dir {self.folder}")
        )

    def _command(self) -> list[str]:
        return ["redis-sentinel", str(self._file)]

    def _answers(self) -> bool:
        try:
            return bool(self.said("ckquorum", "mymaster"))
        except AssertionError:
            return False

    def said(self, *words: str) -> list[str]:
        return self._run("redis-cli", "-p", str(self.port), "sentinel", *words).splitlines()
