"""k8s/helm/install-operators.sh, run against stand-ins for helm and kubectl that write down how they were called."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import installed_program
from tests.housekeeping.k8s_facts import SETTINGS_OF_THE_SCRIPT
from tests.housekeeping.k8s_tables import CHECKOUT, ours, tables

_SCRIPT = CHECKOUT / "k8s" / "helm" / "install-operators.sh"

# The stand-in fails when its call contains $FAIL_ON, answers as an API server that has everything, and no ingress class
# unless $INGRESS_CLASS is set.
_STAND_IN = """#!/bin/sh
[ "$#" -gt 0 ] && echo "$(basename "$0") $*" >>"$CALLS"
case "$*" in
*"${FAIL_ON:-nothing fails}"*) echo "stand-in: refused" >&2; exit 1 ;;
"get ingressclass"*) echo "$INGRESS_CLASS" ;;
"status ingress-nginx"*) exit 1 ;;
"config current-context") echo test-cluster ;;
"create --dry-run=server"*)
    cat >/dev/null
    [ -z "$ANSWER" ] || { echo "$ANSWER" >&2; exit 1; } ;;
esac
"""


class Script:
    def __init__(self, folder: Path) -> None:
        self._programs = folder / "bin"
        self._calls = folder / "calls"
        self._programs.mkdir()
        for program in ("helm", "kubectl", "sleep"):
            (self._programs / program).write_text(_STAND_IN)
            (self._programs / program).chmod(0o755)

    def without(self, program: str) -> None:
        """Only what the script needs besides is on the path then."""
        (self._programs / program).unlink()
        for needed in ("bash", "sed", "mktemp", "rm", "cat", "grep", "basename", "env", "sh"):
            (self._programs / needed).symlink_to(str(shutil.which(needed)))

    def run(self, *words: str, alone: bool = False, **environment: str) -> subprocess.CompletedProcess[str]:
        path = str(self._programs) if alone else f"{self._programs}:{os.environ['PATH']}"
        self._calls.write_text("")
        given = {"PATH": path, "CALLS": str(self._calls), "INGRESS_CLASS": "", "ANSWER": "", **environment}
        return subprocess.run(
            [str(shutil.which("bash")), str(_SCRIPT), *words],
            capture_output=True,
            text=True,
            check=False,
            env=given,
            timeout=60,
        )

    @property
    def calls(self) -> list[str]:
        return self._calls.read_text().splitlines()


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return Script(tmp_path)


def test_shellcheck_has_nothing_to_say() -> None:
    shellcheck = installed_program("shellcheck", "shellcheck")
    assert subprocess.run([shellcheck, _SCRIPT], capture_output=True, text=True, check=False).stdout == ""


def test_the_plan_names_each_operator_of_the_page_and_its_namespace(script: Script) -> None:
    plan = script.run("--dry-run").stdout.splitlines()
    begins = [line for line in plan if "→ namespace " in line]
    for operator, row in ours()["Operators"].rows.items():
        first = operator.split(" (")[0].lower()
        matching = [line for line in begins if line.lower().startswith(first)]
        assert [line.rsplit(" ", 1)[1] for line in matching] == [row["namespace"]], operator
    assert len(begins) == len(ours()["Operators"].rows) + 2  # cert-manager and the controller


def test_the_plan_asks_no_cluster(script: Script) -> None:
    assert script.run("--dry-run").returncode == 0
    assert script.calls == []


def _changes(lines: list[str]) -> list[str]:
    return [line.strip() for line in lines if re.match(r" *(helm upgrade|kubectl (apply|wait|--namespace))", line)]


def test_what_is_done_is_what_was_planned(script: Script) -> None:
    plan = script.run("--dry-run").stdout.splitlines()
    planned = [" ".join(shlex.split(line)) for line in _changes(plan)]  # the plan can be pasted into a shell
    done = script.run()
    assert done.returncode == 0, done.stderr
    assert _changes(script.calls) == planned
    assert len(planned) > 20


def test_a_second_run_does_the_same_and_nothing_in_it_may_be_done_only_once(script: Script) -> None:
    script.run()
    first = script.calls
    assert script.run().returncode == 0
    assert script.calls == first
    changing = [call for call in first if call.startswith(("helm ", "kubectl apply", "kubectl create"))]
    for call in changing:
        assert "upgrade --install" in call or "--server-side" in call or "--dry-run=server" in call or "status" in call


def test_every_version_is_pinned(script: Script) -> None:
    script.run()
    for call in script.calls:
        assert "latest" not in call
        if "upgrade --install" in call:
            assert re.search(r"--version v?\d+\.\d+\.\d+ ", call), call
        if "https://" in call and "apply" in call:
            assert re.search(r"/(v|Chart-)\d+\.\d+\.\d+/", call), call


def test_what_needs_certificates_comes_after_what_makes_them(script: Script) -> None:
    script.run()
    text = "\n".join(script.calls)
    ready = text.index("deployment/cert-manager-webhook")
    assert ready < text.index("cluster-operator.yml")
    assert ready < text.index("install jaeger-operator")


def test_each_definition_is_waited_for(script: Script) -> None:
    script.run()
    waited = " ".join(call for call in script.calls if "condition=Established" in call)
    for kind in ("clusters.postgresql", "redisfailovers", "rabbitmqclusters", "sealedsecrets", "jaegers"):
        assert f"crd/{kind}" in waited


def test_each_webhook_is_asked_before_the_end(script: Script) -> None:
    script.run()
    assert sum("create --dry-run=server" in call for call in script.calls) == 3


def test_a_refusal_is_an_answer_of_a_webhook(script: Script) -> None:
    done = script.run(ANSWER='admission webhook "vcluster.cnpg.io" denied the request: spec.instances')
    assert done.returncode == 0
    assert not any(call.startswith("sleep") for call in script.calls)


@pytest.mark.parametrize(
    "answer",
    [
        'Internal error: failed calling webhook "x": no endpoints',
        "no matches for kind Cluster",
        "dial tcp: i/o timeout",
    ],
)
def test_a_webhook_that_does_not_answer_is_waited_for_and_then_named(script: Script, answer: str) -> None:
    done = script.run(ANSWER=answer)
    assert done.returncode == 1
    assert f"the webhook of Cluster/postgresql.cnpg.io/v1 does not answer: {answer}" in done.stderr
    assert script.calls.count("sleep 2") == 59
    assert not any("redis" in call for call in script.calls)


@pytest.mark.parametrize("row", SETTINGS_OF_THE_SCRIPT)
def test_the_class_of_volumes_is_as_the_page_says(script: Script, row: str) -> None:
    script.run()
    (call,) = [call for call in script.calls if "install longhorn " in call]
    assert f"--set {SETTINGS_OF_THE_SCRIPT[row]}={ours()['Settings'][row]['value']} " in call


def test_the_class_of_volumes_has_one_owner() -> None:
    manifests = [path.read_text() for path in (CHECKOUT / "k8s").rglob("*.yaml")]
    assert not any("kind: StorageClass" in text for text in manifests)


def test_a_controller_that_is_there_is_left_alone(script: Script) -> None:
    done = script.run(INGRESS_CLASS="ingressclass.networking.k8s.io/nginx")
    assert done.returncode == 0
    assert not any("install ingress-nginx" in call for call in script.calls)
    assert "left alone" in done.stdout


@pytest.mark.parametrize("program", ["helm", "kubectl"])
def test_a_missing_program_is_named(script: Script, program: str) -> None:
    script.without(program)
    done = script.run(alone=True)
    assert done.returncode == 1
    assert done.stderr.startswith(f"install-operators: {program} is missing: ")
    assert not any("upgrade" in call for call in script.calls)


def test_a_cluster_that_cannot_be_reached_stops_it_before_anything_is_done(script: Script) -> None:
    done = script.run(FAIL_ON="version --request-timeout")
    assert done.returncode == 1
    assert "reaches no cluster" in done.stderr
    assert "test-cluster" in done.stderr
    assert not any("upgrade" in call for call in script.calls)


def test_a_failed_step_stops_it_and_is_named(script: Script) -> None:
    done = script.run(FAIL_ON="upgrade --install cnpg")
    assert done.returncode == 1
    assert "install-operators: failed: helm upgrade --install cnpg" in done.stderr
    assert not any("redis" in call for call in script.calls)


@pytest.mark.parametrize("word", ["--dryrun", "prod"])
def test_an_unknown_word_changes_nothing(script: Script, word: str) -> None:
    done = script.run(word)
    assert done.returncode == 1
    assert f"unknown: {word}" in done.stderr
    assert script.calls == []


def test_help_tells_every_word(script: Script) -> None:
    done = script.run("--help")
    assert done.returncode == 0
    assert all(word in done.stdout for word in ("--dry-run", "--help", "TIMEOUT"))
    assert "set -euo" not in done.stdout


def test_a_timeout_without_a_unit_is_refused(script: Script) -> None:
    assert "TIMEOUT=10" in script.run(TIMEOUT="10").stderr


def test_the_page_of_ends_has_the_versions_of_the_script() -> None:
    pins = dict(re.findall(r"^(\w+)=(v?\d+\.\d+\.\d+)", _SCRIPT.read_text(), re.MULTILINE))
    page = tables((CHECKOUT / "docs" / "end-of-life.md").read_text())["Pinned"]
    assert {row["name in the script"]: row["version"] for row in page.rows.values()} == pins
