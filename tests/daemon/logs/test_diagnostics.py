"""What dora tells of its own work: the directives of ``RUST_LOG``, and what they let through."""

import subprocess
import sys

import pytest

from dora.cluster.protocol import (
    OpenObserver,
    RunDescription,
    RunReport,
    RunSpec,
)
from dora.daemon.executor import traced
from dora.daemon.logs.diagnostics import parse_directives, shown
from dora.daemon.supervisor import events as on

LEVELS = "they are off, error, warn, info, debug, trace"


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        ("", {}),
        ("debug", {"dora": 10}),
        ("WARN", {"dora": 30}),
        ("warning", {"dora": 30}),
        ("off", {"dora": 100}),
        ("5", {"dora": 5}),
        (" info , dora_daemon = trace ,", {"dora": 20, "dora.daemon": 5}),
        ("dora_daemon::spawn=debug", {"dora.daemon.spawn": 10}),
        ("dora_core::build=debug", {"dora.build": 10}),
        ("dora.coordinator", {"dora.coordinator": 5}),
        ("hyper=warn,my_node::camera=info", {"hyper": 30, "my_node.camera": 20}),
        ("debug,error", {"dora": 40}),
    ],
)
def test_directives(text, levels):
    assert parse_directives(text) == (levels, [])


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("debgu", "`debgu` is neither a level nor a part of dora; did you mean `debug`?"),
        ("everything", f"`everything` is neither a level nor a part of dora; {LEVELS}"),
        ("dora=loud", f"`loud` is no level; {LEVELS}"),
        ("dora=", f"`` is no level; {LEVELS}"),
        ("dora[span]=debug", "`dora[span]` is no target: spans and patterns have no counterpart"),
        ("=debug", "`` is no target: spans and patterns have no counterpart"),
    ],
)
def test_a_directive_that_is_not_understood_is_reported_and_the_others_apply(text, fault):
    assert parse_directives(f"{text},dora_daemon=warn") == ({"dora.daemon": 30}, [fault])


def test_a_record_is_shown_with_the_fields_that_differ_from_their_defaults():
    assert shown(on.Begin()) == "Begin()"
    assert shown(on.ProcessEnded("a", exit_code=1, last_lines=("x", "y"))) == (
        "ProcessEnded(node_id=a, exit_code=1, last_lines=2 items)"
    )
    assert shown(on.SpawnFailed("a", "one\ntwo")) == "SpawnFailed(node_id=a, reason='one\\ntwo')"
    assert shown(on.SpawnFailed("a", "x" * 1000)) == f"SpawnFailed(node_id=a, reason={'x' * 80}…)"
    described = RunDescription(RunReport("a", "Running"), RunSpec(name="a", dataflow={}))
    assert shown(described) == "RunDescription(run=RunReport, spec=RunSpec)"
    assert shown(OpenObserver("a", "secret")) == "OpenObserver(dataflow_id=a, ticket=…)"


def test_without_debug_logging_events_are_not_traced():
    handle = list
    assert traced(handle) is handle


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "n.py").write_text("import dora\ndora.Node()\n")
    (tmp_path / "a.yml").write_text("nodes:\n  - id: n\n    path: n.py\n    build: python -c 0\n")
    return tmp_path


def diagnostics(folder, monkeypatch, directives, *command):
    """Return what a command tells on standard error, without times."""
    monkeypatch.setenv("RUST_LOG", directives)
    done = subprocess.run(
        [sys.executable, "-m", "dora", *command], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return [line.split(" ", 2)[-1] if line[:2] == "20" else line for line in done.stderr.splitlines()]


@pytest.mark.processes
def test_the_debug_log_of_a_run_has_events_with_their_commands(folder, monkeypatch):
    told = diagnostics(folder, monkeypatch, "debug", "run", "a.yml")
    assert f"DEBUG dora.build: {sys.executable} -c 0 in {folder}" in told
    spawning = f"DEBUG dora.daemon.spawn: node `n`: {sys.executable} -u {folder}/n.py in {folder}"
    begin = told.index("DEBUG dora.daemon.run: Begin() -> Spawn(node_id=n, restart_count=0, incarnation=0)")
    spawned = told.index(spawning)
    ended = next(index for index, line in enumerate(told) if "ProcessEnded(node_id=n, exit_code=0" in line)
    assert begin < spawned < ended
    assert told[ended].endswith("Finish()")


@pytest.mark.slow
@pytest.mark.processes
def test_parts_can_be_chosen(folder, monkeypatch):
    told = diagnostics(folder, monkeypatch, "off,dora_daemon::spawn=debug", "run", "a.yml")
    assert [line.split(":")[0] for line in told] == ["DEBUG dora.daemon.spawn"]
    assert diagnostics(folder, monkeypatch, "info", "run", "a.yml") == []


@pytest.mark.slow
@pytest.mark.processes
def test_a_wrong_value_is_only_a_warning(folder, monkeypatch):
    told = diagnostics(folder, monkeypatch, "loud", "run", "a.yml")
    assert told == [f"warning: RUST_LOG: `loud` is neither a level nor a part of dora; {LEVELS}"]


@pytest.mark.skipif(sys.platform != "linux", reason="there are templates on Linux only")
@pytest.mark.parametrize(
    ("directives", "same"),
    [
        ("dora.daemon.spawn=debug", True),
        ("dora_daemon::spawn=debug, dora.build", True),
        ("debug", False),
        ("zenoh=debug,dora=debug", False),
    ],
)
def test_a_template_is_shown_by_directives_for_parts_of_dora(
    directives: str, same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dora.daemon.template.checks import different_variable
    from dora.daemon.template.process import warm_address

    monkeypatch.delenv("RUST_LOG", raising=False)
    before = warm_address()
    monkeypatch.setenv("RUST_LOG", directives)
    assert (warm_address() == before) is same
    differs = different_variable({}, {b"RUST_LOG": directives.encode()}, frozenset())
    assert differs == ("" if same else "RUST_LOG")
