"""What must hold after any bad day. Each checker looks from outside: at what visitors got, and at what the stores say.

None of them asks a service how it did. A checker that finds nothing returns nothing; what it finds has a name, which
the negative controls expect (controls.py).
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field

from drill.history import REDIRECTS, History, Outcome, Request, Stream
from drill.load import Plan, target_of
from urlshortener.stats.redis import GRACE_SECONDS


@dataclass(frozen=True)
class Violation:
    checker: str
    what: str
    by: int = 1  # how many accesses, links, numbers
    at_ns: int = 0  # when the request was sent that it is about, where it is about one


@dataclass(frozen=True)
class Evidence:
    """All that was seen, once nothing was under way any more."""

    plan: Plan
    history: History
    counts: Mapping[str, int]  # of each code of the plan, as the analytics say
    strangers: int  # codes that got a count meanwhile and are not of the plan
    links: Mapping[str, Mapping[str, str]]  # node -> code -> target
    keys: Mapping[str, Mapping[str, Sequence[str]]]  # node -> idempotency key -> codes
    left: Mapping[str, float] = field(default_factory=dict)  # what should be empty -> what was left in it
    dead_letters: int = 0
    digests: Mapping[str, str] = field(default_factory=dict)  # node -> of all that its Redis holds
    published: Mapping[str, Set[int]] = field(default_factory=dict)  # epoch -> the numbers that the witness saw
    counted: Mapping[str, Set[int]] = field(default_factory=dict)  # epoch -> the numbers that are in the counts
    grace_seconds: float = GRACE_SECONDS  # for so long a count may have fallen


def check(evidence: Evidence) -> list[Violation]:
    return [violation for checker in CHECKERS for violation in checker(evidence)]


@dataclass
class _Asked:
    ok: int = 0
    at_most: int = 0  # with those whose outcome nobody knows
    first: Request | None = None


def _asked(evidence: Evidence) -> dict[str, _Asked]:
    asked: dict[str, _Asked] = defaultdict(_Asked)
    for request in evidence.history.of(*REDIRECTS):
        of_code = asked[request.what]
        of_code.ok += request.is_ok
        of_code.at_most += request.outcome is not Outcome.FAIL
        of_code.first = of_code.first or request
    return asked


def lost_and_duplicated(evidence: Evidence) -> Iterator[Violation]:
    """ok <= count <= ok + unknown, for each code. For one that was asked for once that is exactly once."""
    for code, asked in _asked(evidence).items():
        count = evidence.counts[code]
        at_ns = asked.first.sent_ns if asked.first and asked.first.stream is Stream.ONE_SHOT else 0
        if count < asked.ok:
            yield Violation("lost", f"{code}: {asked.ok} answered, {count} counted", asked.ok - count, at_ns)
        if count > asked.at_most:
            what = f"{code}: at most {asked.at_most} asked, {count} counted"
            yield Violation("duplicated", what, count - asked.at_most, at_ns)


def phantom(evidence: Evidence) -> Iterator[Violation]:
    """Nobody is counted who never came."""
    asked = {request.what for request in evidence.history.of(*REDIRECTS)}
    for code, count in evidence.counts.items():
        if count and code not in asked:
            yield Violation("phantom", f"{code}: nobody asked, {count} counted", count)
    if evidence.strangers:
        yield Violation("phantom", f"{evidence.strangers} codes are counted that are not of this plan")


def wrong_answers(evidence: Evidence) -> Iterator[Violation]:
    """No known link leads elsewhere or is said not to exist, whatever is broken."""
    for request in evidence.history.requests:
        if request.outcome is Outcome.WRONG:
            what = f"{request.stream} {request.what}: {request.detail}"
            yield Violation("wrong answer", what, at_ns=request.sent_ns)


def creates(evidence: Evidence) -> Iterator[Violation]:
    """What was acknowledged is on every node, with its address; each key made one link at the most."""
    acknowledged: dict[str, set[str]] = defaultdict(set)
    for request in evidence.history.of(Stream.CREATE):
        if request.is_ok:
            acknowledged[request.what].add(request.detail)
    for key, codes in acknowledged.items():
        if len(codes) > 1:
            yield Violation("duplicated create", f"{key} was answered with {sorted(codes)}", len(codes) - 1)
    for node, links in evidence.links.items():
        for key, codes in acknowledged.items():
            for code in codes:
                if links.get(code) != target_of(key):
                    yield Violation("lost create", f"{key}: {code} on {node} leads to {links.get(code)}")
        made = Counter(links.values())
        asked_for = {request.what for request in evidence.history.of(Stream.CREATE)}
        for key in asked_for:
            if made[target_of(key)] > 1:
                yield Violation("duplicated create", f"{key} made {made[target_of(key)]} links on {node}")
            if len(evidence.keys[node].get(key, ())) > 1:
                yield Violation("duplicated create", f"{key} stands {len(evidence.keys[node][key])} times on {node}")


@dataclass(frozen=True)
class Fall:
    """A count that went down, and when it was seen to have been made good."""

    code: str
    depth: int
    began_ns: int
    seconds: float  # infinite, if it never was


def falls(history: History) -> list[Fall]:
    """What a look sees is compared with looks that had ended before it began: the others may overtake each other."""
    looks: dict[str, list[Request]] = defaultdict(list)
    for request in history.of(Stream.COUNT):
        if request.is_ok:
            looks[request.what].append(request)
    return [fall for code, of_code in looks.items() for fall in _falls_of(code, of_code)]


def _falls_of(code: str, looks: list[Request]) -> Iterator[Fall]:
    looks.sort(key=lambda look: look.ended_ns)
    highest = 0
    fallen: Request | None = None
    depth = 0
    ended: list[tuple[int, int]] = []  # when a look ended, and the highest count until then
    at = 0
    for look in sorted(looks, key=lambda look: look.sent_ns):
        while at < len(looks) and looks[at].ended_ns <= look.sent_ns:
            highest = max(highest, int(looks[at].detail))
            ended.append((looks[at].ended_ns, highest))
            at += 1
        count = int(look.detail)
        if count < highest:
            fallen = fallen or look
            depth = max(depth, highest - count)
        elif fallen:
            yield Fall(code, depth, fallen.sent_ns, (look.ended_ns - fallen.sent_ns) / 1e9)
            fallen, depth = None, 0
    if fallen:  # nobody looked any more: whether it healed is for the counts at the end to tell
        yield Fall(code, depth, fallen.sent_ns, (looks[-1].ended_ns - fallen.sent_ns) / 1e9)


def monotone(evidence: Evidence) -> Iterator[Violation]:
    """Counts grow. A store that forgot its last moment is made good within the grace."""
    for fall in falls(evidence.history):
        if fall.seconds > evidence.grace_seconds:
            what = f"{fall.code} fell by {fall.depth} for {fall.seconds:.1f} s"
            yield Violation("fallen count", what, fall.depth, fall.began_ns)


def replicas(evidence: Evidence) -> Iterator[Violation]:
    """All nodes hold the same."""
    if len(set(evidence.digests.values())) > 1:
        yield Violation("unequal replicas", f"Redis: {dict(evidence.digests)}")
    every = [set(links.items()) for links in evidence.links.values()]
    if any(links != every[0] for links in every):
        sizes = {node: len(links) for node, links in evidence.links.items()}
        yield Violation("unequal replicas", f"PostgreSQL: links {sizes}")


def drained(evidence: Evidence) -> Iterator[Violation]:
    """Everything has arrived; what is still on its way after the limit is a failure, not a maybe."""
    for where, left in evidence.left.items():
        if left:
            yield Violation("not drained", f"{where}: {left:g}", int(left) or 1)
    if evidence.dead_letters:
        yield Violation("dead letters", f"{evidence.dead_letters} good events were set aside", evidence.dead_letters)


def second_witness(evidence: Evidence) -> Iterator[Violation]:
    """A queue of ours beside the counted one tells what was not published from what was not counted."""
    for epoch, numbers in evidence.published.items():
        if missing := max(numbers) + 1 - len(numbers):
            yield Violation("not published", f"epoch {epoch}: {missing} of {max(numbers) + 1} numbers", missing)
        counted = evidence.counted.get(epoch, frozenset())
        if missing := len(numbers - counted):
            yield Violation("not counted", f"epoch {epoch}: {missing} were published", missing)
        if extra := len(counted - numbers):
            yield Violation("not published", f"epoch {epoch}: {extra} were counted, and the witness has none", extra)


CHECKERS: Sequence[Callable[[Evidence], Iterator[Violation]]] = (
    lost_and_duplicated,
    phantom,
    wrong_answers,
    creates,
    monotone,
    replicas,
    drained,
    second_witness,
)
