"""The table of measures fits the dataflows, and these are valid."""

from collections import Counter
from pathlib import Path

import pytest
from benchmarks import dashboard, looking, machines, measures, ros2, slow_networks, starting
from benchmarks.looking import LINKS
from benchmarks.measures import SCENARIOS, Scenario, chosen
from benchmarks.recording import TOGETHER, WITH_NODE
from benchmarks.report import README_MARKERS, README_MEASURES, RESULTS_MARKERS
from benchmarks.runner import DATAFLOWS

from dora.dataflow import load

FILES = sorted(DATAFLOWS.glob("*/*.yml"))
NAMES = [measure.name for scenario in SCENARIOS for measure in scenario.measures]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_dataflow_is_valid(path: Path) -> None:
    dataflow = load(path)
    assert dataflow.nodes
    assert not dataflow.warnings


@pytest.mark.parametrize(
    "path", sorted(DATAFLOWS.glob("*/*.py")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_every_script_compiles_and_is_used(path: Path) -> None:
    compile(path.read_text(), str(path), "exec")
    others = [file for kind in ("*.yml", "*.py") for file in path.parent.glob(kind) if file != path]
    modules = [Path(str(module.__file__)) for module in (starting, measures, ros2)]
    texts = [file.read_text() for file in [*others, *modules]]
    assert any(path.name in text or f"from {path.stem} import" in text for text in texts)


def test_every_dataflow_is_measured() -> None:
    looked_at = {DATAFLOWS / "looking" / link.dataflow for link in LINKS}
    recorded = {DATAFLOWS / "recording" / name for name in (TOGETHER, WITH_NODE)}
    started = {path for path in FILES if path.parent.name == "starting"}
    executed = {DATAFLOWS / "executor" / f"{name}.yml" for name in ("takeovers", "kills")}
    assert all(path.name in Path(starting.__file__).read_text() for path in started)
    measured = {DATAFLOWS / scenario.dataflow for scenario in SCENARIOS} | {
        DATAFLOWS / slow_networks.DATAFLOW
    }
    bridged = {DATAFLOWS / name for name in ros2.DATAFLOWS}
    assert measured | looked_at | recorded | started | bridged | executed == set(FILES)


def test_names_are_unique_and_references_exist() -> None:
    assert [name for name, count in Counter(NAMES).items() if count > 1] == []
    against = {
        measure.against for scenario in SCENARIOS for measure in scenario.measures if measure.against
    }
    assert against <= set(NAMES)
    assert set(README_MEASURES) <= set(NAMES)


def test_a_chosen_measure_includes_its_comparison() -> None:
    assert [m.name for s in chosen("six-operators") for m in s.measures] == [
        "one-operator",
        "six-operators",
    ]
    assert chosen(None) == list(SCENARIOS)
    with pytest.raises(ValueError, match="round-trip-8b"):
        chosen("nonsense")


def test_a_quick_look_keeps_the_warm_up() -> None:
    (scenario,) = chosen("round-trip-8b")
    quick = scenario.scaled(0.1)
    assert (quick.messages, quick.warm_up) == (scenario.messages // 10, scenario.warm_up)
    assert scenario.scaled(1) is scenario


@pytest.mark.parametrize(
    ("page", "markers"),
    [
        ("docs/performance.md", RESULTS_MARKERS),
        ("docs/performance.md", machines.MARKERS["cubic"]),
        ("docs/performance.md", machines.MARKERS["bbr"]),
        ("docs/performance.md", looking.MARKERS),
        ("docs/performance.md", dashboard.MARKERS),
        ("docs/performance.md", starting.MARKERS),
        ("docs/performance.md", ros2.MARKERS),
        ("README.md", README_MARKERS),
    ],
)
def test_the_pages_have_a_place_for_results(page: str, markers: tuple[str, str]) -> None:
    text = (DATAFLOWS.parents[1] / page).read_text()
    assert text.index(markers[0]) < text.index(markers[1])


@pytest.mark.parametrize("scenario", machines.SCENARIOS, ids=lambda scenario: scenario.measures[0].name)
def test_dataflows_between_machines_are_valid_and_have_a_node_on_each(
    scenario: Scenario, tmp_path: Path
) -> None:
    dataflow = load(machines.write_dataflow(tmp_path, scenario))
    assert [node.deploy.machine for node in dataflow.nodes] == [machines.FIRST, machines.SECOND]
    assert all(Path(program.path).is_file() for program in dataflow.programs)


def test_a_chain_is_valid_and_links_each_node_to_the_next(tmp_path: Path) -> None:
    (tmp_path / "relay.py").touch()
    (tmp_path / "chain.yml").write_text(starting.chain_dataflow(3))
    dataflow = load(tmp_path / "chain.yml")
    assert [[str(one.source) for one in node.inputs] for node in dataflow.nodes] == [
        [],
        ["relay0/out"],
        ["relay1/out"],
    ]
    assert not dataflow.warnings


def test_the_goal_of_a_start_is_compared_with_the_median_of_its_side() -> None:
    results = starting.Results()
    results.figures["dora-rs"]["run"] += [4.0, 2.0, 2.0]
    results.figures["ours"]["run"] += [1.0, 1.0, 9.0]
    results.figures["ours"]["node"] += [16.0]
    goals = [starting.Goal(0.5, "dora-rs", "run"), starting.Goal(0.4, "dora-rs", "run")]
    assert [results.outcome("ours", "run", goal)[-1] for goal in goals] == ["✓", "✗"]
    assert results.outcome("ours", "node", starting.Goal(15)) == "15 ✗"
    assert results.outcome("ours", "node", starting.Goal(1, "ours", "run")) == "the next row ✗"
    assert results.cell("ours", "run", starting.Row("", "s")) == "1 s (1–9)"
