"""`dora run`, `dora build`, `dora.run` and `dora.build` with real processes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from ports import free_port
from waiting import TIMEOUT

import dora

pytestmark = pytest.mark.processes


SENDER = """
from dora import Node
node = Node()
for number in range(3):
    node.send_output("number", bytes([number]))
"""

RECEIVER = """
from dora import Node
for event in Node():
    if event["type"] == "INPUT":
        print("got", event["value"].to_pylist())
"""

WAITER = """
from dora import Node
node = Node()
print("waiting", flush=True)
for event in node:
    print("event", event["type"], event["id"])
"""

FLOOD = """
from dora import Node
node = Node()
for _ in range(100):
    node.send_output("number", b"x")
open("sent", "wb").close()
"""

DEAF = """
from dora import Node
node = Node()
open("sent", "rb").read()
"""

PIPE = """
nodes:
  - id: sender
    path: sender.py
    outputs: [number]
  - id: receiver
    path: receiver.py
    inputs: {number: sender/number}
"""

OPERATOR = """
from dora import DoraStatus

class Operator:
    def on_event(self, event, send_output):
        {body}
"""
ONE = """
nodes:
  - id: only
    path: only.py
"""

TICKING = """
nodes:
  - id: only
    path: only.py
    inputs: {tick: dora/timer/secs/3600}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty folder that is the current one; runtime files stay in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    for name in list(os.environ):
        if name.startswith("DORA_") and name != "DORA_RUNTIME_DIR":
            monkeypatch.delenv(name)
    return tmp_path


def write(**files):
    for name, text in files.items():
        path = Path(name.replace("__", "."))
        path.write_text(text)


def command(*arguments):
    return [sys.executable, "-m", "dora", *arguments]


def run(*arguments, **options):
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=TIMEOUT, **options)


@contextmanager
def started(*arguments, until):
    """Start a command line and read its output up to a line that ends so; killed at the end."""
    process = subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        for line in process.stdout:
            if line.rstrip().endswith(until):
                break
        yield process
    finally:
        process.kill()
        process.communicate(timeout=TIMEOUT)


def test_a_clean_run_prints_the_logs_and_nothing_else(folder):
    write(dataflow__yml=PIPE, sender__py=SENDER, receiver__py=RECEIVER)
    done = run("run", "dataflow.yml", "--log-format", "compact")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.partition(" ")[2] for line in done.stdout.splitlines()] == [
        f"stdout receiver: got [{number}]" for number in range(3)
    ]
    (directory,) = filter(Path.is_dir, (folder / "out").iterdir())
    (log,) = directory.iterdir()
    assert log.name == "log_receiver.jsonl"
    assert [json.loads(line)["msg"] for line in log.read_text().splitlines()] == [
        f"got [{number}]" for number in range(3)
    ]


def test_a_failed_node_is_reported_with_its_last_lines(folder):
    write(dataflow__yml=ONE, only__py="from dora import Node\nNode()\nraise ValueError('no more film')\n")
    done = run("run", "dataflow.yml")
    assert done.returncode == 1
    (directory,) = filter(Path.is_dir, (folder / "out").iterdir())
    report = done.stderr.strip().splitlines()
    assert report[0] == "dataflow.yml failed:"
    assert "Node `only` exited with status 1. Its last lines:" in report
    assert "    ValueError: no more film" in report
    assert report[-3:] == [
        f"Logs: out/{directory.name}",
        "",
        "error: dataflow.yml: node `only` exited with status 1: ValueError: no more film (only.py:3)",
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
def test_the_default_file_is_dataflow_yml():
    for command in ("run", "graph", "build", "validate"):
        done = run(command)
        assert done.returncode == 2
        assert done.stderr.startswith("error: there is no dataflow.yml in this folder; give the file")
    assert run("record").returncode == 1
    node = "from dora import Node\nNode().send_output('x', b'x')\nprint('ran')\n"
    write(dataflow__yml="nodes: [{id: a, path: a.py, outputs: [x]}]", a__py=node)
    assert "ran" in run("run").stdout
    assert "dataflow-graph.html" in run("graph").stdout
    assert run("build").returncode == run("validate").returncode == 0
    recorded = run("record", "-o", "a.mcap")
    assert recorded.stderr.startswith("no dataflow is running, so this runs dataflow.yml\n")
    assert "ran" in recorded.stdout and Path("a.mcap").exists()


@pytest.mark.usefixtures("folder")
def test_a_program_instead_of_a_dataflow_is_answered_with_what_to_do():
    write(camera__py="from dora import Node\n")
    done = run("run", "camera.py")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: camera.py is a Python program; dora runs dataflow files")
    assert "nodes:\n  - id: camera\n    path: camera.py\n" in done.stderr
    write(lab__yml="nodes: [{id: eye, path: camera.py}]\n")
    assert "hint: lab.yml has this one: `dora run lab.yml`" in run("run", "camera.py").stderr


@pytest.mark.usefixtures("folder")
def test_a_failed_operator_is_named():
    bad = "{id: bad, python: bad.py, inputs: {tick: dora/timer/millis/10}}"
    operators = f"nodes: [{{id: runtime, operators: [{{id: good, python: good.py}}, {bad}]}}]\n"
    write(dataflow__yml=operators, good__py=OPERATOR.format(body="return DoraStatus.CONTINUE"))
    for body in ("raise ValueError('no model')", "return 7"):
        write(bad__py=OPERATOR.format(body=body))
        done = run("run", "dataflow.yml")
        assert done.returncode == 1
        assert "Node `runtime` exited with status 1 in operator `bad`. Its last lines:" in done.stderr
    write(bad__py="import no_such_module\n")
    done = run("run", "dataflow.yml")
    assert "Node `runtime` exited with status 1 in operator `bad`. Its last lines:" in done.stderr
    assert "No module named 'no_such_module'" in done.stderr


@pytest.mark.usefixtures("folder")
def test_nodes_that_were_stopped_because_of_another_one_take_one_line():
    nodes = "".join(f"- {{id: {name}, path: fine.py, args: {name}}}\n" for name in "abc")
    write(
        dataflow__yml=f"nodes:\n- {{id: broken, path: broken.py}}\n{nodes}",
        broken__py="import os\nwhile not all(map(os.path.exists, 'abc')): pass\nimport no_such",
        fine__py="import dora, pyarrow, sys\nopen(sys.argv[1], 'w')\nfor event in dora.Node(): pass\n",
    )
    done = run("run", "dataflow.yml", "--log-format", "compact")
    assert done.returncode == 1
    assert "No module named 'no_such'" in done.stdout and "could not start" not in done.stdout
    (others,) = (line for line in done.stderr.splitlines() if "others were stopped because of it" in line)
    assert others.startswith("3 others were stopped") and all(f"`{name}`" in others for name in "abc")


def test_losses_are_shown_after_a_run_that_went_well():
    os.mkfifo("sent")  # opening it waits for the other side
    write(dataflow__yml=PIPE, sender__py=FLOOD, receiver__py=DEAF)
    done = run("run", "dataflow.yml")
    assert done.returncode == 0
    assert "Messages that were not received:" in done.stderr
    assert "sender/number -> receiver/number" in done.stderr
    assert "Dataflow" not in done.stderr


def test_a_report_without_log_files_names_no_directory():
    Path("out").write_text("a file where the folder should be")
    write(dataflow__yml=ONE, only__py="from dora import Node\nNode()\nraise ValueError('no more film')\n")
    done = run("run", "dataflow.yml")
    assert done.returncode == 1
    assert "cannot write log files in" in done.stdout
    assert "no more film" in done.stderr and "Logs:" not in done.stderr


def test_a_missing_script_is_named_with_its_line(folder):
    write(dataflow__yml=ONE)
    done = run("run", "dataflow.yml")
    assert done.returncode == 1
    assert done.stderr.startswith("dataflow.yml:4:11: error:") and "only.py" in done.stderr
    assert not (folder / "out").exists()


def test_missing_commands_are_named_with_their_lines_before_the_start(folder):
    write(
        dataflow__yml="nodes:\n- {id: a, path: c.py}\n- {id: b, path: no-plot}\n- {id: c, path: no-cam}\n",
        c__py="print('started')\n",
    )
    done = run("run", "dataflow.yml")
    assert (done.returncode, done.stdout) == (1, "")
    places = [line.partition(" error:")[0] for line in done.stderr.splitlines() if " error:" in line]
    assert places == ["dataflow.yml:3:17:", "dataflow.yml:4:17:"]
    assert not (folder / "out").exists()


def test_a_command_that_the_build_did_not_bring(folder):
    write(
        dataflow__yml="nodes: [{id: a, path: no-camera, build: python make.py}]", make__py="print('made')\n"
    )
    done = run("run", "dataflow.yml")
    assert done.returncode == 1 and "made" in done.stdout
    assert done.stderr.startswith(
        "dataflow.yml:1:23: error: the node `a` cannot be started: there is no file"
    )
    assert not (folder / "out").exists()


def test_filters_and_json(folder):
    chatty = (
        "from dora import Node\nnode = Node()\nprint('raw')\n"
        "for level in ('debug', 'info', 'warn'):\n    node.log(level, level)\n"
    )
    write(dataflow__yml=ONE, only__py=chatty)

    def shown(*options, **environ):
        done = run("run", "dataflow.yml", "--log-format=json", *options, env={**os.environ, **environ})
        assert done.returncode == 0
        entries = [json.loads(line) for line in done.stdout.splitlines()]
        assert len({entry["dataflow_id"] for entry in entries}) == 1
        assert (folder / "out" / entries[0]["dataflow_id"]).is_dir()
        return {entry["message"] for entry in entries}

    assert shown() == {"raw", "debug", "info", "warn"}
    assert shown("--log-level", "info") == {"info", "warn"}
    assert shown("--log-filter", "only=debug", DORA_LOG_LEVEL="warn") == {"debug", "info", "warn"}


def test_a_filter_for_an_unknown_node_is_a_warning():
    write(dataflow__yml=ONE, only__py="from dora import Node\nNode()\n")
    done = run("run", "dataflow.yml", "--log-filter", "onli=debug")
    assert (done.returncode, done.stderr) == (
        0,
        "warning: the log filter names `onli`: this dataflow has no node `onli`; did you mean `only`?\n",
    )


def test_a_variable_with_an_invalid_name_is_reported_and_left_out():
    write(dataflow__yml=ONE, only__py="from dora import Node\nNode()\n")
    done = run("run", "dataflow.yml", "--env", "A B=red")
    assert done.returncode == 0
    assert "warning: `A B` cannot name an environment variable; it is left out" in done.stderr


def test_variables_from_the_command_line_reach_nodes():
    write(
        dataflow__yml=ONE,
        only__py="import os\nfrom dora import Node\nNode()\nprint(os.environ['COLOUR'])\n",
    )
    done = run("run", "dataflow.yml", "--env", "COLOUR=red", "--log-format=compact")
    assert done.stdout.endswith("only: red\n")


def test_stop_after():
    write(dataflow__yml=TICKING, only__py=WAITER)
    # It counts from before the node is started, which takes a busy machine its time.
    for seconds in ("500ms", "2s", "8s", "25s"):
        done = run("run", "dataflow.yml", "--stop-after", seconds, "--log-format=compact")
        assert (done.returncode, done.stderr) == (0, "")
        if "only: event" in done.stdout:
            break
    assert "only: event STOP MANUAL" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_the_dataflow_cleanly(number):
    write(dataflow__yml=TICKING, only__py=WAITER)
    with started("run", "dataflow.yml", until="waiting") as process:
        process.send_signal(number)
        out, err = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, err) == (0, "")
    assert "event STOP MANUAL" in out


def test_a_reader_of_the_output_that_went_away_does_not_end_the_dataflow(folder):
    chatty = (
        "import os, time\nfrom dora import Node\nnode = Node()\nprint('ready', flush=True)\n"
        "while not os.path.exists('closed'):\n    time.sleep(0.01)\n"
        "for _ in range(1000):\n    print('x' * 100)\nopen('finished', 'w').close()\n"
    )
    write(dataflow__yml=ONE, only__py=chatty)
    with started("run", "dataflow.yml", until="ready") as process:
        process.stdout.close()
        write(closed="")
        assert process.wait(TIMEOUT) == 0
        assert process.stderr.read() == (
            "warning: standard output was closed; the dataflow goes on without showing its logs, Ctrl-C "
            "stops it\n"
        )
    assert (folder / "finished").exists()


def test_run_builds_first_and_stops_at_a_build_that_fails():
    maker = "from pathlib import Path\nPath('only.py').write_text('from dora import Node; Node()')\n"
    write(dataflow__yml=ONE + "    build: python make.py\n", make__py=maker)
    done = run("run", "dataflow.yml")
    assert (done.returncode, done.stderr) == (0, "")
    assert "[build] running `python make.py`" in done.stdout

    write(make__py="print('missing part')\nraise SystemExit(4)\n")
    done = run("run", "dataflow.yml")
    assert done.returncode == 1
    assert done.stderr == (
        "error: node `only`: the build command `python make.py` exited with status 4\n  | missing part\n"
    )


def test_build_does_not_start_nodes(folder):
    write(dataflow__yml=ONE + "    build: python make.py\n", make__py="print('made')\n")
    done = run("build", "dataflow.yml", "--local")
    assert (done.returncode, done.stderr) == (0, "")
    *_, made, summary = done.stdout.splitlines()
    assert made.endswith("[build] made") and re.fullmatch(r"built in .* s: 1 command", summary)
    assert [path.name for path in (folder / "out").iterdir()] == ["dataflow.dora-session.yaml"]


def test_an_interrupted_build_leaves_nothing_running():
    write(
        dataflow__yml=ONE + "    build: python make.py\n",
        make__py="import os, signal\nprint('building', os.getpid())\nsignal.pause()\n",
        only__py="",
    )
    process = subprocess.Popen(
        command("run", "dataflow.yml"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        line = next(line for line in process.stdout if "building" in line)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, err) == (130, "\nerror: interrupted\n")
    with pytest.raises(ProcessLookupError):
        os.kill(int(line.split()[-1]), 0)


@contextmanager
def web_server(pages):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            page = pages.get(self.path)
            self.send_response(200 if page is not None else 404)
            self.end_headers()
            self.wfile.write(page or b"")

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", free_port()), Handler)  # nobody else's when it is gone
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_dataflow_from_the_web_runs_with_the_scripts_of_the_current_folder():
    write(only__py="from dora import Node\nNode()\nprint('here')\n")
    with web_server({"/flow.yml": ONE.encode(), "/bad.yml": b"nodes: 5", "/raw": b"\xff"}) as address:
        done = run("run", f"{address}/flow.yml")
        assert (done.returncode, done.stderr) == (0, "")
        assert "here" in done.stdout
        assert run("validate", f"{address}/bad.yml").stderr.startswith(f"{address}/bad.yml:1:8: error:")
        assert "the server says 404" in run("run", f"{address}/nothing.yml").stderr
        assert "not a text in UTF-8" in run("run", f"{address}/raw").stderr
    gone = run("run", f"{address}/flow.yml")
    assert gone.returncode == 1
    assert gone.stderr == f"error: cannot download {address}/flow.yml: Connection refused\n"


def test_a_dataflow_from_the_web_is_expanded_with_the_modules_of_the_current_folder(folder):
    shutil.copytree(Path(__file__).parents[2] / "examples" / "modules", folder, dirs_exist_ok=True)
    pages = {"/flow.yml": Path("dataflow.yml").read_bytes(), "/bad.yml": b"nodes: 5"}
    with web_server(pages) as address:
        done = run("expand", f"{address}/flow.yml")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == run("expand", "dataflow.yml").stdout
        assert run("expand", f"{address}/bad.yml").stderr.startswith(f"{address}/bad.yml:1:8: error:")
        assert "the server says 404" in run("expand", f"{address}/nothing.yml").stderr


def test_dora_run_can_be_called_repeatedly(capfd):
    write(dataflow__yml=PIPE, sender__py=SENDER, receiver__py=RECEIVER)
    entries = []
    for _ in range(2):
        result = dora.run("dataflow.yml", on_log=entries.append)
        assert [(link.link, link.sent, link.received) for link in result.links] == [
            ("sender/number -> receiver/number", 3, 3)
        ]
    assert [entry.message for entry in entries] == 2 * [f"got [{number}]" for number in range(3)]
    out, err = capfd.readouterr()
    assert out.count("got [0]") == 2
    assert err == ""


def test_run_from_a_thread():
    write(dataflow__yml=PIPE, sender__py=SENDER, receiver__py=RECEIVER)
    results = []
    thread = threading.Thread(target=lambda: results.append(dora.run(Path("dataflow.yml"))))
    thread.start()
    thread.join(TIMEOUT)
    assert results[0].ok


def test_run_from_python_raises_with_the_report():
    write(dataflow__yml=ONE, only__py="from dora import Node\nNode()\nraise SystemExit(7)\n")
    with pytest.raises(RuntimeError) as caught:
        dora.run("dataflow.yml")
    assert isinstance(caught.value, dora.DataflowFailed)
    assert "Node `only` exited with status 7" in str(caught.value)
    with pytest.raises(dora.DataflowError, match=r"no file `nope.yml`"):
        dora.run("nope.yml")


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"stop_after": -1}, "stop_after is -1"),
        ({"stop_after": "5s"}, "stop_after is .5s."),
        ({"stop_after": float("nan")}, "stop_after is nan"),
        ({"grace": float("inf")}, "grace is inf"),
        ({"env": {"SIZE": 5}}, "the value of `SIZE` is 5; it has to be a string"),
        ({"env": {"SIZE": "a\0b"}}, "the value of `SIZE` has a NUL character"),
        ({"engine": "pigeon"}, "engine is `pigeon`; it can be iceoryx2 or shm"),
        ({"log_level": "loud"}, "unknown log level `loud`"),
        ({"log_format": "xml"}, "log_format is 'xml'; it can be pretty, json, compact"),
    ],
)
def test_run_from_python_refuses_impossible_options(option, sentence, monkeypatch):
    monkeypatch.delenv("DORA_ENGINE", raising=False)
    write(dataflow__yml=ONE, only__py="from dora import Node\nNode()\n")
    with pytest.raises(dora.DoraError, match=sentence):
        dora.run("dataflow.yml", **option)


def test_build_from_python(capfd):
    write(dataflow__yml=ONE + "    build: python make.py\n", make__py="print('made')\n")
    assert dora.build("dataflow.yml", uv=None, coordinator_addr="127.0.0.1", force_local=True) is None
    assert "[build] made" in capfd.readouterr().out
    write(make__py="raise SystemExit(1)\n")
    with pytest.raises(dora.BuildError, match="exited with status 1"):
        dora.build("dataflow.yml")
