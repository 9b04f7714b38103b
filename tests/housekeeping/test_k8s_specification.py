"""docs/infrastructure.md and the specification it answers to, where that is at hand, say the same in every row."""

import pytest

from tests.housekeeping.k8s_tables import CHECKOUT, ENVIRONMENTS, Table, ours, tables

_SPECIFICATION = CHECKOUT.parent / "shared" / "spec" / "infrastructure.md"


@pytest.fixture(scope="module")
def specified() -> dict[str, Table]:
    if not _SPECIFICATION.exists():
        pytest.skip(f"the specification is not at {_SPECIFICATION}")
    return tables(_SPECIFICATION.read_text())


@pytest.mark.parametrize("service", ["shortener-service", "analytics-service"])
def test_the_services_are_those_of_the_specification(specified: dict[str, Table], service: str) -> None:
    row, sizes, environments = (
        specified["Application Services"][service],
        ours()["Sizes"][service],
        ours()["Environments"],
    )
    assert environments[f"pods of {service}"]["prod"] == row["Replicas"]
    assert row["PDB"] == f"minAvailable: {environments['kept through a drain, of each service']['prod']}"
    for column in ("CPU Request", "Memory Request", "CPU Limit", "Memory Limit"):
        assert sizes[_column(column)] == row[column]
    assert len(specified["Application Services"].rows) == 2


def _column(name: str) -> str:
    amount, _, kind = name.partition(" ")
    return f"{'CPU' if amount == 'CPU' else amount.lower()} {kind.lower()}"


def test_the_ingress_is_that_of_the_specification(specified: dict[str, Table]) -> None:
    wanted = {name: row["Value"] for name, row in specified["Ingress"].rows.items()}
    settings = ours()["Settings"]
    assert wanted.pop("Controller").startswith(settings["class of the Ingress"]["value"])
    assert wanted.pop("TLS") == f"Enabled (secretName: {settings['secret with the certificate']['value']})"
    for environment in ENVIRONMENTS:
        assert ours()["Environments"]["host"][environment] == wanted.pop(f"Host ({environment})")
    assert not wanted


@pytest.mark.parametrize(
    ("heading", "system", "count"),
    [
        ("PostgreSQL (CloudNativePG)", "PostgreSQL", "instances of PostgreSQL"),
        ("RabbitMQ", "RabbitMQ", "nodes of RabbitMQ"),
    ],
)
def test_a_system_on_volumes_is_that_of_the_specification(
    specified: dict[str, Table], heading: str, system: str, count: str
) -> None:
    wanted = {name: row["Value"] for name, row in specified[heading].rows.items()}
    sizes = ours()["Sizes"][system]
    number = wanted.pop("Instances", None) or wanted.pop("Replicas")
    assert number.split()[0] == ours()["Environments"][count]["prod"]
    assert wanted.pop("Storage") == f"{sizes['volume']} ({ours()['Settings']['class of volumes']['value'].title()})"
    for column in ("CPU Request", "Memory Request", "CPU Limit", "Memory Limit"):
        assert sizes[_column(column)] == wanted.pop(column)
    for name in list(wanted):
        assert ours()["Settings"][f"{system} {name}"]["value"] == wanted.pop(name)


@pytest.mark.parametrize("component", ["Redis", "Sentinel"])
def test_redis_is_that_of_the_specification(specified: dict[str, Table], component: str) -> None:
    row = specified["Redis (Sentinel)"][component]
    assert ours()["Environments"][component]["prod"] == row["Replicas"]
    assert ours()["Sizes"][component]["CPU request"] == row["CPU Request"]
    assert ours()["Sizes"][component]["memory request"] == row["Memory Request"]


def test_tracing_is_that_of_the_specification(specified: dict[str, Table]) -> None:
    names = {"OTEL Collector": "OpenTelemetry collector", "Jaeger": "Jaeger", "Elasticsearch": "Elasticsearch"}
    wanted = specified["Observability"]
    assert set(wanted.rows) == set(names)
    for theirs, our_name in names.items():
        assert ours()["Versions"][our_name]["version"] == wanted[theirs]["Version"].split()[0]
    assert ours()["Settings"]["traces are kept for"]["value"] == wanted["Jaeger"]["Retention"]
    assert f"{ours()['Sizes']['Elasticsearch']['volume']} (Longhorn)" == wanted["Elasticsearch"]["Storage"]


def test_storage_is_that_of_the_specification(specified: dict[str, Table]) -> None:
    names = {"Replication Factor": "copies of a volume", "Data Locality": "locality of a volume's data"}
    wanted = specified["Storage (Longhorn)"]
    assert {ours()["Settings"][names[name]]["value"] for name in wanted.rows} == {
        r["Value"] for r in wanted.rows.values()
    }


def test_the_environments_are_those_of_the_specification(specified: dict[str, Table]) -> None:
    names = {
        "PostgreSQL Instances": "instances of PostgreSQL",
        "Redis Replicas": "Redis",
        "Redis Sentinel": "Sentinel",
        "RabbitMQ Replicas": "nodes of RabbitMQ",
    }
    page = ours()["Environments"]
    for name, row in specified["Environment Comparison"].rows.items():
        for environment in ENVIRONMENTS:
            wanted = row[environment.title()]
            if name == "App Replicas":
                assert page["pods of shortener-service"][environment] == wanted
                assert page["pods of analytics-service"][environment] == wanted
            elif name == "Ingress Host":
                assert page["host"][environment].endswith(wanted.removeprefix("*"))
            else:
                assert page[names[name]][environment] == wanted


def test_the_operators_are_those_of_the_specification(specified: dict[str, Table]) -> None:
    wanted = {name.lower(): row["Namespace"] for name, row in specified["Operators Required"].rows.items()}
    assert {name.lower(): row["namespace"] for name, row in ours()["Operators"].rows.items()} == wanted


def test_the_promises_are_those_of_the_specification(specified: dict[str, Table]) -> None:
    names = {"App Pod": "services", "Storage Node": "Longhorn", "Trace Data": "traces"}
    in_our_words = {
        "Immediate": "at once",
        "Automatic": "by itself",
        "None": "no interruption",
    }
    kinds = {"None": "nothing", "Minimal": "little"}
    wanted = specified["HA Guarantees"].rows
    assert {names.get(name, name) for name in wanted} == set(ours()["Promises"].rows)
    for name, row in wanted.items():
        promise = ours()["Promises"][names.get(name, name)]
        time = row["Recovery Time"]
        assert promise["back after"] == in_our_words.get(time, time.replace("-", "–").replace("seconds", "s"))
        assert promise["lost"].split(":")[0] == kinds[row["Data Loss"].split(" ")[0]]


def test_every_address_of_the_specification_is_on_the_page(specified: dict[str, Table]) -> None:
    drawing = _SPECIFICATION.read_text().partition("## Network Architecture")[2].partition("## Operators")[0]
    ports = {word.split(":")[1] for word in drawing.replace("│", " ").split() if ":" in word and word[-1].isdigit()}
    assert specified
    assert ports == {row["at"].split(":")[1] for row in ours()["Addresses"].rows.values()}
