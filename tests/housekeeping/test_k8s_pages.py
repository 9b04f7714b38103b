"""The pages about the cluster: their commands can be read by a shell, name what is there, and their numbers agree."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.housekeeping.k8s_cluster import Cluster, at
from tests.housekeeping.k8s_facts import postgresql
from tests.housekeeping.k8s_rules_pods import CONNECTIONS, OTHER_CONNECTIONS
from tests.housekeeping.k8s_tables import CHECKOUT, ours, tables
from urlshortener.links.postgresql import READ_CONNECTIONS, WRITE_CONNECTIONS

_NAMES = (
    "infrastructure",
    "deployment",
    "high-availability",
    "operations",
    "upgrades",
    "backups",
    "sizing",
    "end-of-life",
)
_PAGES = [CHECKOUT / "docs" / f"{name}.md" for name in _NAMES]
_EVERY_PAGE = pytest.mark.parametrize("page", _PAGES, ids=_NAMES)


_SEALER = "sealed-secrets-controller"  # by the install script, whose own test holds it to this name


def _commands(page: Path) -> str:
    return "\n".join(re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL))


@_EVERY_PAGE
def test_a_shell_can_read_its_commands(page: Path) -> None:
    done = subprocess.run(["bash", "-n"], input=_commands(page), capture_output=True, text=True, check=False)
    assert done.stderr == ""


@_EVERY_PAGE
def test_its_links_and_files_are_there(page: Path) -> None:
    text = page.read_text()
    wanted = [page.parent / link for link in re.findall(r"\]\((?!https?:)([^)#]+)", text)]
    wanted += [CHECKOUT / name for name in re.findall(r"(?:\./|\b)(k8s/[\w./-]*[\w/])", text) if "*" not in name]
    assert [str(each) for each in wanted if not each.exists()] == []


@_EVERY_PAGE
def test_its_commands_name_what_is_deployed(page: Path) -> None:
    production = Cluster.rendered("prod")
    commands = _commands(page)
    named = re.findall(r"(?:deployment|cluster)[/ ]([a-z][a-z-]*[a-z])(?= |$)", commands, re.MULTILINE)
    known = {each["metadata"]["name"] for each in production.objects} | {_SEALER}
    assert set(named) <= known
    namespaces = set(re.findall(r"(?:-n|--namespace) ([a-z-]+)", commands))
    assert namespaces <= {
        ours()["Environments"]["namespace"]["prod"],
        "kube-system",
        "ingress-nginx",
        "nginx-ingress",
    }


def test_the_commands_of_the_specification_are_on_the_page_of_deployment() -> None:
    specification = CHECKOUT.parent / "shared" / "spec" / "infrastructure.md"
    if not specification.exists():
        pytest.skip(f"the specification is not at {specification}")
    wanted = [line.split("#")[0].strip() for line in _commands(specification).splitlines()]
    page = (CHECKOUT / "docs" / "deployment.md").read_text()
    assert [command for command in wanted if command not in page] == []


def test_high_availability_repeats_what_is_promised() -> None:
    page = tables((CHECKOUT / "docs" / "high-availability.md").read_text())["What is promised, and for which failures"]
    promises = {name: row["back after"] for name, row in ours()["Promises"].rows.items()}
    assert {name: row["asked for"] for name, row in page.rows.items()} == promises


def test_the_connections_are_those_of_the_code_and_the_cluster() -> None:
    page = (CHECKOUT / "docs" / "sizing.md").read_text().partition("## Connections")[2]
    production, scaled = Cluster.rendered("prod"), Cluster.rendered_with("autoscaling")
    shortener, analytics = CONNECTIONS

    def in_a_rollout(cluster: Cluster, service: str) -> int:
        surge = at(cluster.get("Deployment", service), "spec.strategy.rollingUpdate.maxSurge")
        return int(cluster.pods(service)[1] + surge)

    def needed(cluster: Cluster) -> int:
        return sum(in_a_rollout(cluster, service) * each for service, each in CONNECTIONS.items())

    pods = [in_a_rollout(production, shortener), in_a_rollout(production, analytics), needed(production)]
    most = [scaled.pods(shortener)[1], in_a_rollout(scaled, shortener) - scaled.pods(shortener)[1], needed(scaled)]
    limit = at(postgresql(production), "spec.postgresql.parameters.max_connections")
    numbers = [limit, READ_CONNECTIONS, READ_CONNECTIONS, 1, WRITE_CONNECTIONS, *pods, *most, OTHER_CONNECTIONS]
    assert re.findall(r"\d+", page) == [str(number) for number in numbers]
