"""`dora shrink` and `dora debug`: what they say, write and refuse."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from alone_flow import AloneFolder, recorded_folder
from ports import free_port
from waiting import TIMEOUT, wait_until

from dora.errors import DoraError
from dora.recording.opening import open_recording
from dora.testing import run_recorded

pytestmark = pytest.mark.processes

DORA = [sys.executable, "-m", "dora"]


@pytest.fixture(scope="module")
def recorded() -> Iterator[AloneFolder]:
    with recorded_folder() as made:
        yield made


@pytest.fixture
def folder(recorded: AloneFolder) -> Iterator[AloneFolder]:
    """The same for each test; programs that a test changes are put back."""
    yield recorded
    recorded.restore()


def run_tests(folder: AloneFolder, status: int) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        cwd=folder.folder,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


# ------------------------------------------------------------------------------ shrink


@pytest.mark.slow
def test_the_test_is_red_until_the_node_is_repaired(folder: AloneFolder) -> None:
    folder.dora("shrink", "a.mcap", "matcher")
    text = (folder.folder / "tests" / "test_matcher_value_error.py").read_text()
    assert len(text.splitlines()) < 25
    assert "`dora shrink` left 2 of" in text
    red = run_tests(folder, 1)
    assert "ValueError: forty" in red
    assert "matcher.py" in red
    assert "recorded.py" not in red  # the traceback begins in the program
    program = (folder.folder / "matcher.py").read_text()
    (folder.folder / "matcher.py").write_text(program.replace("right >= 40", "False"))
    run_tests(folder, 0)


@pytest.mark.slow
def test_a_test_in_another_folder_finds_the_program(folder: AloneFolder, tmp_path: Path) -> None:
    folder.dora("shrink", "a.mcap", "hands", "-o", str(tmp_path / "deep" / "tests"))
    assert {path.name for path in (tmp_path / "deep" / "tests").iterdir()} == {
        "test_hands_key_error.py",
        "test_hands_key_error.mcap",
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert "KeyError: 'thirty-five'" in done.stdout


@pytest.mark.slow
def test_the_small_recording_is_one_like_any_other(folder: AloneFolder) -> None:
    folder.dora("shrink", "a.mcap", "asker")
    small = "tests/test_asker_runtime_error.mcap"
    facts = json.loads(folder.dora("info", small, "-f", "json"))
    assert facts["complete"]
    assert facts["order"]
    assert facts["messages"] <= 4  # two events, and the request between them
    folder.dora("shrink", small, "asker", "--force")  # nothing more to leave out
    with open_recording(str(folder.folder / small)) as recording:
        assert recording.count <= 4


@pytest.mark.slow
def test_a_wrong_output_is_shrunk_by_what_is_expected(folder: AloneFolder) -> None:
    output = folder.dora("shrink", "a.mcap", "sane", "--expect", "output.box[0] < 200")
    assert "sends something wrong at event 21: output.box[0] < 200: false for box = [200, 3]" in output
    assert re.search(r"left: 1 of \d+ events, with 1 message", output)
    red = run_tests(folder, 1)
    assert "AssertionError: output.box[0] < 200 is false for box = [200, 3]" in red


def test_the_failure_of_an_earlier_process_is_found(folder: AloneFolder) -> None:
    output = folder.dora("shrink", "a.mcap", "restarter")
    assert "restarter fails at event 26: RuntimeError: once" in output
    assert "left: 1 of 26 events, with 1 message" in output


@pytest.mark.slow
def test_an_existing_test_is_not_overwritten_without_force(folder: AloneFolder) -> None:
    folder.dora("shrink", "a.mcap", "matcher")
    output = folder.dora("shrink", "a.mcap", "matcher", status=1)
    assert "tests/test_matcher_value_error.py exists already; choose another folder" in output
    folder.dora("shrink", "a.mcap", "matcher", "--force")


def error_of(output: str) -> str:
    """Return the error, which is one line, and the last one."""
    assert "Traceback" not in output
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a.mcap", "nobody"], "this dataflow has no node `nobody`"),
        (["a.mcap", "source"], "has no event that node `source` took"),
        (["flow.yml", "sane"], "flow.yml is no recording: it is not an MCAP file"),
        (["nothing.mcap", "sane"], "nothing.mcap cannot be read: No such file"),
    ],
)
@pytest.mark.parametrize("command", ["shrink", "debug"])
def test_what_cannot_be_run_is_refused_in_a_sentence(
    folder: AloneFolder, command: str, arguments: list[str], said: str
) -> None:
    assert said in error_of(folder.dora(command, *arguments, status=1))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            [],
            "a.mcap does not say that `sane` failed, and it did not in 10 tries (for a wrong output",
        ),
        (["--tries", "3"], "did not in 3 tries"),
        (
            ["--expect", "output.box[1] == 3"],
            "`output.box[1] == 3` was true for all 60 messages",
        ),
        (["--expect", "output.cat[0] == 3"], "node `sane` has no output `cat`; it has `box`"),
        (["--expect", "output.box[9] == 3"], "has no value for any message that `sane` sends"),
        (["--expect", "output.box["], "is no expression"),
    ],
)
def test_nothing_to_shrink_is_said_in_a_sentence(
    folder: AloneFolder, options: list[str], said: str
) -> None:
    assert said in error_of(folder.dora("shrink", "a.mcap", "sane", *options, status=1))


def test_an_expression_about_an_output_that_is_not_there_is_an_error_in_a_test_too(
    folder: AloneFolder,
) -> None:
    recording = str(folder.folder / "a.mcap")
    assert run_recorded(recording, "sane", expect="output.box[0] < 640")["box"]
    with pytest.raises(DoraError, match=r"node `sane` has no output `boks`; it has `box`"):
        run_recorded(recording, "sane", expect="output.boks[0] < 640")


def with_sources(folder: AloneFolder, name: str, **sources: str) -> None:
    """Write the recording once more, with fingerprints."""
    from mcap.reader import make_reader
    from mcap.writer import Writer

    with open(folder.folder / "a.mcap", "rb") as file, open(folder.folder / name, "wb") as target:
        reader = make_reader(file)
        summary = reader.get_summary()
        assert summary is not None
        writer = Writer(target)
        writer.start("dora", "test")
        for record in reader.iter_metadata():
            more = {"sources": json.dumps(sources)} if record.name == "dora" else {}
            writer.add_metadata(record.name, {**record.metadata, **more})
        for attachment in reader.iter_attachments():
            writer.add_attachment(0, 0, attachment.name, attachment.media_type, attachment.data)
        schemas = {0: 0}
        for id_, schema in summary.schemas.items():
            schemas[id_] = writer.register_schema(schema.name, schema.encoding, schema.data)
        channels = {}
        for id_, one in summary.channels.items():
            schema_id = schemas[one.schema_id]
            channels[id_] = writer.register_channel(
                one.topic, one.message_encoding, schema_id, one.metadata
            )
        for _, channel, message in reader.iter_messages():
            writer.add_message(
                channels[channel.id], message.log_time, message.data, message.publish_time, message.sequence
            )
        writer.finish()


@pytest.mark.slow
def test_code_that_has_changed_is_named_with_both_fingerprints(folder: AloneFolder) -> None:
    then = hashlib.sha256((folder.folder / "matcher.py").read_bytes()).hexdigest()
    with_sources(folder, "b.mcap", **{"matcher.py": then, "caller.py": "0" * 64})
    assert "changed" not in folder.dora("shrink", "b.mcap", "matcher")
    program = (folder.folder / "matcher.py").read_text()
    (folder.folder / "matcher.py").write_text(program.replace("right >= 40", "right > 400"))
    now = hashlib.sha256((folder.folder / "matcher.py").read_bytes()).hexdigest()
    output = folder.dora("shrink", "b.mcap", "matcher", status=1)
    assert f"matcher.py ({then[:8]} then, {now[:8]} now) changed since the recording" in error_of(output)
    assert "the failure (ValueError: forty) did not come again in 10 tries" in error_of(output)


def test_threads_of_a_node_are_named_if_its_failure_does_not_come_again(folder: AloneFolder) -> None:
    program = (folder.folder / "matcher.py").read_text()
    thread = "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    (folder.folder / "matcher.py").write_text(thread + program.replace("right >= 40", "False"))
    output = folder.dora("shrink", "a.mcap", "matcher", "--tries", "2", status=1)
    assert "it has threads of its own (1), whose order is not recorded" in error_of(output)


def test_a_failure_that_comes_now_and_then_is_a_warning(folder: AloneFolder) -> None:
    program = (folder.folder / "sane.py").read_text()
    luck = "import os\nif os.urandom(1)[0] < 128:\n    raise OSError('bad luck')\n"
    (folder.folder / "sane.py").write_text(luck + program)
    done = subprocess.run(
        [sys.executable, "-m", "dora", "shrink", "a.mcap", "sane", "--tries", "50"],
        cwd=folder.folder,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert "does not follow from the events" in done.stderr or "fails in" in done.stderr


@pytest.mark.slow
def test_a_recording_that_was_cut_is_used_up_to_there(folder: AloneFolder) -> None:
    data = (folder.folder / "a.mcap").read_bytes()
    (folder.folder / "cut.mcap").write_bytes(data[: data.index(b"dora.end")])
    output = folder.dora("shrink", "cut.mcap", "matcher")
    assert "warning: cut.mcap: the file was cut off" in output
    (folder.folder / "short.mcap").write_bytes(data[:60])
    assert "cut off before anything was recorded" in error_of(
        folder.dora("shrink", "short.mcap", "matcher", status=1)
    )


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            "path: shell, args: echo hello",
            "is no Python program (sh -c echo hello), and only those run",
        ),
        ("path: dynamic", "is dynamic, so the recording does not say which program it is"),
        ("path: gone.py", "cannot be run: there is no file"),
        (
            "path: sane.py, python: {requirements: []}",
            "environment of its own|environment is not there",
        ),
    ],
)
def test_programs_that_cannot_run_here_are_named(folder: AloneFolder, fields: str, said: str) -> None:
    (folder.folder / "other.yml").write_text(
        "nodes:\n- {id: source, path: source.py, outputs: [left]}\n"
        f"- {{id: sane, {fields}, inputs: {{left: source/left}}, outputs: [box]}}\n"
    )
    output = folder.dora("shrink", "a.mcap", "sane", "--dataflow", "other.yml", status=1)
    assert any(part in error_of(output) for part in said.split("|"))


@pytest.mark.slow
def test_a_dataflow_whose_folder_is_gone_asks_for_its_file(folder: AloneFolder, tmp_path: Path) -> None:
    moved = folder.folder.with_name(folder.folder.name + "-moved")
    os.rename(folder.folder, moved)
    try:
        there = AloneFolder(moved)
        output = there.dora("shrink", "a.mcap", "matcher", status=1)
        assert "is not here; give the file of the dataflow: --dataflow FILE" in error_of(output)
        there.dora("shrink", "a.mcap", "matcher", "--dataflow", "flow.yml", "-o", str(tmp_path))
        (test,) = tmp_path.glob("test_*.py")
        assert 'flow.yml"' in test.read_text()
    finally:
        os.rename(moved, folder.folder)


@pytest.mark.slow
def test_a_disk_that_is_full_is_said_in_a_sentence(folder: AloneFolder, small_disk: Path) -> None:
    filler = os.open(small_disk / "filler", os.O_WRONLY | os.O_CREAT)
    try:
        while os.write(filler, bytes(4096)):
            pass
    except OSError:
        pass  # it is full
    finally:
        os.close(filler)
    output = folder.dora("shrink", "a.mcap", "matcher", "-o", str(small_disk), status=1)
    assert "no room left" in error_of(output).lower() or "no space left" in error_of(output).lower()


def interrupted(folder: AloneFolder, *arguments: str, ready: str) -> str:
    """Send Ctrl-C to a command as a terminal does, to all of its processes; return what it printed."""
    process = subprocess.Popen(
        [*DORA, *arguments],
        cwd=folder.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        wait_until((folder.folder / ready).exists, "the node to run")
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130, output
    assert "Traceback" not in output
    return output


@pytest.mark.parametrize("arguments", [["shrink"], ["debug"], ["debug", "--at", "failure"]])
def test_ctrl_c_ends_it_in_a_sentence(folder: AloneFolder, arguments: list[str]) -> None:
    command, *options = arguments
    hangs = "import pathlib, time\npathlib.Path('runs').touch()\ntime.sleep(1000)\n"
    folder.program("sane.py", hangs)
    try:
        assert "interrupted" in interrupted(folder, command, "a.mcap", "sane", *options, ready="runs")
    finally:
        (folder.folder / "runs").unlink(missing_ok=True)


# ------------------------------------------------------------------------------ debug


def test_it_stops_at_the_failure_with_the_event_in_hand(folder: AloneFolder) -> None:
    commands = "p 'in hand', event['type']\nwhat followed\nback\nevent\nnext event\nnext\nc\nq\n"
    output = folder.dora("debug", "a.mcap", "matcher", "--at", "failure", stdin=commands, status=1)
    assert "matcher fails at event" in output
    assert "ValueError: forty (matcher.py, line 12)" in output
    assert "a set of messages that `left` leads" in output
    assert "('in hand', 'SYNC')" in output
    assert re.search(r"it sent `pair` double\[2\]: ", output)  # what followed
    assert len(set(re.findall(r"  left: double\[2\]: (.*)", output))) == 2  # it went back
    assert re.search(r"sends `pair` double\[2\]: .*  \(as recorded\)", output)


def test_it_stops_in_the_method_of_an_operator(folder: AloneFolder) -> None:
    output = folder.dora("debug", "a.mcap", "hands", "--at", "0.05s", stdin="p event['type']\nw\nq\n")
    assert "operator_.py(9)on_event()" in output
    assert "(dora) 'INPUT'" in output


def test_it_stops_in_an_async_node_and_where_the_program_says(folder: AloneFolder) -> None:
    output = folder.dora("debug", "a.mcap", "gatherer", "--at", "0s", stdin="p event['id']\nq\n")
    assert "gatherer.py(8)main()" in output
    program = (folder.folder / "sane.py").read_text()
    folder.program("sane.py", program.replace("node.send_output", "breakpoint(); node.send_output", 1))
    output = folder.dora("debug", "a.mcap", "sane", stdin="p event['id']\nq\n")
    assert "(dora) 'left'" in output


def test_breakpoints_stay_when_it_goes_back(folder: AloneFolder) -> None:
    commands = "b sane.py:8\nback 3\nc\np 'stopped at', event['metadata']['number']\nq\n"
    output = folder.dora("debug", "a.mcap", "sane", "--at", "0.1s", stdin=commands)
    assert "'stopped at'" in output


@pytest.mark.slow
def test_without_a_moment_it_runs_to_the_end_and_shows_what_differs(folder: AloneFolder) -> None:
    assert "sent: 60 messages, as recorded" in folder.dora("debug", "a.mcap", "sane")
    program = (folder.folder / "sane.py").read_text()
    folder.program("sane.py", program.replace("* 10", "* 11"))
    output = folder.dora("debug", "a.mcap", "sane")
    assert "sends `box` int64[2]: [11, 3]  (recorded: int64[2]: [10, 3])" in output
    assert "sent: 60 messages, 59 of them not as recorded" in output
    assert output.count("sends `box`") == 10
    assert output.count("sends more that is not as recorded, which is counted") == 1
    failed = folder.dora("debug", "a.mcap", "matcher", status=1)
    assert "matcher fails at event" in failed
    assert "Traceback (most recent call last):\n  File" in failed


def test_a_moment_after_the_end_is_refused(folder: AloneFolder) -> None:
    assert "took its last event at" in error_of(
        folder.dora("debug", "a.mcap", "sane", "--at", "1h", status=1)
    )


def test_the_launch_file_of_vs_code_keeps_other_configurations(tmp_path: Path) -> None:
    from dora.cli.commands.alone import write_launch_file
    from dora.errors import DoraError

    path = tmp_path / ".vscode" / "launch.json"
    write_launch_file(5678, str(path))
    content = json.loads(path.read_text())
    content["configurations"].insert(0, {"name": "mine"})
    path.write_text(json.dumps(content))
    write_launch_file(5679, str(path))
    names = [(one["name"], one.get("connect")) for one in json.loads(path.read_text())["configurations"]]
    assert names == [("mine", None), ("dora debug", {"host": "127.0.0.1", "port": 5679})]
    path.write_text("{ // a comment\n}")
    with pytest.raises(DoraError, match=r"is no plain JSON .*add this to its `configurations`"):
        write_launch_file(5678, str(path))


def test_debugpy_that_is_missing_is_said_with_what_to_install(folder: AloneFolder) -> None:
    (folder.folder / "debugpy.py").write_text("raise ImportError('not here')\n")
    try:
        output = folder.dora(
            "debug",
            "a.mcap",
            "sane",
            "--vscode",
            status=1,
            environment={"PYTHONPATH": str(folder.folder)},
        )
    finally:
        (folder.folder / "debugpy.py").unlink()
    assert "pip install 'dora-dataflow[debugger]'" in error_of(output)


class DebugAdapterClient:
    """As much of an editor as it takes: a client of the Debug Adapter Protocol."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), TIMEOUT)
        self._file = self._socket.makefile("rb")
        self._sent = 0

    def ask(self, command: str, **arguments: object) -> dict[str, Any]:
        """Send a request and return the body of its response."""
        self.send(command, **arguments)
        answer = self.wait(lambda message: message.get("request_seq") == self._sent)
        assert answer["success"], answer
        body: dict[str, Any] = answer.get("body") or {}
        return body

    def send(self, command: str, **arguments: object) -> None:
        self._sent += 1
        request = {"seq": self._sent, "type": "request", "command": command, "arguments": arguments}
        data = json.dumps(request).encode()
        self._socket.sendall(b"Content-Length: %d\r\n\r\n%b" % (len(data), data))

    def wait(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return the first message that is wanted."""
        while True:
            size = 0
            while (line := self._file.readline()) != b"\r\n":
                assert line, "the debugger has hung up"
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    size = int(value)
            message: dict[str, Any] = json.loads(self._file.read(size))
            if wanted(message):
                return message

    def close(self) -> None:
        self._file.close()
        self._socket.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("node_id", "file", "function"),
    [
        ("matcher", "matcher.py", "<module>"),
        ("hands", "operator_.py", "on_event"),
    ],
)
def test_an_editor_that_attaches_stops_in_the_program(
    folder: AloneFolder, node_id: str, file: str, function: str
) -> None:
    pytest.importorskip("debugpy")
    port = free_port()
    process = subprocess.Popen(
        [
            *DORA,
            "debug",
            "a.mcap",
            node_id,
            "--at",
            "failure",
            "--listen",
            str(port),
        ],
        cwd=folder.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        next(line for line in process.stdout if "waiting for a debugger" in line)
        client = DebugAdapterClient(port)
        client.ask("initialize", adapterID="test")
        client.send("attach", justMyCode=True, connect={"host": "127.0.0.1", "port": port})
        client.wait(lambda message: message.get("event") == "initialized")
        client.ask("configurationDone")
        thread = client.wait(lambda message: message.get("event") == "stopped")["body"]["threadId"]
        (top, *_) = client.ask("stackTrace", threadId=thread)["stackFrames"]
        assert (os.path.basename(top["source"]["path"]), top["name"]) == (file, function)
        client.ask("continue", threadId=thread)
        client.wait(lambda message: message.get("event") == "terminated")
        client.close()  # the adapter, which has our pipe, ends with it
        rest, _ = process.communicate(timeout=TIMEOUT)
        assert f"{node_id} fails at event" in rest
        assert process.returncode == 1
    finally:
        process.kill()
        process.communicate()
