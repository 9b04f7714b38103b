"""Which acknowledgements may be told to a broker that understands "all up to here"."""

from hypothesis import given
from hypothesis import strategies as st

from urlshortener.events.amqp_source import Prefix


@given(st.lists(st.integers(1, 30)))
def test_the_prefix_ends_before_the_first_delivery_that_is_not_acknowledged(tags: list[int]) -> None:
    prefix = Prefix()
    for number, tag in enumerate(tags, start=1):
        before = prefix.end
        grown = prefix.add(tag)
        acknowledged = set(tags[:number])
        assert set(range(1, prefix.end + 1)) <= acknowledged
        assert prefix.end + 1 not in acknowledged
        assert grown == (prefix.end > before)
        assert len(prefix) == len(acknowledged)


@given(st.permutations(range(1, 20)))
def test_when_all_are_acknowledged_in_any_order_the_prefix_is_all(tags: list[int]) -> None:
    prefix = Prefix()
    for tag in tags:
        prefix.add(tag)
    assert prefix.end == 19
