"""The pages about the cluster: their commands can be read by a shell, name what is there, and their numbers agree."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.housekeeping.k8s_cluster import Cluster, at, objects_of
from tests.housekeeping.k8s_facts import images, postgresql
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
_DEPLOYMENT = CHECKOUT / "docs" / "deployment.md"
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
    paths = re.findall(r"(?<![\w/])(?:\./)?((?:k8s|docker|scripts|tests|src)/[\w./*-]*[\w/])", text)
    wanted += [CHECKOUT / name for name in paths if "*" not in name]
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


_NEEDED_EVERYWHERE = {
    "printf",
    "sed",
    "sleep",
    "test",
    "sh",
    "cd",
    "cat",
    "mktemp",
    "rm",
    "grep",
    "head",
    "xargs",
    "psql",
}


def test_what_deployment_calls_it_asks_for() -> None:
    text = _DEPLOYMENT.read_text()
    script = re.sub(r"\\\n", " ", _commands(_DEPLOYMENT))
    called = {line.split()[0] for line in re.sub(r"\$\(|&& |\| ", "\n", script).splitlines() if line.strip()}
    programs = {each for each in called if re.fullmatch(r"[a-z-]+", each)} - _NEEDED_EVERYWHERE - {"base"}
    asked_for = set(re.findall(r"`([a-z]+)`", text.partition("## You need")[2].partition("\n## ")[0])) | {"base64"}
    assert programs <= asked_for
    assert {"kubectl", "helm", "docker", "curl"} <= programs


# By others than an overlay, or by a short name.
_MADE_BY_OTHERS = {"pod", "secret", "pdb", "backup", "sealedsecret"}


@_EVERY_PAGE
def test_what_its_commands_ask_the_cluster_for_is_there(page: Path) -> None:
    kinds = {each["kind"].lower() for each in Cluster.rendered_with("backups").objects} | _MADE_BY_OTHERS
    for asked in re.findall(r"kubectl get ([a-z,]+)", _commands(page)):
        assert {each.removesuffix("s") if each != "ingress" else each for each in asked.split(",")} <= kinds


def test_the_image_is_put_where_the_page_says(tmp_path: Path) -> None:
    k8s = shutil.copytree(CHECKOUT / "k8s", tmp_path / "k8s")
    commands = _commands(_DEPLOYMENT).splitlines()
    (name,) = [line for line in commands if line.startswith("image=")]
    (change,) = [line for line in commands if line.startswith("sed -i ")]
    subprocess.run(["bash", "-ec", f"{name}\n{change}"], cwd=tmp_path, check=True)
    found = {
        image for image in images(Cluster("prod", objects_of(k8s / "overlays" / "prod"))) if "url-shortener" in image
    }
    assert found == {"registry.example.com/url-shortener:0.1.0"}


def test_another_host_is_put_where_the_page_says() -> None:
    host = ours()["Environments"]["host"]["prod"]
    holding = [path for path in (CHECKOUT / "k8s").rglob("*") if path.is_file() and host in path.read_text()]
    (sentence,) = re.findall(r"To use another name.*?\.\n", _DEPLOYMENT.read_text(), re.DOTALL)
    assert {str(path.relative_to(CHECKOUT)) for path in holding} == set(re.findall(r"k8s/[\w/.-]+yaml", sentence))


def test_every_optional_part_is_on_the_page() -> None:
    page = tables(_DEPLOYMENT.read_text())["Optional parts"]
    assert set(page.rows) == {path.name for path in (CHECKOUT / "k8s" / "components").iterdir()}
    most = Cluster.rendered_with("autoscaling").pods("shortener-service")[1]
    assert page["autoscaling"]["brings"] == f"up to {most} shorteners"


def test_high_availability_repeats_what_is_promised() -> None:
    page = tables((CHECKOUT / "docs" / "high-availability.md").read_text())["What is promised, and for which failures"]
    promises = {name: row["back after"] for name, row in ours()["Promises"].rows.items()}
    assert {name: row["asked for"] for name, row in page.rows.items()} == promises


def test_high_availability_names_the_versions_that_run_and_the_lease_that_is_set() -> None:
    page = (CHECKOUT / "docs" / "high-availability.md").read_text()
    production = Cluster.rendered("prod")
    tags = [image.partition(":")[2] for image in images(production)]
    run = dict(re.findall(r"(PostgreSQL|Redis) ([\d.]+)", page.partition("newer than the")[2]))
    assert set(run) == {"PostgreSQL", "Redis"}
    assert all(any(tag.startswith(version) for tag in tags) for version in run.values())
    lease = at(postgresql(production), "spec.primaryLease.leaseDurationSeconds")
    assert re.search(rf"the shortest that is accepted, {lease} s;", page)


def test_the_ends_are_those_of_what_runs() -> None:
    ways_out = tables((CHECKOUT / "docs" / "end-of-life.md").read_text())["Ways out"]
    named = {row: re.search(r" (\d+\.[\d.]+)$", row) for row in ways_out.rows}
    running = [image.partition(":")[2] for image in images(Cluster.rendered("prod"))]
    assert sum(version is not None for version in named.values()) >= 3
    for row, version in named.items():
        assert version is None or any(tag.startswith(version[1]) for tag in running), row
    for wanted in ("ingress-nginx", "Jaeger 1", "Spotahome", "Elasticsearch 8.11"):
        assert any(wanted in row for row in ways_out.rows), wanted


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
