"""What `kubectl apply -k k8s/overlays/…` sends to a cluster: right by the page, by the rules and by the schemas."""

import pytest
import yaml  # type: ignore[import-untyped]

from tests.housekeeping.k8s_cluster import Cluster, mappings
from tests.housekeeping.k8s_facts import rows_without_a_check, wrong_facts
from tests.housekeeping.k8s_rule import Rule, broken
from tests.housekeeping.k8s_rules import EVERY_RULE
from tests.housekeeping.k8s_schemas import built_in, faults_of_built_in, faults_of_custom, folder_of_schemas
from tests.housekeeping.k8s_sizes import asked_for
from tests.housekeeping.k8s_tables import CHECKOUT, ENVIRONMENTS

_COMPONENTS = sorted(path.parent.name for path in (CHECKOUT / "k8s" / "components").glob("*/kustomization.yaml"))


@pytest.fixture(params=ENVIRONMENTS)
def cluster(request: pytest.FixtureRequest) -> Cluster:
    return Cluster.rendered(request.param)


def test_every_row_of_the_page_is_true(cluster: Cluster) -> None:
    assert wrong_facts(cluster) == []


def test_every_row_of_the_page_is_looked_at() -> None:
    assert rows_without_a_check() == []


@pytest.mark.parametrize("check", EVERY_RULE, ids=lambda check: check.__name__)
def test_every_rule_holds(cluster: Cluster, check: Rule) -> None:
    assert broken(check, cluster) == []


def test_built_in_kinds_are_spelt_right(cluster: Cluster) -> None:
    assert [fault for each in cluster.objects if built_in(each) for fault in faults_of_built_in(each)] == []


def test_custom_resources_are_what_their_definitions_allow(cluster: Cluster) -> None:
    folder = folder_of_schemas()
    assert [fault for each in cluster.objects if not built_in(each) for fault in faults_of_custom(each, folder)] == []


# Each alone, and all at once: two may be right by themselves and contradict each other.
_CHOICES = [(each,) for each in _COMPONENTS] + [tuple(_COMPONENTS)]


@pytest.fixture(params=_CHOICES, ids="+".join)
def extended(request: pytest.FixtureRequest) -> Cluster:
    return Cluster.rendered_with(*request.param)


def test_an_optional_component_adds_something(extended: Cluster) -> None:
    assert extended.objects != Cluster.rendered("prod").objects


@pytest.mark.parametrize("check", EVERY_RULE, ids=lambda check: check.__name__)
def test_every_rule_holds_with_optional_components(extended: Cluster, check: Rule) -> None:
    assert broken(check, extended) == []


def test_every_row_of_the_page_is_true_with_optional_components(extended: Cluster) -> None:
    assert wrong_facts(extended) == []


def test_optional_components_are_spelt_right(extended: Cluster) -> None:
    folder = folder_of_schemas()
    assert [f for each in extended.objects if built_in(each) for f in faults_of_built_in(each)] == []
    assert [f for each in extended.objects if not built_in(each) for f in faults_of_custom(each, folder)] == []


def test_names_are_nowhere_prefixed_and_selectors_nowhere_labelled() -> None:
    """A prefix would miss every name inside a custom resource; a label in a selector could never be changed again."""
    for path in (CHECKOUT / "k8s").rglob("kustomization.yaml"):
        words = yaml.safe_load(path.read_text())
        assert not {"namePrefix", "nameSuffix", "commonLabels"} & set(words), path
        assert not any(each.get("includeSelectors") for each in words.get("labels", [])), path


def test_no_overlay_includes_what_is_optional(cluster: Cluster) -> None:
    overlay = yaml.safe_load((CHECKOUT / "k8s" / "overlays" / cluster.environment / "kustomization.yaml").read_text())
    assert "components" not in overlay
    assert not any("components" in each for each in overlay["resources"])
    assert len(_COMPONENTS) >= 4


def test_no_value_of_a_secret_is_rendered(cluster: Cluster) -> None:
    assert cluster.of("Secret") == []
    plain = [
        each["name"]
        for each in mappings(cluster.workloads())
        if "value" in each and any(word in str(each.get("name")) for word in ("PASSWORD", "TOKEN", "SECRET"))
    ]
    assert plain == []


def test_what_an_environment_asks_for_is_what_the_page_of_sizes_says(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, expected = asked_for(cluster)
    with capsys.disabled():
        print(f"\n{cluster.environment}: {rows['together']}", end=" ")
    assert rows == expected
