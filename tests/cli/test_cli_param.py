"""``dora param``, and which dataflow it is about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import click
import pytest
from click.testing import CliRunner

from dora.cli import select as dataflows
from dora.cli.commands.param import parse_value
from dora.cli.main import cli
from dora.errors import DoraError
from dora.wire.daemon_protocol import (
    DeleteParameter,
    Description,
    GetParameters,
    Inspect,
    Inspection,
    NodeView,
    Parameters,
    SetParameter,
)
from dora.wire.operations import OperationResult

FIRST = "01a20f13-2cd9-72cf-a1f1-ebb6c282ba43"
SECOND = "01a20f14-0000-72cf-a1f1-ebb6c282ba44"


class FakeRun:
    """A running dataflow that keeps what it is asked."""

    run_dir = "/run/0123456789ab"

    def __init__(self, dataflow_id: str, file: str, nodes: Sequence[str] = ("a",)) -> None:
        self.description = Description(dataflow_id, file, list(nodes))
        self.asked: list[Any] = []
        self.closed = False

    def ask(self, request: Any) -> Any:
        if isinstance(request, Inspect):
            return Inspection(
                self.description.dataflow_id,
                None,
                "iceoryx2",
                "",
                "",
                "",
                [NodeView("a", "Running")],
                [],
            )
        self.asked.append(request)
        if isinstance(request, GetParameters):
            return Parameters({"gain": 0.5, "name": "wäge"})
        return OperationResult(request.node, request.node == "a")

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> FakeRun:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[FakeRun]]:
    """The dataflows that run."""
    runs = [FakeRun(FIRST, "/lab/arm.yml")]
    monkeypatch.setattr("dora.daemon.client.running", lambda *_: iter(runs))
    yield runs
    assert all(run.closed for run in runs), "a connection was left open"


def run(*arguments: str, answer: str | None = None) -> tuple[str, Any]:
    result = CliRunner().invoke(cli, ["param", *arguments], input=answer, standalone_mode=False)
    return result.output, result.exception


def test_values_and_answers(runs: list[FakeRun]) -> None:
    assert run("list", "a") == ('Parameters for node a:\n  gain = 0.5\n  name = "wäge"\n', None)
    assert run("list", "a", "--format", "json") == ('{"gain": 0.5, "name": "wäge"}\n', None)
    assert run("get", "a", "name") == ('"wäge"\n', None)
    assert run("set", "a", "gain", "-1.5") == ("Set `gain` = -1.5 on node `a`\n", None)
    assert run("set", "a", "mode", "fast", "-d", "arm") == ('Set `mode` = "fast" on node `a`\n', None)
    assert run("delete", "b", "gain") == (
        "Deleted `gain` from node `b`, which is not running at the moment\n",
        None,
    )
    assert [request for request in runs[0].asked if not isinstance(request, GetParameters)] == [
        SetParameter("a", "gain", -1.5),
        SetParameter("a", "mode", "fast"),
        DeleteParameter("b", "gain"),
    ]


def test_a_parameter_that_is_not_there(runs: list[FakeRun]) -> None:
    assert runs
    _, error = run("get", "a", "gian")
    assert isinstance(error, DoraError)
    assert str(error) == "node `a` has no parameter `gian` (its parameters: gain, name)"


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("", "1", "the key is empty"),
        ("k" * 300, "1", "the key has 300 bytes, more than 256"),
        ("k", "v" * 70000, "the value has 70002 bytes as JSON, more than 65536"),
        ("k", "[1, 2", "the value looks like JSON, but is not valid"),
        ("k", '{"a": NaN}', "the value looks like JSON, but is not valid: NaN is not JSON"),
        ("k", "[" * 70 + "]" * 70, "the value is nested more than 64 levels deep"),
        ("k", "[" * 100_000, "the value is nested too deep"),
        ("k", "1e999", "the value has inf, which JSON does not know"),
    ],
)
def test_invalid_parameters_are_refused_before_a_request(key: str, value: str, sentence: str) -> None:
    _, error = run("set", "a", key, value)
    assert isinstance(error, click.UsageError)
    assert error.format_message().startswith(sentence)


def test_texts_need_no_quotes() -> None:
    assert parse_value("slow motion") == "slow motion"
    assert parse_value("NaN") == "NaN"
    assert parse_value("") == ""


# ------------------------------------------------------------------ which dataflow


def test_nothing_runs(runs: list[FakeRun]) -> None:
    runs.clear()
    with pytest.raises(DoraError, match="no dataflow is running; start one with `dora run FILE`"):
        dataflows.find_run(None)


@pytest.mark.parametrize("wanted", [SECOND, SECOND[:10].upper(), "leg", "/lab/leg.yml"])
def test_a_dataflow_is_found_by_id_name_or_file_among_several(runs: list[FakeRun], wanted: str) -> None:
    runs.append(FakeRun(SECOND, "/lab/leg.yml"))
    with dataflows.find_run(wanted) as found:
        assert found is runs[1]  # type: ignore[comparison-overlap]


def test_a_choice_between_several_dataflows_is_required(runs: list[FakeRun]) -> None:
    runs.append(FakeRun(SECOND, "/lab/leg.yml"))
    listed = f"  {FIRST}  arm  (/lab/arm.yml)\n  {SECOND}  leg  (/lab/leg.yml)"
    for wanted, sentence in [
        (None, "more than one dataflow is running; choose one with -d:\n"),
        ("01a2", "`01a2` matches more than one dataflow; choose one with -d:\n"),
        ("hand", "no running dataflow is called `hand`; these are running:\n"),
    ]:
        with pytest.raises(DoraError) as raised:
            dataflows.find_run(wanted)
        assert str(raised.value) == sentence + listed


def test_the_node_of_a_command_tells_dataflows_apart(runs: list[FakeRun]) -> None:
    runs.append(FakeRun(SECOND, "/lab/leg.yml", nodes=["knee"]))
    output, error = run("set", "a", "gain", "1")
    assert (output, error) == ("Set `gain` = 1 on node `a`\n", None)
    assert runs[0].asked == [SetParameter("a", "gain", 1)]
    with pytest.raises(DoraError, match="more than one dataflow is running"):
        dataflows.find_run(None, "hand")


def test_two_daemons_of_one_dataflow_are_no_choice(runs: list[FakeRun]) -> None:
    runs.append(FakeRun(FIRST, "/lab/arm.yml"))
    with dataflows.find_run(None) as found:
        assert found is runs[0]  # type: ignore[comparison-overlap]
    assert runs[1].closed


def test_on_a_terminal_dora_asks(runs: list[FakeRun], monkeypatch: pytest.MonkeyPatch) -> None:
    runs.append(FakeRun(SECOND, "/lab/leg.yml"))
    monkeypatch.setattr("click.testing._NamedTextIOWrapper.isatty", lambda _: True, raising=False)
    output, error = run("set", "a", "gain", "1", answer="7\n2\n")
    assert error is None
    assert f"  1 {FIRST}  arm  (/lab/arm.yml)\n  2 {SECOND}  leg  (/lab/leg.yml)\n" in output
    assert output.endswith("Set `gain` = 1 on node `a`\n")
    assert runs[1].asked == [SetParameter("a", "gain", 1)]
