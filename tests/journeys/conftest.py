"""`system`: the same journeys in both shapes."""

from collections.abc import Iterator

import pytest

from tests.journeys.systems import System, all_in_one, two_services


@pytest.fixture(scope="module", params=["all in one", "two services"])
def system(request: pytest.FixtureRequest) -> Iterator[System]:
    """A running system for the journeys of one file, which must not break it."""
    if request.param == "all in one":
        made = all_in_one()
    else:
        postgresql = request.getfixturevalue("postgresql")
        rabbitmq = request.getfixturevalue("rabbitmq")
        redis = request.getfixturevalue("redis_server")
        made = two_services(
            postgresql, postgresql.fresh_database(), rabbitmq, rabbitmq.fresh_vhost(), redis, redis.fresh_database()
        )
    try:
        made.start()
        yield made
    finally:
        made.close()
