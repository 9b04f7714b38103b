"""What was measured: nouns that become JSON, and from there a table and plots."""

import statistics
from dataclasses import dataclass, field
from typing import Self

import msgspec


@dataclass(frozen=True, slots=True)
class Goal:
    """What is wanted, in the figure's own unit; as a ratio where the figure has something beside it."""

    at_least: float
    better: float | None = None
    less_is_better: bool = False

    def is_met_by(self, value: float) -> bool:
        return value <= self.at_least if self.less_is_better else value >= self.at_least

    def is_surpassed_by(self, value: float) -> bool:
        """Whether nothing better is wanted."""
        best = self.at_least if self.better is None else self.better
        return value <= best if self.less_is_better else value >= best


IDLE_MIB = Goal(120, 60, less_is_better=True)  # of any of our processes


@dataclass(frozen=True, slots=True)
class Figure:
    """One number, as several runs gave it."""

    name: str
    unit: str
    values: list[float]
    beside: list[float] | None = None  # what it is compared with, from the same run
    beside_name: str = "nginx"
    goal: Goal | None = None
    scales: bool = True  # an absolute goal holds for a machine as fast as the goals' own: scaled by nginx's figure

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def ratio(self) -> float | None:
        return self.median / statistics.median(self.beside) if self.beside else None


@dataclass(frozen=True, slots=True)
class Curve:
    """One number over another, for several who were asked the same."""

    title: str
    across: str  # what the horizontal axis says
    up: str
    lines: dict[str, list[tuple[float, float]]]


@dataclass(slots=True)
class Answer:
    """All that one question gave."""

    question: str
    title: str
    command: str
    nginx_scale: float = 0.0  # nginx's redirects a second in its run, by those of the machine of absolute goals
    seconds: float = 0.0
    processes: list[str] = field(default_factory=list)  # which ran where
    figures: list[Figure] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    checks: list[str] = field(default_factory=list)  # what was found in order afterwards
    failure: str = ""


@dataclass(slots=True)
class Results:
    """One run of the harness on one machine."""

    machine: dict[str, str]
    effort: str
    began: str
    answers: list[Answer] = field(default_factory=list)

    def as_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        return msgspec.json.decode(text, type=cls)
