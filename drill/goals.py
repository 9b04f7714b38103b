"""What each kind of fault may do at most: the figures that the drill is measured by."""

from collections.abc import Iterator, Mapping
from typing import Any

_ONE_OF_MANY = ("PostgreSQL", "RabbitMQ", "Redis", "Sentinel", "etcd", "analytics")
_LEADERS = ("PostgreSQL primary", "RabbitMQ leader", "Redis master", "analytics")
# A hung process takes connections and answers none; whoever was sent to it waits for the proxy's limits.
_NO_GOAL_WHILE_HUNG = ("shortener", "node")
_NO_GOAL = ("nginx", "run", "spool disk")


def missed(strike: Mapping[str, Any]) -> list[str]:
    """The goals that a fault's figures miss, in words. Lost and doubled accesses are the checkers' matter."""
    return list(_missed(strike["fault"], strike["role"], strike["harm_seconds"], strike["figures"]))


def _missed(fault: str, role: str, harm_seconds: float, figures: Mapping[str, Any]) -> Iterator[str]:
    is_hung = ", hung" in fault and ", hung and killed" not in fault
    failed = sum(figures["redirects"].values()) - figures["redirects"]["asked"]
    if failed and role not in (*_NO_GOAL, *(_NO_GOAL_WHILE_HUNG if is_hung else ())):
        yield f"{failed} redirects of known links failed; goal 0"
    if "killed" in fault:
        yield from _missed_by_a_kill(fault, role, figures)
    elif is_hung and role in _LEADERS:
        yield from _missed_by_a_hang(role, harm_seconds, figures)
    elif role == "all PostgreSQL" and (cold := figures["cold_ms"]["p99"]) and cold > 1000:
        yield f"cold codes p99 {cold:.0f} ms; goal 1 s"


def _missed_by_a_kill(fault: str, role: str, figures: Mapping[str, Any]) -> Iterator[str]:
    before, within = figures["redirect_ms_before"]["p99"], figures["redirect_ms"]["p99"]
    if role.startswith(_ONE_OF_MANY) and before and within and within >= 5 * before:
        used = f"of the machine {figures['busy_most']:.0%} were in use in its busiest second"
        yield f"p99 {within:.0f} ms; goal 5 times the {before:.1f} ms before; {used}"
    if fault == "PostgreSQL primary, killed" and figures["create_gap_seconds"] >= 4:
        yield f"no create for {figures['create_gap_seconds']:.1f} s; goal 4 s"
    fresh = figures["fresh_after_seconds"]
    if role.startswith(("Redis", "analytics")) and fresh >= 4:
        yield f"counts fresh after {fresh:.1f} s; goal 4 s"
    if role.startswith("RabbitMQ") and fresh >= 1:
        yield f"counts fresh after {fresh:.1f} s; goal 1 s"


def _missed_by_a_hang(role: str, harm_seconds: float, figures: Mapping[str, Any]) -> Iterator[str]:
    if role == "PostgreSQL primary" and figures["create_gap_seconds"] >= harm_seconds + 1:
        yield f"no create for {figures['create_gap_seconds']:.1f} s; goal its {harm_seconds:.0f} s and 1 s"
    if (cold := figures["cold_ms"]["p99"]) and cold > 1000:
        yield f"cold codes p99 {cold:.0f} ms; goal 1 s"
    if figures["fresh_after_seconds"] >= 20:
        yield f"counts fresh after {figures['fresh_after_seconds']:.1f} s; goal 20 s"
