"""The drill runs what production runs."""

from dataclasses import fields

import pytest

from drill.manifests import ADDITIONS, DIFFERENCES, Production
from drill.servers import service_settings
from tests.backends.server import ServerMissing


@pytest.fixture(scope="module")
def production() -> Production:
    try:
        return Production.rendered()
    except ServerMissing as missing:
        pytest.skip(str(missing))


def test_every_difference_is_one_from_something_that_production_has(production: Production) -> None:
    systems = {field.name for field in fields(production)}
    for difference in set(DIFFERENCES) - {"postgresql operator"}:
        system, _, name = difference.partition(" ")
        assert system in systems
        assert name in getattr(production, system), f"{difference} is no difference any more"


def test_what_is_added_is_what_production_does_not_say_or_a_difference(production: Production) -> None:
    for system, settings in ADDITIONS.items():
        for name in settings:
            if name in getattr(production, system):
                assert f"{system} {name}" in DIFFERENCES, f"{system} {name} is overruled without a word"


def test_what_counts_depend_on_is_taken_as_it_stands(production: Production) -> None:
    redis = production.used("redis")
    assert redis["appendonly"] == "yes"
    assert redis["maxmemory-policy"] == "noeviction"
    assert int(redis["min-replicas-to-write"]) >= 1
    assert production.redis_start_delay_seconds * 1000 > int(production.used("sentinel")["down-after-milliseconds"])
    assert production.replicas_to_wait_for == 1
    assert production.used("ingress")["proxy-next-upstream"] == "error timeout"


def test_services_have_the_settings_of_production_where_no_address_is_in_them(production: Production) -> None:
    settings = service_settings()
    for name, value in production.used("service").items():
        assert settings[name] == value
