"""Medians, ratios and the table, from made-up times."""

import json

import pytest

from lab.bench.figures import CELL, NAME, Row, alternate, head, lines


def test_a_ratio_is_the_median_of_the_turns() -> None:
    """The machine was slow for the second turn and slower for the third."""
    row = Row("step", "s", [1.0, 4.0, 9.0], [2.0, 10.0, 10.0])
    assert row.median == 4.0
    assert row.peer_median == 10.0
    assert row.ratio == 0.5  # of 0.5, 0.4 and 0.9; not 4 / 10


def test_a_line_has_both_medians_and_the_ratio() -> None:
    row = Row("step", "s", [1.0, 3.0], [4.0, 4.0], notes={"MB read": 1234.5})
    (line,) = lines(row)
    assert line[:NAME].strip() == "step, s"
    cells = [line[NAME + i * CELL : NAME + (i + 1) * CELL].strip() for i in range(3)]
    assert cells == ["2", "4", "0.500"]
    assert line.endswith("(MB read 1,234)")
    names = [head()[NAME + i * CELL : NAME + (i + 1) * CELL].strip() for i in range(3)]
    assert names == ["ours", "diffusers", "ratio"]


def test_a_line_names_what_the_peer_does_instead() -> None:
    row = Row("swap", "s", [1.0], [4.0], counterpart="pipeline built anew")
    assert "beside pipeline built anew" in next(lines(row))


@pytest.mark.parametrize("reason", ["diffusers is not installed", "no counterpart"])
def test_without_a_peer_the_reason_is_shown(reason: str) -> None:
    row = Row("queue", "s", [2.0], reason=reason)
    assert row.ratio is row.peer_median is None
    assert next(lines(row)).endswith(reason)
    written = json.loads(json.dumps(row.as_json()))
    assert written["ratio"] is None
    assert written["diffusers"] == []
    assert written["beside"] == reason


def test_each_turn_has_a_value_of_both() -> None:
    with pytest.raises(ValueError, match="2 values of ours, 1 of the peer"):
        Row("step", "s", [1.0, 2.0], [1.0])


def test_turns_alternate() -> None:
    calls: list[str] = []

    def measure(name: str, value: float) -> float:
        calls.append(name)
        return value

    measures = [lambda: measure("a", 1.0), lambda: measure("b", 2.0)]
    assert alternate(measures, 3) == [[1.0] * 3, [2.0] * 3]
    assert calls == ["a", "b", "b", "a", "a", "b"]
