"""The comparison with dora-rs: dataflows made at random, differences, and which of them are documented."""

import json
from pathlib import Path
from typing import Any

import pytest
from benchmarks.compatibility import __main__ as command
from benchmarks.compatibility import known, page
from benchmarks.compatibility.case import Case
from benchmarks.compatibility.files import is_dataflow
from benchmarks.compatibility.generator import LEAVES, PAYLOADS, RECEIVES, Dataflow, generate
from benchmarks.compatibility.known import BadFile, Known
from benchmarks.compatibility.observations import Difference, compare, confirmed, shape
from benchmarks.compatibility.random_dataflows import directed, observations, write
from benchmarks.compatibility.runs import Place
from benchmarks.runner import Implementation

import dora.dataflow

SIDES = (Implementation("dora-rs", (), Path()), Implementation("dora", (), Path()))


def test_a_seed_gives_the_same_dataflow_again() -> None:
    assert generate(7) == generate(7)
    assert generate(7).document != generate(8).document


@pytest.mark.lengthy
def test_dataflows_made_at_random_are_valid(tmp_path: Path) -> None:
    for seed in range(200):
        write(generate(seed), Place(SIDES[1], tmp_path, {}))
        loaded = dora.dataflow.load(tmp_path / "dataflow.yml")
        assert not loaded.warnings, seed
        assert any(node.outputs for node in loaded.nodes), seed


def test_two_hundred_dataflows_have_everything_that_is_compared() -> None:
    texts = [
        json.dumps([made.document, made.files]).replace('\\"', '"').replace('\\\\"', '"')
        for made in map(generate, range(200))
    ]
    for word in (*PAYLOADS, *set(RECEIVES), *set(LEAVES)):
        assert any(f'"{word}' in text for text in texts), word
    for part in ('"operator"', '"module"', "restart_policy", "send_stdout_as", "exit_when", "backpressure"):
        assert any(part in text for text in texts), part


def test_equal_observations_are_no_difference() -> None:
    assert compare({"a": [1.0, {"b": None}]}, {"a": [1, {"b": None}]}) == []


def test_another_or_a_missing_observation_is_a_difference() -> None:
    assert compare({"a": 1, "b": "x"}, {"a": 2, "c": "y"}) == [
        Difference("a", "1", "2"),
        Difference("b", "x", "(nothing)"),
        Difference("c", "(nothing)", "y"),
    ]


def test_more_names_are_no_difference_and_missing_ones_are_one_each() -> None:
    assert compare({"x names": ["a"]}, {"x names": ["a", "b"]}) == []
    found = compare({"x names": ["a", "b", "c"]}, {"x names": ["b"]})
    assert [difference.where for difference in found] == ["x names/a", "x names/c"]


def test_an_exception_of_more_classes_is_no_difference() -> None:
    assert compare({"a": "raises TypeError"}, {"a": "raises RuntimeError, TypeError"}) == []
    assert compare({"a": "raises RuntimeError, TypeError"}, {"a": "raises TypeError"}) != []


def test_json_is_compared_by_its_keys_and_types() -> None:
    entries = [{"id": "a", "load": {"cpu": 0.5}, "ends": None}, {"id": "b", "tags": []}]
    assert shape(entries) == [
        "[].ends",
        "[].id",
        "[].id: text",
        "[].load.cpu",
        "[].load.cpu: number",
        "[].tags[]",
    ]


def test_what_varies_with_dora_rs_is_a_race_and_what_varies_here_is_a_difference() -> None:
    runs: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"theirs": 1, "ours": 1, "steady": 1}, {"theirs": 3, "ours": 2, "steady": 2}),
        ({"theirs": 2, "ours": 1, "steady": 1}, {"theirs": 3, "ours": 1, "steady": 2}),
    ]
    differences, races = confirmed(runs)
    assert differences == [Difference("ours", "1", "1 or 2"), Difference("steady", "1", "2")]
    assert races == ["theirs"]


def test_a_name_that_is_there_sometimes_is_a_race_of_the_side_that_varies() -> None:
    sometimes, always, never = {"x names": ["a"]}, {"x names": ["a"]}, {"x names": []}
    assert confirmed([(sometimes, never), (never, never)]) == ([], ["x names/a"])
    differences, races = confirmed([(always, always), (always, never)])
    assert [difference.where for difference in differences] == ["x names/a"]
    assert races == []


@pytest.mark.parametrize(
    ("upstream", "ours", "suffix"),
    [
        ("[1, 3]", "[1, 2, 3]", " (fewer with dora-rs)"),
        ("(nothing)", "[1]", " (fewer with dora-rs)"),
        ("[1, 2, 3]", "[2]", " (fewer here)"),
        ("[1, 2]", "[2, 1]", ""),
        ("3", "4", ""),
        ("no JSON", "[]", ""),
    ],
)
def test_a_difference_says_which_side_has_fewer(upstream: str, ours: str, suffix: str) -> None:
    assert directed(Difference("a", upstream, ours)) == Difference(f"a{suffix}", upstream, ours)


def message(path: str, number: int, identifier: str = "in-0") -> dict[str, Any]:
    return {"what": "input", "id": identifier, "path": path, "number": number, "value": "v", "metadata": {}}


def sent(path: str, count: int) -> list[dict[str, Any]]:
    return [{"what": "sent", "path": path, "number": number} for number in range(count)]


def test_messages_are_compared_for_each_input_and_path() -> None:
    logs = {"b": [message("a/x", 0), message("c/x", 0), message("a/x", 1)]}
    found = observations(Dataflow(5, {}), logs)
    assert found["dataflows/5/node b/messages in-0 a/x"] == [[0, "v", {}], [1, "v", {}]]
    assert found["dataflows/5/node b/messages in-0 c/x"] == [[0, "v", {}]]


@pytest.mark.parametrize(
    ("numbers", "in_order", "newest"),
    [
        ([0, 2, 4], True, ["arrives"]),
        ([0, 3], True, []),
        ([3, 1], False, []),
        ([1, 1, 4], False, ["arrives"]),
    ],
)
def test_of_inputs_that_may_lose_messages_the_order_is_compared(
    numbers: list[int], in_order: bool, newest: list[str]
) -> None:
    logs = {"a": sent("a/x", 5), "b": [message("a/x", number) for number in numbers]}
    found = observations(Dataflow(5, {}, lossy={("b", "in-0")}), logs)
    assert "dataflows/5/node b/messages in-0 a/x" not in found
    assert found["dataflows/5/node b/in order in-0 a/x"] is in_order
    assert found["dataflows/5/node b/newest in-0 a/x"] == newest


def test_closings_are_not_compared_for_a_node_that_leaves_by_itself() -> None:
    logs = {"b": [{"what": "input_closed", "id": "in-0"}, {"what": "stop", "id": "ALL_INPUTS_CLOSED"}]}
    stays, leaves = (observations(Dataflow(5, {}, leaves=names), logs) for names in (set(), {"b"}))
    assert stays["dataflows/5/node b/closed"] == ["in-0"]
    assert stays["dataflows/5/node b/stop"] == ["ALL_INPUTS_CLOSED"]
    assert "dataflows/5/node b/closed" not in leaves


def test_an_entry_explains_the_documented_values_only() -> None:
    entry = Known("a/*/status", "better", "It is better.", dora_rs="0", here="[*]")
    assert entry.explains(Difference("a/b/c/status", "0", "[1]"))
    assert not entry.explains(Difference("a/b/status", "1", "[1]"))
    assert not entry.explains(Difference("a/b/status", "0", "2"))
    assert not entry.explains(Difference("b/status", "0", "[1]"))


def test_the_documented_differences_of_this_project_can_be_read() -> None:
    entries = known.load()
    assert {entry.kind for entry in entries} == set(known.KINDS)
    assert len(entries) == len(set(entries))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[[difference]\n", "differences.toml"),
        ("[difference]\n[other]\n", r"only `last_run` and \[\[difference\]\] tables"),
        ('[[difference]]\nkind = "better"\nreason = "r"\n', "`where`.*where is missing"),
        ('[[difference]]\nwhere = "a"\nkind = "better"\nreason = ""\n', "reason is missing"),
        ('[[difference]]\nwhere = "a"\nkind = "nicer"\nreason = "r"\n', "kind must be one of better"),
        ('[[difference]]\nwhere = "a"\nkind = "better"\nreason = "r"\nwhy = "x"\n', "unknown field why"),
        ('[[difference]]\nwhere = "a"\nkind = "better"\nreason = "r"\nhere = 1\n', "here must be a text"),
    ],
)
def test_a_mistake_in_the_file_is_one_sentence(text: str, complaint: str, tmp_path: Path) -> None:
    file = tmp_path / "differences.toml"
    file.write_text(text)
    with pytest.raises(BadFile, match=complaint):
        known.load(file)


def test_the_page_of_differences_is_up_to_date() -> None:
    assert page.PAGE.read_text() == page.text(known.load(), known.last_run()), (
        "run `python -m benchmarks.compatibility --write-docs`"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [("nodes:\n  - id: a\n", True), ("module: {}\nnodes: []\n", False), ("services:\n  nodes: 1\n", False)],
)
def test_dataflow_files_are_found_by_what_is_in_them(text: str, expected: bool) -> None:
    assert is_dataflow(text) is expected


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the command on one case, whose observations are given for each side."""

    def run(upstream: dict[str, Any], ours: dict[str, Any], documented: list[Known]) -> int:
        case = Case("area/case", lambda side: upstream if side.name == "dora-rs" else ours)
        monkeypatch.setattr(command, "_cases", lambda _: [case])
        monkeypatch.setattr(command, "upstream", lambda _: SIDES[0])
        monkeypatch.setattr(command, "ours", lambda: SIDES[1])
        monkeypatch.setattr(command, "adopt_orphans", lambda: None)
        monkeypatch.setattr(known, "load", lambda: documented)
        return command.main([])

    return run


def test_a_new_difference_fails_with_a_line(compared: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert compared({"area/case/x": 1}, {"area/case/x": 2}, []) == 1
    assert "new: area/case/x: dora-rs 1, here 2\n" in capsys.readouterr().out


def test_a_documented_difference_passes(compared: Any, capsys: pytest.CaptureFixture[str]) -> None:
    entry = Known("area/*", "better", "It is better.", "1", "2")
    assert compared({"area/case/x": 1}, {"area/case/x": 2}, [entry]) == 0
    assert "new differences: 0" in capsys.readouterr().out


def test_an_entry_that_explains_nothing_any_more_is_named(
    compared: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = Known("area/case/x", "better", "It was better.")
    assert compared({"area/case/x": 1}, {"area/case/x": 1}, [entry]) == 0
    assert "no longer seen: area/case/x" in capsys.readouterr().out


def test_a_name_without_a_case_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["--only", "no-such-case"])
    assert ended.value.code == 2
    assert "there is no case whose name begins with 'no-such-case'" in capsys.readouterr().err
