"""A row of the table: what was measured, ours beside the peer's."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

NO_PEER = "no counterpart"
NOT_INSTALLED = "not installed"
NAME, CELL = 44, 12
"""Characters of the table's first column, and of the others."""


@dataclass(frozen=True)
class Row:
    """Values of ours and of the peer, a pair from each turn.

    Without a peer, ``peer`` is empty and ``reason`` says why. ``counterpart`` names
    what the peer does where that is something else. ``notes`` are counted, not timed.
    """

    name: str
    unit: str
    ours: Sequence[float]
    peer: Sequence[float] = ()
    reason: str = NO_PEER
    counterpart: str = ""
    notes: dict[str, float] = field(default_factory=dict[str, float])

    def __post_init__(self) -> None:
        if self.peer and len(self.peer) != len(self.ours):
            raise ValueError(
                f"{self.name}: {len(self.ours)} values of ours, {len(self.peer)} of"
                f" the peer"
            )

    @property
    def median(self) -> float:
        """The median of ours."""
        return statistics.median(self.ours)

    @property
    def peer_median(self) -> float | None:
        """The median of the peer's; None without a peer."""
        return statistics.median(self.peer) if self.peer else None

    @property
    def ratio(self) -> float | None:
        """The median of each turn's ours / peer's; None without a peer.

        Both of a turn ran one after the other, so they met the same load.
        """
        if not self.peer:
            return None
        turns = zip(self.ours, self.peer, strict=True)
        return statistics.median(ours / peer for ours, peer in turns)

    def as_json(self) -> dict[str, Any]:
        """Return all values, medians and the ratio; None where there is no peer."""
        return {
            "what": self.name,
            "unit": self.unit,
            "ours": list(self.ours),
            "diffusers": list(self.peer),
            "median": self.median,
            "diffusers_median": self.peer_median,
            "ratio": self.ratio,
            "beside": self.counterpart if self.peer else self.reason,
            "notes": self.notes,
        }


Act = Callable[[], Any]


def seconds_of(act: Act, synchronize: Act) -> float:
    """Return how long ``act`` takes, with all that it started on the device."""
    synchronize()
    start = time.perf_counter()
    act()
    synchronize()
    return time.perf_counter() - start


def alternate(
    measures: Sequence[Callable[[], float]], repeat: int
) -> list[list[float]]:
    """Call each of ``measures`` in turn, ``repeat`` times; the order turns around.

    Returns the values of each.
    """
    values: list[list[float]] = [[] for _ in measures]
    for turn in range(repeat):
        order = list(range(len(measures)))
        for index in reversed(order) if turn % 2 else order:
            values[index].append(measures[index]())
    return values


def head() -> str:
    """Return the table's first line."""
    names = "".join(f"{name:>{CELL}}" for name in ("ours", "diffusers", "ratio"))
    return f"{'':<{NAME}}{names}"


def lines(row: Row) -> Iterator[str]:
    """Yield the table's lines of a row."""
    ratio, other = row.ratio, row.peer_median
    text = f"{row.name + ', ' + row.unit:<{NAME}}{_number(row.median):>{CELL}}"
    if ratio is None or other is None:
        yield f"{text}    {row.reason}{_notes(row)}"
        return
    suffix = f"  beside {row.counterpart}" if row.counterpart else ""
    yield f"{text}{_number(other):>{CELL}}{ratio:>{CELL}.3f}{suffix}{_notes(row)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _notes(row: Row) -> str:
    if not row.notes:
        return ""
    notes = ", ".join(f"{name} {_number(each)}" for name, each in row.notes.items())
    return f"  ({notes})"
