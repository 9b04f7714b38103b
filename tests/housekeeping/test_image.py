"""docker/Dockerfile: what it promises. That it builds, and what the built image does: scripts/try-image."""

import http.server
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator

import pytest
import yaml  # type: ignore[import-untyped]

from tests.backends.ports import free_port
from tests.housekeeping.k8s_cluster import Cluster
from tests.housekeeping.k8s_tables import CHECKOUT
from urlshortener.cli import COMMANDS

_TEXT = (CHECKOUT / "docker" / "Dockerfile").read_text()
_HEALTHY = CHECKOUT / "docker" / "healthy.py"
_PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
_BUILD = {"pyproject.toml:build"}


def _steps() -> list[str]:
    """One line for each, comments left out."""
    lines = "\n".join(line for line in _TEXT.splitlines() if not line.lstrip().startswith("#"))
    return [re.sub(r"\s+", " ", step) for step in lines.replace("\\\n", " ").splitlines() if step.strip()]


def _result() -> list[str]:
    """The steps of the last stage, which is what is shipped."""
    steps = _steps()
    return steps[max(number for number, step in enumerate(steps) if step.startswith("FROM ")) :]


def test_its_base_is_pinned_to_a_release() -> None:
    (base,) = [step.partition("BASE=")[2] for step in _steps() if step.startswith("ARG BASE=")]
    assert re.fullmatch(r"docker\.io/library/debian:\d+\.\d+-slim", base)
    origins = [step.split()[1] for step in _steps() if step.startswith("FROM ")]
    assert origins == ["${BASE}", "python", "python"]


def test_dependencies_are_those_of_the_lock_and_none_is_compiled() -> None:
    (install,) = [step for step in _steps() if "--requirement" in step]
    assert "--require-hashes" in install
    assert "--only-binary :all:" in install
    assert "requirements.lock" in install


def test_nothing_that_builds_or_installs_is_shipped() -> None:
    assert not any(re.search(r"gcc|build-essential|python3-dev|pip |venv", step) for step in _result())
    (removed,) = [step.partition("uninstall --yes")[2].split() for step in _steps() if "uninstall" in step]
    assert {*removed} == {"pip", "setuptools"} | _only_for_building()


def _only_for_building() -> set[str]:
    """What the lock has because of the build, and of nothing else."""
    lock = (CHECKOUT / "requirements.lock").read_text()
    found: set[str] = set()
    wanted_by: dict[str, set[str]] = {}
    for block in re.split(r"\n(?=\w)", lock):
        reasons = block.partition("# via")[2]
        wanted_by[block.partition("==")[0]] = set(re.findall(r"[a-z][\w.:-]+", reasons)) - {"urlshortener"}
    while more := {name for name, reasons in wanted_by.items() if reasons and reasons <= found | _BUILD} - found:
        found |= more
    return found


def test_it_runs_as_the_user_that_the_manifests_name() -> None:
    (user,) = [step.split()[1] for step in _result() if step.startswith("USER ")]
    pod = Cluster.rendered("prod").get("Deployment", "shortener-service")["spec"]["template"]["spec"]
    assert user == f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"


def test_the_argument_picks_what_runs() -> None:
    assert 'ENTRYPOINT ["urlshortener"]' in _result()
    (default,) = [step for step in _result() if step.startswith("CMD ")]
    assert yaml.safe_load(default.removeprefix("CMD "))[0] in COMMANDS
    production = Cluster.rendered("prod")
    for service in ("shortener-service", "analytics-service"):
        pod = production.get("Deployment", service)["spec"]["template"]["spec"]
        for container in pod["containers"] + pod["initContainers"]:
            assert container["args"][0] in COMMANDS


def test_its_labels_say_what_it_is() -> None:
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', " ".join(_result())))
    assert labels["description"] == _PROJECT["description"]
    assert labels["licenses"] == _PROJECT["license"]
    assert {"title", "version", "revision", "created"} <= labels.keys()
    assert f"ARG VERSION={_PROJECT['version']}" in _result()


def test_overlays_deploy_this_version() -> None:
    for environment in ("dev", "staging", "prod"):
        pod = Cluster.rendered(environment).get("Deployment", "shortener-service")["spec"]["template"]["spec"]
        assert pod["containers"][0]["image"] == f"url-shortener:{_PROJECT['version']}"


def test_only_what_is_copied_is_sent_to_the_builder() -> None:
    lines = (CHECKOUT / ".dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    let_in = {line[1:] for line in lines if line.startswith("!")}
    copied = [
        word for step in _steps() if step.startswith("COPY ") and "--from" not in step for word in step.split()[1:-1]
    ]
    assert all(word in let_in or any(each.startswith(f"{word}/") for each in let_in) for word in copied)
    assert all((CHECKOUT / each).exists() for each in let_in)


# --- The health check, against doors that answer


@pytest.fixture
def door() -> Iterator[tuple[int, list[int]]]:
    """A port, and the status that it answers with."""
    status = [200]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status[0] if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server.server_port, status
    server.shutdown()
    server.server_close()


def _healthy(shortener: int, analytics: int) -> bool:
    ports = {"SHORTENER_OPS_PORT": str(shortener), "ANALYTICS_OPS_PORT": str(analytics)}
    done = subprocess.run([sys.executable, "-I", "-S", _HEALTHY], env=ports, check=False, timeout=10)
    return done.returncode == 0


def test_the_health_check_asks_whatever_service_is_there(door: tuple[int, list[int]]) -> None:
    port, status = door
    assert _healthy(port, free_port())
    assert _healthy(free_port(), port)
    assert not _healthy(free_port(), free_port())
    status[0] = 500
    assert not _healthy(port, free_port())


def test_the_image_asks_it_as_it_is_tested_here() -> None:
    (check,) = [step for step in _result() if step.startswith("HEALTHCHECK ")]
    command = yaml.safe_load(check.partition("CMD ")[2])
    assert command == ["python3", "-I", "-S", "/opt/urlshortener/healthy.py"]
    assert any(step == "COPY docker/healthy.py /opt/urlshortener/healthy.py" for step in _result())
