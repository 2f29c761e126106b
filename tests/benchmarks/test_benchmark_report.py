"""The tables, and how they get into the pages."""

import json
from pathlib import Path

import pytest
from benchmarks.measures import SCENARIOS, Measure, groups
from benchmarks.report import (
    as_json,
    collect,
    floor_table,
    network_floor_table,
    number,
    results_page,
    short_table,
    table,
    write_between,
)
from benchmarks.statistics import Figure

LATENCY = Measure("latency", "a latency", "µs", 6)
RATE = Measure("rate", "a rate", "messages/s", 2, higher_is_better=True)
DERIVED = Measure("derived", "six of them", "µs", 1 / 1.3, against="latency")


def cells(text: str, row: int) -> list[str]:
    return [cell.strip() for cell in text.splitlines()[row + 2].strip("|").split("|")]


def test_latency_is_better_lower_and_throughput_higher() -> None:
    latency, rate = collect(
        [LATENCY, RATE],
        upstream={"latency": [Figure(300, 400, 10, 0)], "rate": [Figure(1000, None, 10, 2)]},
        ours={"latency": [Figure(40, 50, 10, 0)], "rate": [Figure(1500, None, 10, 0)]},
        failures={},
    )
    assert (latency.times_better, latency.reached) == (7.5, True)
    assert (rate.times_better, rate.reached) == (1.5, False)
    shown = table([latency, rate])
    assert cells(shown, 0)[3:] == ["7.5×", "6× ✓", "0 of 10", "0 of 10"]
    assert cells(shown, 1)[1:] == [
        "1,000 messages/s (1,000–1,000)",
        "1,500 messages/s (1,500–1,500)",
        "1.5×",
        "2× ✗",
        "2 of 10",
        "0 of 10",
    ]


def test_costs_compared_with_bare_transports_are_ratios_of_neighbouring_runs() -> None:
    shown = network_floor_table(
        [LATENCY, RATE, DERIVED],
        {
            "TCP": {"latency": [Figure(20), Figure(40)], "rate": [Figure(3000)]},
            "Zenoh": {"latency": [Figure(50, 70), Figure(80, 90)], "rate": [Figure(1500)]},
        },
        {"latency": [Figure(40), Figure(80)], "rate": [Figure(1000)]},
        ("Zenoh", 1.3),
    )
    assert cells(shown, 0)[2:] == [
        "65.0 µs (50.0–80.0; p99 80.0)",
        "60.0 µs (40.0–80.0)",
        "2×",
        "0.9× (at most 1.3×) ✓",
    ]
    assert cells(shown, 1)[4:] == ["3×", "1.5× (at most 1.3×) ✗"]
    assert cells(shown, 2)[1:] == ["–"] * 5


def test_a_rate_that_dropped_messages_reaches_no_goal() -> None:
    lossless = Measure("rate", "a rate", "messages/s", 2, higher_is_better=True, lossless=True)
    for lost, reached in ((0, True), (1, False)):
        (result,) = collect(
            [lossless],
            upstream={"rate": [Figure(1000, None, 10, 0)]},
            ours={"rate": [Figure(9000, None, 10, lost)]},
            failures={},
        )
        assert result.reached is reached


def test_two_measures_of_dora_can_be_compared() -> None:
    (derived,) = collect(
        [DERIVED], upstream={}, ours={"latency": [Figure(50)], "derived": [Figure(60)]}, failures={}
    )
    assert derived.times_better == pytest.approx(50 / 60)
    assert derived.reached


def test_a_slower_machine_does_not_change_the_result() -> None:
    (latency,) = collect(
        [LATENCY],
        {"latency": [Figure(300), Figure(900), Figure(600)]},
        {"latency": [Figure(50), Figure(150), Figure(40)]},
        {},
    )
    assert latency.times_better == 6


def test_rclpy_has_columns_of_its_own_where_it_has_run() -> None:
    results = collect(
        [LATENCY, RATE],
        {"latency": [Figure(300, 400, 10, 0)]},
        {"latency": [Figure(50, 60, 10, 0)], "rate": [Figure(1000)]},
        {},
        {"latency": [Figure(500, 900, 10, 1)]},
    )
    shown = table(results)
    assert "lost: rclpy" in shown
    assert cells(shown, 0)[1:] == [
        "300 µs (300–300; p99 400)",
        "500 µs (500–500; p99 900)",
        "50.0 µs (50.0–50.0; p99 60.0)",
        "6×",
        "6× ✓",
        "10.0×",
        "0 of 10",
        "1 of 10",
        "0 of 10",
    ]
    assert cells(shown, 1)[2] == cells(shown, 1)[6] == "–"
    assert json.loads(as_json(results, {}, {}))["results"][0]["times_better_than_rclpy"] == 10
    assert "rclpy" not in table(collect([LATENCY], {}, {"latency": [Figure(50)]}, {}))


def test_compared_measures_run_in_turn() -> None:
    names = [[m.name for s in group for m in s.measures] for group in groups(SCENARIOS)]
    assert ["one-operator", "six-operators"] in names
    assert ["chain"] in names
    flat = [name for group in names for name in group]
    assert flat == [m.name for s in SCENARIOS for m in s.measures]


def test_a_missing_side_is_shown_and_never_reached() -> None:
    (alone,) = collect(
        [LATENCY], upstream={}, ours={"latency": [Figure(40)]}, failures={"latency": ["dora-rs: x"]}
    )
    assert alone.times_better is None and alone.reached is None
    assert cells(table([alone]), 0)[1:4] == ["–", "40.0 µs (40.0–40.0)", "–"]


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0123, "0.0123"), (5.678, "5.68"), (56.78, "56.8"), (34_567.8, "34,568")]
)
def test_numbers_have_three_significant_digits(value: float, shown: str) -> None:
    assert number(value) == shown


def test_the_short_table_names_its_source_and_lost_messages() -> None:
    measure = Measure("round-trip-8b", "round trip, 8 B", "µs", 6)
    results = collect(
        [measure, RATE],
        {measure.name: [Figure(300, 400, 10, 3)]},
        {measure.name: [Figure(40, 50, 10, 0)]},
        {},
    )
    conditions = {
        "command": "python -m benchmarks",
        "machine": "2 cores",
        "Python": "CPython",
        "date": "today",
    }
    shown = short_table(results, conditions)
    assert cells(shown, 0) == ["round trip, 8 B", "300 µs", "40.0 µs", "7.5×", "3 of 10", "0 of 10"]
    assert RATE.title not in shown
    assert shown.endswith("\n\n`python -m benchmarks` on 2 cores; CPython; today.")


def test_json_holds_every_figure() -> None:
    results = collect([LATENCY], {"latency": [Figure(300)]}, {"latency": [Figure(40)]}, {})
    document = json.loads(as_json(results, {"a floor": Figure(3)}, {"machine": "this one"}))
    assert document["results"][0]["times_better"] == 7.5
    assert document["floors"]["a floor"]["value"] == 3
    assert document["conditions"] == {"machine": "this one"}


def test_results_replace_the_text_between_the_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- a -->\nold\n<!-- /a -->\nafter\n")
    content = results_page([], {"wake": Figure(3, 9)}, {"command": r"python \1"})
    write_between(page, ("<!-- a -->", "<!-- /a -->"), content)
    written = page.read_text()
    assert written.startswith("before\n<!-- a -->\n- command: python \\1\n")
    assert written.endswith(floor_table({"wake": Figure(3, 9)}) + "\n<!-- /a -->\nafter\n")
    assert "old" not in written


def test_a_page_without_markers_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing here")
    with pytest.raises(SystemExit, match="no place for the results"):
        write_between(page, ("<!-- a -->", "<!-- /a -->"), "x")
