"""Build commands: how they are read, where they run, and what is said when one fails."""

import json
import os
import sys

import pytest

from dora.daemon.build import build_dataflow, build_environment, command_words
from dora.dataflow.model import Dataflow, Node
from dora.errors import BuildError


def dataflow(tmp_path, *commands, env=None, node_env=None):
    return Dataflow(
        nodes=(Node(id="cam", path="cam.py", build=commands, env=node_env or {}),),
        working_dir=str(tmp_path),
        env=env or {},
    )


def build(flow, **options):
    entries = []
    count = build_dataflow(flow, entries.append, **options)
    return count, [entry.message for entry in entries if entry.level == "stdout"]


def python(code):
    return f"python -c {json.dumps(code)}"


@pytest.mark.parametrize(
    ("command", "plain", "with_uv"),
    [
        (
            "pip install -e .",
            ["PY", "-m", "pip", "install", "-e", "."],
            ["uv", "pip", "install", "-e", "."],
        ),
        ("pip3 list", ["PY", "-m", "pip", "list"], ["uv", "pip", "list"]),
        ("python a.py", ["PY", "a.py"], ["uv", "run", "python", "a.py"]),
        ("python3 a.py", ["PY", "a.py"], ["uv", "run", "python", "a.py"]),
        ("cargo build 'my node'", ["cargo", "build", "my node"], ["cargo", "build", "my node"]),
        ("echo $HOME *.py", ["echo", "$HOME", "*.py"], ["echo", "$HOME", "*.py"]),
    ],
)
def test_words_of_a_command(command, plain, with_uv):
    assert command_words(command, python="PY") == plain
    assert command_words(command, uv=True, python="PY") == with_uv


def test_commands_run_in_order_in_the_working_directory_with_the_nodes_environment(tmp_path):
    show = "import os; print(os.getcwd(), os.environ['A'], os.environ['B'])"
    flow = dataflow(
        tmp_path,
        python("open('made', 'w').close()"),
        python(show),
        env={"A": "dataflow", "B": "dataflow"},
        node_env={"B": "node"},
    )
    assert build(flow) == (2, [f"{os.path.realpath(tmp_path)} dataflow node"])
    assert (tmp_path / "made").exists()


def test_the_interpreter_is_the_one_that_runs_dora(tmp_path):
    assert build(dataflow(tmp_path, python("import sys; print(sys.executable)")))[1] == [sys.executable]


def test_output_is_told_as_entries_of_the_node(tmp_path):
    entries = []
    build_dataflow(
        dataflow(tmp_path, python("import sys; print('out'); print('err', file=sys.stderr)")),
        entries.append,
    )
    assert entries[0].level == "info" and "python -c" in entries[0].message
    assert {(entry.node_id, entry.target) for entry in entries} == {("cam", "build")}
    assert [entry.message for entry in entries[1:]] == ["out", "err"]


def test_the_first_failure_ends_the_build_and_shows_the_end_of_its_output(tmp_path):
    flow = dataflow(
        tmp_path,
        python("import sys; [print('line', n) for n in range(100)]; sys.exit(3)"),
        python("open('made', 'w').close()"),
    )
    with pytest.raises(BuildError) as caught:
        build(flow)
    first, *tail = str(caught.value).splitlines()
    assert first.startswith("node `cam`: the build command `python -c") and first.endswith(
        "exited with status 3"
    )
    assert tail[-1] == "  | line 99" and len(tail) == 20
    assert not (tmp_path / "made").exists()


def test_a_command_killed_by_a_signal(tmp_path):
    with pytest.raises(BuildError, match="was killed by SIGKILL"):
        build(dataflow(tmp_path, python("import os; os.kill(os.getpid(), 9)")))


def test_a_program_that_does_not_exist(tmp_path):
    with pytest.raises(BuildError, match=r"there is no program `no-such-program` on PATH$"):
        build(dataflow(tmp_path, "no-such-program --flag"))


def test_a_missing_uv_has_its_own_hint(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(BuildError, match=r"no program `uv` on PATH; install uv, or build without --uv"):
        build(dataflow(tmp_path, "pip list"), uv=True)


def test_a_file_that_may_not_be_executed(tmp_path):
    (tmp_path / "tool").write_text("#!/bin/sh\n")
    with pytest.raises(BuildError, match=r"may not be executed"):
        build(dataflow(tmp_path, "./tool"))


def test_bad_quotes(tmp_path):
    with pytest.raises(BuildError, match=r"cannot be read: no closing quotation"):
        build(dataflow(tmp_path, "echo 'a"))


@pytest.mark.parametrize(
    "command", ["python -c 'import sys; sys.exit(1)' && echo done", "cd sub && make", "source env.sh"]
)
def test_shell_syntax_gets_a_hint(command, tmp_path):
    with pytest.raises(BuildError, match=r"without a shell: write one command per line"):
        build(dataflow(tmp_path, command))


def test_a_working_directory_that_is_gone(tmp_path):
    with pytest.raises(BuildError, match=r"working directory .* does not exist"):
        build(dataflow(tmp_path / "gone", "echo"))


def test_an_interrupted_build_ends_its_command(tmp_path):
    pids = []

    def interrupt(entry):
        if entry.level == "stdout":
            pids.append(int(entry.message))
            raise KeyboardInterrupt

    code = "import os, signal; print(os.getpid()); signal.pause()"
    with pytest.raises(KeyboardInterrupt):
        build_dataflow(dataflow(tmp_path, python(code)), interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_programs_beside_the_interpreter_are_found_last(tmp_path):
    flow = dataflow(tmp_path)
    beside = os.path.dirname(sys.executable)
    assert build_environment(flow, flow.nodes[0], {"PATH": "/a:/b"})["PATH"] == f"/a:/b:{beside}"
    assert build_environment(flow, flow.nodes[0], {"PATH": beside})["PATH"] == beside
