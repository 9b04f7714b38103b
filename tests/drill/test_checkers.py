"""Each checker sees what it is there for, and nothing else. Whether a whole drill does, its negative controls say."""

from dataclasses import replace
from typing import Any

import pytest

from drill.checkers import Evidence, check
from drill.history import History, Outcome, Request, Stream
from drill.load import Plan, code_of, target_of

PLAN = Plan("d", 1, [("127.0.1.10", 8080, 8081)], "", 10, {Stream.ONE_SHOT: 1.0}, hot_codes=2, started_ns=0)
SHOT, HOT = code_of("d", Stream.ONE_SHOT, 0), code_of("d", Stream.HOT, 0)
KEY, MADE = code_of("d", Stream.CREATE, 0), "Xy12"


def asked(stream: Stream, what: str, outcome: Outcome = Outcome.OK, detail: str = "307", at: float = 0) -> Request:
    ns = int(at * 1e9)
    return Request(0, stream, what, ns, ns, ns + 1000, outcome, detail)


def seen(*requests: Request, **other: Any) -> Evidence:
    """Two redirects, one create and one look, all of them as they should be, and then what is said otherwise."""
    usual = [
        asked(Stream.ONE_SHOT, SHOT),
        asked(Stream.HOT, HOT),
        asked(Stream.CREATE, KEY, detail=MADE),
        asked(Stream.COUNT, HOT, detail="0"),
    ]
    links = {node: {MADE: target_of(KEY)} for node in ("1", "2", "3")}
    evidence = Evidence(
        plan=PLAN,
        history=History([*usual, *requests]),
        counts={SHOT: 1, HOT: 1, code_of("d", Stream.ONE_SHOT, 9): 0},
        strangers=0,
        links=links,
        keys={node: {KEY: [MADE]} for node in links},
        left={"queue": 0},
        digests={"1": "a", "2": "a", "3": "a"},
        published={"e": {0, 1}},
        counted={"e": {0, 1}},
    )
    return replace(evidence, **other)


def found(evidence: Evidence) -> dict[str, int]:
    return {violation.checker: violation.by for violation in check(evidence)}


def test_a_good_day_is_found_good() -> None:
    assert found(seen()) == {}


@pytest.mark.parametrize(
    ("evidence", "checker"),
    [
        (seen(counts={SHOT: 0, HOT: 1}), "lost"),
        (seen(counts={SHOT: 2, HOT: 1}), "duplicated"),
        (seen(counts={SHOT: 1, HOT: 0}), "lost"),
        (seen(counts={SHOT: 1, HOT: 1, "d-one-shot-9": 1}), "phantom"),
        (seen(strangers=1), "phantom"),
        (seen(asked(Stream.HOT, HOT, Outcome.WRONG, "404"), counts={SHOT: 1, HOT: 1}), "wrong answer"),
        (seen(links={"1": {}}), "lost create"),
        (seen(links={"1": {MADE: "https://elsewhere.example/"}}), "lost create"),
        (seen(links={"1": {MADE: target_of(KEY), "twin": target_of(KEY)}}), "duplicated create"),
        (seen(asked(Stream.CREATE, KEY, detail="twin"), links={}), "duplicated create"),
        (seen(digests={"1": "a", "2": "b"}), "unequal replicas"),
        (seen(left={"queue": 3}), "not drained"),
        (seen(dead_letters=1), "dead letters"),
        (seen(published={"e": {0, 2}}, counted={"e": {0, 2}}), "not published"),
        (seen(counted={"e": {0}}), "not counted"),
        (seen(published={"e": {0, 1}}, counted={"e": {0, 1, 2}}), "not published"),
    ],
)
def test_a_bad_day_is_found_by_the_checker_for_it(evidence: Evidence, checker: str) -> None:
    assert set(found(evidence)) == {checker}


def test_a_request_whose_outcome_nobody_knows_may_be_counted_or_not() -> None:
    unknown = asked(Stream.HOT, HOT, Outcome.INFO, "broken")
    for count in (1, 2):
        assert found(seen(unknown, counts={SHOT: 1, HOT: count})) == {}
    assert found(seen(unknown, counts={SHOT: 1, HOT: 3})) == {"duplicated": 1}


def test_a_request_that_was_never_sent_is_not_counted() -> None:
    refused = asked(Stream.HOT, HOT, Outcome.FAIL, "refused")
    assert found(seen(refused, counts={SHOT: 1, HOT: 2})) == {"duplicated": 1}


@pytest.mark.parametrize(("until", "is_found"), [(3.5, False), (9.0, True)])
def test_a_count_may_fall_for_as_long_as_the_grace_and_no_longer(until: float, is_found: bool) -> None:
    looks = [
        asked(Stream.COUNT, HOT, detail=count, at=at) for count, at in (("9", 1), ("4", 2), ("5", 3), ("9", until))
    ]
    assert ("fallen count" in found(seen(*looks))) is is_found


@pytest.mark.parametrize(("last", "is_found"), [(3.5, False), (9.0, True)])
def test_a_count_that_was_not_seen_to_recover_has_fallen_if_it_was_looked_at_for_so_long(
    last: float, is_found: bool
) -> None:
    looks = [asked(Stream.COUNT, HOT, detail=count, at=at) for count, at in (("9", 1), ("4", 2), ("4", last))]
    assert found(seen(*looks)) == ({"fallen count": 5} if is_found else {})


def test_looks_that_overtake_each_other_are_no_fall() -> None:
    early = Request(0, Stream.COUNT, HOT, 0, 0, int(3e9), Outcome.OK, "4")
    late = Request(1, Stream.COUNT, HOT, 0, int(1e9), int(2e9), Outcome.OK, "9")
    assert found(seen(early, late)) == {}
