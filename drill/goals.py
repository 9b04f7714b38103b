"""What each kind of fault may do at most: the figures that the drill is measured by."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from urlshortener.links.directory import COLD_SECONDS
from urlshortener.links.writes import LONGEST_PAUSE_SECONDS

_ONE_OF_MANY = ("PostgreSQL", "RabbitMQ", "Redis", "Sentinel", "etcd", "analytics")
_LEADERS = ("PostgreSQL primary", "RabbitMQ leader", "Redis master", "analytics")
# A hung process takes connections and answers none; whoever was sent to it waits for the proxy's limits.
_NO_GOAL_WHILE_HUNG = ("shortener", "node")
_NO_GOAL = ("nginx", "run", "spool disk")
_COLD_MS = 1000

_SMALL = (
    "The nodes, the edges and the senders share the machine's processors, and what a fault starts (elections, a server "
    "that comes back) takes the rest of them. It would take more processors."
)
# Why a goal is missed, as far as it was found out: by the goal, and how the fault's name begins.
_WHY = {
    ("p99", ""): _SMALL,
    ("creates", "PostgreSQL primary, killed"): (
        f"Until another is primary, the time is Patroni's; the rest is that of connecting to it. {_SMALL}"
    ),
    ("creates", "PostgreSQL primary, hung"): (
        f"Creates that wait pause for at most {LONGEST_PAUSE_SECONDS * 1.5:g} s before they ask for the primary again."
    ),
    ("cold codes", ""): f"A visitor waits {COLD_SECONDS:g} s; the rest is the way there and back. {_SMALL}",
    ("counts", "RabbitMQ"): (
        "Counts go on after at most half a second, with few exceptions. The longer pause comes when the killed node "
        "joins again, some 3 to 6 s later: then RabbitMQ 3.10 confirms nothing for 0.5 to 2.5 s, while no connection "
        "closes and commits of PostgreSQL go on, on the same disk. It would take a RabbitMQ that does not."
    ),
    ("counts", "Redis master, killed, back at once"): (
        "Sentinel promotes another 2 s after the killed master is back, and lets that call itself one for 10 s more: "
        "the next kill finds two masters and waits, which is in its figure. The start delay of the manifests, which "
        "this fault leaves out, is what it takes."
    ),
}


@dataclass(frozen=True)
class Missed:
    """A goal, what it was instead, and how many times what was allowed."""

    what: str
    words: str
    times: float


def missed(strike: Mapping[str, Any]) -> list[Missed]:
    """The goals that a fault's figures miss. Lost and doubled accesses are the checkers' matter."""
    return list(_missed(strike["fault"], strike["role"], strike["harm_seconds"], strike["figures"]))


def why(fault: str, goal: str) -> str:
    """Why such a fault misses this goal; empty if that is not known."""
    return next((words for (of, begins), words in _WHY.items() if of == goal and fault.startswith(begins)), "")


def _missed(fault: str, role: str, harm_seconds: float, figures: Mapping[str, Any]) -> Iterator[Missed]:
    is_hung = ", hung" in fault and ", hung and killed" not in fault
    failed = sum(figures["redirects"].values()) - figures["redirects"]["asked"]
    if failed and role not in (*_NO_GOAL, *(_NO_GOAL_WHILE_HUNG if is_hung else ())):
        yield Missed("redirects", f"{failed} redirects of known links failed; goal 0", failed)
    if "killed" in fault:
        yield from _missed_by_a_kill(fault, role, figures)
    elif is_hung and role in _LEADERS:
        yield from _missed_by_a_hang(role, harm_seconds, figures)
    elif role == "all PostgreSQL":
        yield from _missed_by_cold_codes(figures)
        yield from _missed_by_answers(figures["cold"], "cold codes")
        yield from _missed_by_answers(figures["creates"], "creates")


def _missed_by_a_kill(fault: str, role: str, figures: Mapping[str, Any]) -> Iterator[Missed]:
    before, within = figures["redirect_ms_before"]["p99"], figures["redirect_ms"]["p99"]
    if role.startswith(_ONE_OF_MANY) and before and within and within >= 5 * before:
        used = f"of the machine {figures['busy_most']:.0%} were in use in its busiest second"
        words = f"p99 {within:.0f} ms; goal 5 times the {before:.1f} ms before; {used}"
        yield Missed("p99", words, within / (5 * before))
    if fault == "PostgreSQL primary, killed":
        yield from _missed_by_creates(figures, 4, "4 s")
    if role.startswith(("Redis", "analytics")):
        yield from _missed_by_counts(figures, 4)
    if role.startswith("RabbitMQ"):
        yield from _missed_by_counts(figures, 1)


def _missed_by_a_hang(role: str, harm_seconds: float, figures: Mapping[str, Any]) -> Iterator[Missed]:
    if role == "PostgreSQL primary":
        yield from _missed_by_creates(figures, harm_seconds + 1, f"its {harm_seconds:.0f} s and 1 s")
    yield from _missed_by_cold_codes(figures)
    yield from _missed_by_counts(figures, 20)


def _missed_by_creates(figures: Mapping[str, Any], goal_seconds: float, goal: str) -> Iterator[Missed]:
    gap = figures["create_gap_seconds"]
    if gap >= goal_seconds:
        replaced = figures["replaced_seconds"]
        of_it = f", and another was primary after {replaced:.1f} s" if replaced else ""
        yield Missed("creates", f"no create for {gap:.1f} s{of_it}; goal {goal}", gap / goal_seconds)


def _missed_by_cold_codes(figures: Mapping[str, Any]) -> Iterator[Missed]:
    cold = figures["cold_ms"]["p99"]
    if cold and cold > _COLD_MS:
        yield Missed("cold codes", f"cold codes p99 {cold:.0f} ms; goal 1 s", cold / _COLD_MS)


def _missed_by_answers(answers: Mapping[str, int], what: str) -> Iterator[Missed]:
    """Nobody hangs, and nobody is told that there is no such link: they are told to come again."""
    otherwise = {how: count for how, count in answers.items() if how not in ("asked", "503-again")}
    if otherwise:
        words = ", ".join(f"{count} {how}" for how, count in sorted(otherwise.items()))
        yield Missed(
            "answers", f"{what} answered otherwise than 503 with Retry-After: {words}", sum(otherwise.values())
        )


def _missed_by_counts(figures: Mapping[str, Any], goal_seconds: float) -> Iterator[Missed]:
    fresh = figures["fresh_after_seconds"]
    if fresh >= goal_seconds:
        yield Missed("counts", f"counts fresh after {fresh:.1f} s; goal {goal_seconds:.0f} s", fresh / goal_seconds)
