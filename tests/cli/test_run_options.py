"""Every option of a run reaches every way to run a dataflow; a test that fails names the option."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import click
import msgspec
import pytest
from commands import run_command
from option_values import Caught, catch_runs, named, sample

import dora
from dora.cli import run_on_both, run_over_ssh
from dora.cli.commands.cluster import start as cluster_start
from dora.cli.commands.record import record
from dora.cli.commands.run import run
from dora.cli.commands.start import start
from dora.cli.session import Order
from dora.cluster.coordinator.openapi import document
from dora.cluster.http_api import MachineView, SystemStatus
from dora.cluster.protocol import RunSpec
from dora.daemon.options import (
    FileRunOptions,
    ForegroundRunOptions,
    LocalRunOptions,
    Option,
    RunKeywords,
    RunOptions,
    options_of,
)
from dora.dataflow.model import Dataflow, Deploy, NodeSpec
from dora.wire.decoders import from_json

OF_EVERY_RUN = options_of(RunOptions)
OF_A_FILE = options_of(FileRunOptions)
ALL = options_of(ForegroundRunOptions)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A dataflow file; what would run it raises `Caught` instead."""
    catch_runs(monkeypatch)
    here = SystemStatus("", 1, [], 0, [MachineView(id="robot")])
    monkeypatch.setattr("dora.cluster.client.Client.status", lambda _: here)
    (tmp_path / "a.py").touch()
    path = tmp_path / "dataflow.yml"
    path.write_text(json.dumps({"nodes": [{"id": "a", "path": "a.py"}]}))
    return str(path)


def test_an_option_without_a_sentence_about_it_cannot_be_declared() -> None:
    assert [option.name for option in ALL] == list(ForegroundRunOptions.__struct_fields__)
    assert all(option.help.endswith(".") or option.help.endswith(("].", ")", "]")) for option in ALL)


@named(ALL)
@pytest.mark.parametrize("command", ["run", "record"])
def test_commands_that_run_a_dataflow_run_with_it(
    file: str, command: str, option: Option, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dora.recording.recorder.process.BackgroundRecorder", Mock)
    arguments, value = sample(option)
    with pytest.raises(Caught) as caught:
        run_command(command, file, *arguments, folder=Path(file).parent)
    assert isinstance(caught.value.options, LocalRunOptions)
    assert getattr(caught.value.options, option.name) == value


@named(ALL)
def test_help_and_variable_are_as_declared(option: Option) -> None:
    for command in (run, record, start, cluster_start):
        shown = {parameter.name: parameter for parameter in command.params}.get(option.name)
        assert isinstance(shown, click.Option) or option not in OF_A_FILE
        if isinstance(shown, click.Option):
            assert (shown.help, shown.envvar or "") == (option.help, option.variable)


STARTS = pytest.mark.parametrize("command", ["start", "cluster start"])


def started(monkeypatch: pytest.MonkeyPatch, command: str, file: str, *given: str) -> RunSpec:
    """Return what a command asks the coordinator to start, as that reads it."""
    folder = Path(file).parent
    names = [file]
    if command == "cluster start":
        (folder / "cluster.yml").write_text(
            "coordinator: {addr: 10.0.0.1}\nmachines: [{id: robot, host: robot.local}]"
        )
        monkeypatch.setattr("dora.cluster.ssh.copy.with_copies", lambda _, dataflow, *__: (dataflow, []))
        names = ["cluster.yml", file]
    with pytest.raises(Caught) as caught:
        run_command(*command.split(), *names, *given, "--detach", folder=folder)
    return from_json(msgspec.json.encode(caught.value.options), RunSpec)


@named(OF_EVERY_RUN)
@STARTS
def test_the_coordinator_gets_it_and_gives_it_to_the_worker(
    file: str, command: str, option: Option, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, value = sample(option)
    assert (
        getattr(LocalRunOptions.of(started(monkeypatch, command, file, *arguments)), option.name) == value
    )


@STARTS
def test_the_options_of_a_file_change_the_dataflow_that_is_started(
    file: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataflow = started(
        monkeypatch, command, file, "--env", "COLOUR=red", "--exit-when-nodes-finish"
    ).dataflow
    assert dataflow["exit_when_nodes_finish"] and dataflow["env"] == {"COLOUR": "red"}


@named(OF_EVERY_RUN)
def test_a_run_on_two_machines_has_it(option: Option) -> None:
    _, value = sample(option)
    nodes = (NodeSpec("a", "a.py", deploy=Deploy(machine="local")), NodeSpec("b", "b.py"))
    values: Any = {option.name: value}
    how: Any = SimpleNamespace(options=ForegroundRunOptions(**values))
    spec = from_json(msgspec.json.encode(run_on_both._spec(Dataflow(nodes, "/"), "/copy", how)), RunSpec)
    assert getattr(LocalRunOptions.of(spec), option.name) == value
    here, there = (node["deploy"] for node in spec.dataflow["nodes"])
    assert here["machine"] != there["machine"] and there["working_dir"] == "/copy"


@named(ALL)
def test_dora_run_from_python_has_it(file: str, option: Option) -> None:
    known = {*RunKeywords.__annotations__, *inspect.signature(dora.run).parameters}
    assert option.name in known, f"`{option.name}` is missing in RunKeywords"
    _, value = sample(option)
    values: Any = {option.name: value}
    with pytest.raises(Caught) as caught:
        dora.run(file, **values)
    assert getattr(caught.value.options, option.name) == value


def test_keywords_are_options() -> None:
    assert set(RunKeywords.__annotations__) <= {option.name for option in ALL}


def test_dora_run_from_python_has_the_same_defaults_as_the_command(file: str) -> None:
    with pytest.raises(Caught) as of_command:
        run_command("run", file, folder=Path(file).parent)
    with pytest.raises(Caught) as of_function:
        dora.run(file, None, None, strict=None, env=None, engine=None)
    assert of_command.value.options == of_function.value.options == LocalRunOptions()


@named(tuple(option for option in ALL if option.variable))
def test_a_variable_counts_unless_the_option_is_given(
    file: str, option: Option, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, on, off = ("60s", 60.0, 0.0) if option.may_be_off else ("yes", True, False)
    monkeypatch.setenv(option.variable, text)
    for call in (
        lambda: run_command("run", file, folder=Path(file).parent),
        lambda: dora.run(file),
    ):
        with pytest.raises(Caught) as caught:
            call()
        assert getattr(caught.value.options, option.name) == on
    values: Any = {option.name: off}
    with pytest.raises(Caught) as caught:
        dora.run(file, **values)
    assert getattr(caught.value.options, option.name) == off


def test_an_unknown_keyword_is_an_error_that_names_the_known_ones(file: str) -> None:
    unknown: Any = {"hot": True}
    with pytest.raises(TypeError, match="unexpected keyword argument 'hot'; it has uv, hot_reload, "):
        dora.run(file, **unknown)


@named(OF_EVERY_RUN)
def test_the_document_of_the_api_describes_it(option: Option) -> None:
    described = document()["components"]["schemas"]["RunSpec"]["properties"][option.name]
    assert (described["description"], described["default"]) == (option.help, option.default)


@named(ALL)
def test_it_reaches_a_robot_over_ssh(option: Option, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, value = sample(option)

    monkeypatch.setattr("dora.cli.run_over_ssh.scan_folder", lambda _: {})
    monkeypatch.setattr("dora.cli.run_over_ssh.SshConnection", lambda *_: None)
    made: list[Order] = []
    make = run_over_ssh._order
    monkeypatch.setattr(run_over_ssh, "_order", lambda *given: made.append(make(*given)))
    with pytest.raises(TypeError, match="NoneType"):  # there is no connection
        run_command("run", file, "--on", "robot", *arguments, folder=Path(file).parent)
    order = from_json(msgspec.json.encode(made[0]), Order)
    assert order.run is not None and getattr(order.run.options, option.name) == value


@pytest.mark.parametrize("given", ["--exit-when-nodes-finish", "--exit-when-nodes-finish=false"])
def test_a_replay_says_why_an_option_makes_no_sense(given: str, tmp_path: Path) -> None:
    status, printed = run_command("replay", "a.mcap", given, folder=tmp_path)
    assert status == 2 and printed.startswith(
        "error: --exit-when-nodes-finish makes no sense here: the nodes of a replay finish when the "
        "recording has ended\n"
    )
