"""A server of ours and nginx, asked the same in turn: what the machine does to one it does to the other."""

from dataclasses import dataclass, field
from pathlib import Path

from bench.harness.closed_loop import Load
from bench.harness.results import Goal
from bench.harness.run import Run


@dataclass
class Beside:
    """`ours` and `theirs` hold every load that was sent, the warm-up too: what was answered must be accounted for."""

    run: Run
    our_url: str
    their_url: str
    ours: list[Load] = field(default_factory=list)
    theirs: list[Load] = field(default_factory=list)

    @property
    def urls(self) -> tuple[str, str]:
        return self.our_url, self.their_url

    def warm_up(self, requests: Path) -> None:
        for loads, url in zip((self.ours, self.theirs), self.urls, strict=True):
            if self.run.effort.warm_up_seconds:
                loads.append(self.run.load(url, requests, seconds=self.run.effort.warm_up_seconds))

    def both(self, requests: Path, connections: int) -> tuple[Load, Load]:
        """Ours first, then nginx."""
        self.ours.append(self.run.load(self.our_url, requests, connections))
        self.theirs.append(self.run.load(self.their_url, requests, connections))
        return self.ours[-1], self.theirs[-1]

    def figures(self, requests: Path, connections: int, goal: Goal, name: str = "redirects") -> None:
        """Throughput and p99 over all rounds."""
        pairs = [self.both(requests, connections) for _ in self.run.rounds()]
        ours, theirs = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        self.run.figure(
            f"{name}, {connections:,} connections",
            "1/s",
            [load.a_second for load in ours],
            beside=[load.a_second for load in theirs],
            goal=goal,
        )
        self.run.figure(
            f"{name}: p99 at full load, {connections:,} connections",
            "ms",
            [load.p99_ms for load in ours],
            beside=[load.p99_ms for load in theirs],
        )
