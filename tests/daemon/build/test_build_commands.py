"""Build commands: how they are read, where they run, and what is said when one fails."""

import contextlib
import json
import os
import sys
import threading

import pytest
from waiting import wait_until

from dora.daemon.build import build as builds
from dora.daemon.build.build import build_dataflow
from dora.daemon.build.subprocesses import CommandFailed, Processes, Stopped
from dora.daemon.options import BuildOptions
from dora.daemon.processes.launch_spec import launch_spec
from dora.daemon.template.children import descendants
from dora.dataflow.model import Dataflow, NodeSpec, PythonEnvironment
from dora.errors import BuildError


def dataflow(tmp_path, *commands, env=None, node_env=None):
    return Dataflow(
        nodes=(NodeSpec(id="cam", path="cam.py", build=commands, env=node_env or {}),),
        working_dir=str(tmp_path),
        env=env or {},
    )


def build(flow, **options):
    entries = []
    built = build_dataflow(flow, entries.append, BuildOptions(**options))
    return built.commands, [entry.message for entry in entries if entry.level == "stdout"]


def python(code):
    return f"python -c {json.dumps(code)}"


@pytest.mark.processes
def test_only_the_nodes_of_this_machine_are_built(tmp_path):
    for name in ("here.py", "there.py"):
        (tmp_path / name).touch()
    nodes = tuple(
        NodeSpec(id=n, path=f"{n}.py", build=(python(f"print({n!r})"),)) for n in ("here", "there")
    )
    flow = Dataflow(nodes=nodes, working_dir=str(tmp_path))
    entries = []
    built = builds.build(flow, entries.append, BuildOptions(), nodes={"here"}, session=False)
    assert [entry.message for entry in entries if entry.level == "stdout"] == ["here"]
    assert built.commands == 1 and [node.id for node in built.dataflow.nodes] == ["here", "there"]


@pytest.mark.processes
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


@pytest.mark.processes
def test_the_interpreter_is_the_one_that_runs_dora(tmp_path):
    assert build(dataflow(tmp_path, python("import sys; print(sys.executable)")))[1] == [sys.executable]


@pytest.mark.processes
def test_output_of_a_command_is_logged_as_entries_of_the_node(tmp_path):
    entries = []
    build_dataflow(
        dataflow(tmp_path, python("import sys; print('out'); print('err', file=sys.stderr)")),
        entries.append,
    )
    assert entries[0].level == "info" and "python -c" in entries[0].message
    assert {(entry.node_id, entry.target) for entry in entries} == {("cam", "build")}
    assert [entry.message for entry in entries[1:]] == ["out", "err"]


@pytest.mark.processes
def test_a_build_without_a_guardian_says_so_once(tmp_path, monkeypatch):
    (tmp_path / "sh").touch()  # which cannot be executed
    monkeypatch.setattr("dora.daemon.watchdog._SHELL", str(tmp_path / "sh"))
    entries = []
    build_dataflow(dataflow(tmp_path, python("print(1)"), python("print(2)")), entries.append)
    assert [entry.message for entry in entries if entry.level == "warn"] == [
        "no guardian can be started (Permission denied); a crash would leave processes behind"
    ]
    assert [entry.message for entry in entries if entry.level == "stdout"] == ["1", "2"]


@pytest.mark.processes
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


@pytest.mark.processes
def test_a_command_killed_by_a_signal(tmp_path):
    with pytest.raises(BuildError, match="was killed by SIGKILL"):
        build(dataflow(tmp_path, python("import os; os.kill(os.getpid(), 9)")))


@pytest.mark.processes
def test_a_program_that_does_not_exist(tmp_path):
    with pytest.raises(BuildError, match=r"there is no program `no-such-program` on PATH$"):
        build(dataflow(tmp_path, "no-such-program --flag"))


@pytest.mark.processes
def test_a_file_that_may_not_be_executed(tmp_path):
    (tmp_path / "tool").write_text("#!/bin/sh\n")
    with pytest.raises(BuildError, match=r"may not be executed"):
        build(dataflow(tmp_path, "./tool"))


def test_bad_quotes(tmp_path):
    with pytest.raises(BuildError, match=r"cannot be read: no closing quotation"):
        build(dataflow(tmp_path, "echo 'a"))


@pytest.mark.processes
@pytest.mark.parametrize(
    "command", ["python -c 'import sys; sys.exit(1)' && echo done", "cd sub && make", "source env.sh"]
)
def test_shell_syntax_gets_a_hint(command, tmp_path):
    with pytest.raises(BuildError, match=r"without a shell: write one command per line"):
        build(dataflow(tmp_path, command))


@pytest.mark.processes
def test_a_working_directory_that_is_gone(tmp_path):
    with pytest.raises(BuildError, match=r"working directory .* does not exist"):
        build(dataflow(tmp_path / "gone", "echo"))


@pytest.mark.processes
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


@pytest.mark.processes
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="the processes of a build are found in /proc")
def test_an_interrupted_build_ends_what_its_command_started(tmp_path):
    pids = []

    def interrupt(entry):
        if entry.level == "stdout":
            pids.append(int(entry.message))
            raise KeyboardInterrupt

    code = (
        "import subprocess, sys; "
        "child = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()']); "
        "print(child.pid, flush=True); child.wait()"
    )
    with pytest.raises(KeyboardInterrupt):
        build_dataflow(dataflow(tmp_path, python(code)), interrupt)
    wait_until(lambda: not os.path.exists(f"/proc/{pids[0]}"), "the end of what the command started")


def test_programs_beside_the_interpreter_are_found_last(tmp_path):
    def search_path(path, **options):
        node = NodeSpec(id="n", path="a.py", **options)
        spec = launch_spec(Dataflow((node,), str(tmp_path)), node, uv=False, base={"PATH": path})
        return spec.build_environment()["PATH"], spec.interpreter.folder

    beside = os.path.dirname(sys.executable)
    assert search_path("/a:/b") == (f"/a:/b:{beside}", None)
    assert search_path(beside) == (beside, None)
    path, folder = search_path(beside, python=PythonEnvironment())
    assert path == f"{folder}/bin:{beside}"
    assert search_path(beside, env={"PATH": "/own"}) == ("/own", None)


def nodes(tmp_path, **commands):
    return Dataflow(
        tuple(NodeSpec(id=name, path="a.py", build=(command,)) for name, command in commands.items()),
        str(tmp_path),
    )


MEET = """
import sys, time
from pathlib import Path

mine, other = map(Path, sys.argv[1:])
mine.touch()
while not other.exists():
    time.sleep(0.001)
"""

FAIL = """
import sys, time
from pathlib import Path

while not Path("waiting").exists():
    time.sleep(0.001)
for number in range(100):
    print("line", number)
sys.exit(3)
"""

WAIT = """
import signal

open("waiting", "w").close()
signal.pause()
"""


@pytest.mark.processes
def test_a_parallel_build_runs_the_nodes_at_the_same_time(tmp_path):
    (tmp_path / "meet.py").write_text(MEET)
    flow = nodes(tmp_path, a="python meet.py a b", b="python meet.py b a")
    assert build(flow, parallel=True)[0] == 2


@pytest.mark.processes
@pytest.mark.parametrize(
    "waits",
    [
        "python wait.py",
        "sh -c 'python wait.py; true'",
        pytest.param("sh -c 'trap \"\" TERM; python wait.py; true'", marks=pytest.mark.slow),
    ],
)
def test_a_failure_in_a_parallel_build_ends_the_others_and_is_shown_whole(tmp_path, waits):
    (tmp_path / "wait.py").write_text(WAIT)
    (tmp_path / "fail.py").write_text(FAIL)
    with pytest.raises(BuildError) as caught:
        build(nodes(tmp_path, waits=waits, fails="python fail.py"), parallel=True)
    first, *output = str(caught.value).splitlines()
    assert first.startswith("node `fails`") and output == [f"  | line {n}" for n in range(100)]


@pytest.mark.processes
def test_a_program_that_ends_before_it_reads_its_input_says_why():
    why = ["sh", "-c", "echo this is why; exit 2"]
    processes = Processes()
    try:
        # More than a pipe holds: it is still being written when the program ends.
        with pytest.raises(CommandFailed, match=r"(?s)it exited with status 2.*this is why"):
            processes.run(why, what="it", cwd="/", env=os.environ, log=None, stdin="x" * (1 << 20))
    finally:
        processes.close()


@pytest.mark.processes
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="the processes of a build are found in /proc")
def test_programs_of_a_build_leave_nothing_to_be_ended_later(monkeypatch):
    signals = []
    monkeypatch.setattr("os.killpg", lambda *signal: signals.append(signal))
    before = descendants(os.getpid())
    processes = Processes(parallel=True)
    lines = processes.run(["printf", "one\\ntwo"], what="it", cwd="/", env=os.environ, log=None)
    assert lines == ["one", "two"]
    processes.stop()
    processes.close()
    assert signals == []  # its number may be that of another group by now
    assert descendants(os.getpid()) == before


def test_no_program_starts_once_a_build_is_stopped():
    processes = Processes()
    processes.stop()
    with pytest.raises(Stopped):
        processes.run(["true"], what="it", cwd="/", env=os.environ, log=None)
    processes.close()


@pytest.mark.processes
def test_a_build_command_does_not_read_the_input_of_dora(tmp_path):
    ours = os.dup(0)
    read, write = os.pipe()
    os.dup2(read, 0)
    try:
        os.write(write, b"for dora\n")
        os.close(write)
        show = "import sys; print([sys.stdin.read()])"
        assert build(dataflow(tmp_path, python(show)))[1] == ["['']"]
    finally:
        os.dup2(ours, 0)
        os.close(ours)
        os.close(read)


def test_two_installers_do_not_change_an_environment_at_the_same_time(tmp_path, monkeypatch):
    meeting, met = threading.Barrier(2), []

    def run(*_, **__):
        with contextlib.suppress(threading.BrokenBarrierError):
            met.append(meeting.wait(0.3))
        return []

    monkeypatch.setattr(Processes, "run", run)
    flow = nodes(tmp_path, a="pip install no-such-package", b="pip install no-such-package-either")
    assert build(flow, parallel=True)[0] == 2
    assert met == []


@pytest.mark.parametrize("fails", [False, True])
def test_the_progress_of_a_build_ends_with_it(tmp_path, monkeypatch, fails):
    def run(*_, **__):
        if fails:
            raise CommandFailed("it failed")
        return []

    monkeypatch.setattr(Processes, "run", run)
    seen = []
    with pytest.raises(BuildError) if fails else contextlib.nullcontext():
        build_dataflow(dataflow(tmp_path, "make"), lambda _: None, on_build=seen.append)
    assert seen[0].ended.is_set()
    assert (seen[0].done, seen[0].steps) == (0 if fails else 1, 1)
