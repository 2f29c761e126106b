"""Calls of `dora`: options, exit statuses, JSON, and the life of a dataflow on a coordinator."""

import json
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from benchmarks.compatibility.case import Case
from benchmarks.compatibility.documents import DOCUMENTS, MODULE
from benchmarks.compatibility.observations import shape
from benchmarks.compatibility.runs import Finished, Place, place
from benchmarks.runner import Implementation

Notes = dict[str, Any]

ENDLESS = """
import pyarrow as pa
from dora import Node

node = Node()
for event in node:
    if event["type"] == "INPUT":
        node.send_output("value", pa.array([1, 2]))
    elif event["type"] == "PARAM_UPDATE":
        print("parameter", event["id"], event["value"], flush=True)
"""
SINK = """
from dora import Node

for event in Node():
    pass
"""
RUNNING = """
nodes:
  - {id: source, path: endless.py, inputs: {tick: dora/timer/millis/100}, outputs: [value]}
  - {id: sink, path: sink.py, inputs: {value: {source: source/value, queue_size: 5}}}
"""
PROGRAMS = {
    "good.py": "from dora import Node\nnode = Node()\nprint('hello')\nnode.log_info('logged')\n",
    "failing.py": "from dora import Node\nNode()\nraise SystemExit(3)\n",
    "raising.py": "from dora import Node\nNode()\nraise ValueError('as planned')\n",
    "early.py": "raise SystemExit(3)\n",
    "without_node.py": "print('no node')\n",
    "killed.py": "import os, signal\nfrom dora import Node\nNode()\nos.kill(os.getpid(), signal.SIGKILL)\n",
    "endless.py": ENDLESS,
    "sink.py": SINK,
    "stubborn.py": "import time\nfrom dora import Node\nnode = Node()\ntime.sleep(60)\n",
}
# What `dora run` is given, and the nodes of the dataflow.
RUNS = {
    "good": ("nodes: [{id: a, path: good.py}]", ()),
    "failing": ("nodes: [{id: a, path: failing.py}]", ()),
    "raising": ("nodes: [{id: a, path: raising.py}, {id: b, path: good.py}]", ()),
    "killed": ("nodes: [{id: a, path: killed.py}]", ()),
    "ends before it registers": ("nodes: [{id: a, path: early.py}, {id: b, path: good.py}]", ()),
    "ends well without a node": ("nodes: [{id: a, path: without_node.py}]", ()),
    "no such program": ("nodes: [{id: a, path: absent.py}]", ()),
    "no such command": ("nodes: [{id: a, path: no-such-command}]", ()),
    "failing build": ("nodes: [{id: a, path: good.py, build: 'false'}]", ()),
    "build": ("nodes: [{id: a, path: good.py, build: 'touch built'}]", ()),
    "shell node": ("nodes: [{id: a, path: shell, args: 'true'}]", ()),
    "allowed shell node": ("nodes: [{id: a, path: shell, args: 'exit 4'}]", ("--allow-shell-nodes",)),
    "stopped": (RUNNING, ("--stop-after", "2s")),
    "stopped in milliseconds": (RUNNING, ("--stop-after", "1500ms")),
    "bad duration": (RUNNING, ("--stop-after", "soon")),
    "bad log level": (RUNNING, ("--log-level", "loud")),
    "variable": ("nodes: [{id: a, path: good.py}]", ("--env", "A=b")),
    "variable without a value": ("nodes: [{id: a, path: good.py}]", ("--env", "A")),
    "variable with leading zeros": ("nodes: [{id: a, path: good.py}]", ("--env", "A=007")),
    "variable with a dollar": ("nodes: [{id: a, path: good.py}]", ("--env", "A=$B")),
    "deployed": ("nodes: [{id: a, path: good.py, deploy: {machine: m}}]", ()),
    "operator that is missing": ("nodes: [{id: a, operator: {python: absent.py}}]", ()),
    "locked": ("nodes: [{id: a, path: good.py}]", ("--locked",)),
}
# Calls without a coordinator; what is compared beside the exit status.
CALLS: dict[str, tuple[str, ...]] = {
    "nothing": (),
    "help": ("--help",),
    "help of a command": ("help", "run"),
    "version": ("--version",),
    "unknown command": ("frobnicate",),
    "unknown option": ("run", "--frobnicate"),
    "run without a file": ("run",),
    "run of no file": ("run", "absent.yml"),
    "run of a folder": ("run", "."),
    "validate of no file": ("validate", "absent.yml"),
    "validate by default": ("validate",),
    "build of no file": ("build", "absent.yml"),
    "build": ("build", "good.yml"),
    "expand of no file": ("expand", "absent.yml"),
    "expand of a module": ("expand", "module.yml", "--module"),
    "graph of no file": ("graph", "absent.yml"),
    "graph": ("graph", "good.yml"),
    "graph as Mermaid": ("graph", "good.yml", "--mermaid"),
    "new dataflow": ("new", "fresh", "--lang", "python"),
    "new node": ("new", "fresh-node", "--kind", "node", "--lang", "python"),
    "new with a bad name": ("new", "a/b", "--lang", "python"),
    "new where a folder is": ("new", "folder", "--lang", "python"),
    "new in an unknown language": ("new", "other", "--lang", "cobol"),
    "completion": ("completion", "bash"),
    "completion for an unknown shell": ("completion", "csh"),
    "list": ("list",),
    "list as JSON": ("list", "-f", "json"),
    "ps": ("ps",),
    "stop": ("stop", "x"),
    "start": ("start", "good.yml"),
    "logs": ("logs", "x"),
    "logs without anything": ("logs", "--local"),
    "node list": ("node", "list"),
    "node info": ("node", "info", "a"),
    "topic list": ("topic", "list"),
    "param list": ("param", "list", "a"),
    "param set": ("param", "set", "a", "k", "1"),
    "top once": ("top", "--once"),
    "inspect top once": ("inspect", "top", "--once"),
    "clean": ("clean",),
    "restart": ("restart", "x"),
    "status": ("status",),
    "status as JSON": ("status", "-f", "json"),
    "check": ("check",),
    "system status": ("system", "status"),
    "trace list": ("trace", "list"),
    "trace view": ("trace", "view", "00"),
    "doctor of no file": ("doctor", "--dataflow", "absent.yml"),
    "doctor of a bad file": ("doctor", "--dataflow", "bad.yml"),
    "replay of no file": ("replay", "absent.drec"),
    "record of no file": ("record", "absent.yml"),
    "down": ("down",),
    "cluster status": ("cluster", "status"),
    "cluster up of no file": ("cluster", "up", "absent.yml"),
    "self update": ("self", "update", "--check-only"),
    "hub list": ("hub", "list"),
}


def cases() -> Iterator[Case]:
    """Yield all cases of commands."""
    yield Case("commands/help", observe_help)
    for name, call in CALLS.items():
        yield Case(f"commands/call/{name}", partial(observe_call, name, call))
    for name, (dataflow, options) in RUNS.items():
        yield Case(f"commands/run/{name}", partial(observe_run, name, dataflow, options))
    for name, document in DOCUMENTS.items():
        yield Case(f"commands/validate/{name}", partial(observe_document, name, document))
    yield Case("commands/life", observe_life)


def observe_help(side: Implementation) -> Notes:
    """Note the commands and the options in the help of each, from `dora --help` down."""
    found: Notes = {}

    def visit(where: Place, command: tuple[str, ...]) -> None:
        printed = where.run(*command, "--help").stdout
        name = " ".join(("dora", *command))
        options = set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*(?=[ ,=\[\n]|$)", _options(printed)))
        found[f"commands/help/options of {name} names"] = sorted(options)
        commands = _commands(printed) if len(command) < 2 else []
        found[f"commands/help/commands of {name} names"] = sorted(commands)
        for subcommand in commands:
            if subcommand != "help":
                visit(where, (*command, subcommand))

    with place(side) as where:
        visit(where, ())
    return found


def observe_call(name: str, call: tuple[str, ...], side: Implementation) -> Notes:
    """Note the exit status of a call, the files that it makes, and the shape of JSON that it prints."""
    with place(side) as where:
        _write(where, {"good.yml": "nodes: [{id: a, path: good.py, outputs: [x]}]\n"})
        _write(where, {"bad.yml": "nodes: [{id: a}]\n", "folder/file": "", "module.yml": MODULE})
        before = _files(where.folder)
        done = where.run(*call)
        found = {f"commands/call/{name}/exit status": _status(done)}
        made = sorted({path.split("/")[0] for path in _files(where.folder) - before} - {"out"})
        found[f"commands/call/{name}/files names"] = made
        if "json" in call or "--once" in call:
            found[f"commands/call/{name}/JSON names"] = shape(_json(done.stdout))
        if call[:1] == ("new",) and made:
            tree = sorted(_files(where.folder / made[0]))
            found[f"commands/call/{name}/tree names"] = [path for path in tree if "__pycache__" not in path]
        return found


def observe_run(name: str, dataflow: str, options: tuple[str, ...], side: Implementation) -> Notes:
    """Note the exit status of `dora run`, the files that it leaves, and the keys in the logs."""
    with place(side) as where:
        _write(where, {**PROGRAMS, "dataflow.yml": dataflow})
        before = _files(where.folder)
        done = where.run("run", "dataflow.yml", *options)
        found = {f"commands/run/{name}/exit status": _status(done)}
        made = {
            re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "(id)", path) for path in _files(where.folder) - before
        }
        found[f"commands/run/{name}/files names"] = sorted(
            path for path in made if "__pycache__" not in path
        )
        for log in where.folder.glob("out/*/log_a.jsonl"):
            entries = [json.loads(line) for line in log.read_text().splitlines()]
            entries = [entry for entry in entries if entry.get("msg") in ("hello", "logged")]
            found[f"commands/run/{name}/log file names"] = shape(entries)
            found[f"commands/run/{name}/log levels"] = [[e["msg"], e["level"], e["node"]] for e in entries]
        return found


def observe_document(name: str, document: str, side: Implementation) -> Notes:
    """Note that `dora validate` refuses a file, or what `dora expand` makes of it."""
    with place(side) as where:
        _write(where, {"dataflow.yml": document, "module.yml": MODULE})
        accepted = where.run("validate", "dataflow.yml").status == 0
        found = _yaml(where.run("expand", "dataflow.yml")) if accepted else "refused"
        return {f"commands/validate/{name}": found}


def observe_life(side: Implementation) -> Notes:
    """Note what commands say of a dataflow on a coordinator, from `dora up` to `dora down`."""
    found: Notes = {}
    with place(side) as where:
        _write(where, {**PROGRAMS, "dataflow.yml": RUNNING, "one.yml": "{id: third, path: sink.py}\n"})
        _write(where, {"failing.yml": "nodes: [{id: a, path: failing.py}]\n"})

        def call(name: str, *command: str, until: Callable[[Finished], bool] | None = None) -> Finished:
            done = where.run(*command)
            deadline = time.monotonic() + 20
            while until is not None and not until(done) and time.monotonic() < deadline:
                time.sleep(1)  # dora-rs refuses connections that come faster
                done = where.run(*command)
            found[f"commands/life/{name}/exit status"] = _status(done)
            if "json" in command or "--once" in command:
                found[f"commands/life/{name}/JSON names"] = shape(_json(done.stdout))
            return done

        def words(name: str, done: Finished, *expected: str) -> None:
            found[f"commands/life/{name}/says names"] = [word for word in expected if word in done.stdout]

        call("up", "up")
        call("up again", "up")
        call("status", "status", "-f", "json", until=lambda done: done.status == 0)
        call("list of nothing", "list", "-f", "json")
        call("stop of nothing", "stop")
        words(
            "start", call("start", "start", "dataflow.yml", "--name", "flow", "--detach"), "dataflow start"
        )
        call("start of the same name", "start", "dataflow.yml", "--name", "flow", "--detach")
        call("start of no file", "start", "absent.yml", "--detach")
        measured = lambda done: '"memory"' in done.stdout and "Running" in done.stdout  # noqa: E731
        listed = call("list", "list", "-f", "json", until=measured)
        entries = _json(listed.stdout)
        found["commands/life/list/states"] = [[entry.get("name"), entry.get("status")] for entry in entries]
        found["commands/life/list/nodes"] = [entry.get("nodes") for entry in entries]
        call("list quietly", "list", "-q")
        words(
            "list as a table", call("list as a table", "list"), "UUID", "Name", "Status", "flow", "Running"
        )
        call("list of a status", "list", "--status", "running", "-f", "json")
        call("list of an unknown status", "list", "--status", "sleeping")
        call("ps", "ps", "-f", "json")
        running = lambda done: "Running" in done.stdout and "cpu" in done.stdout  # noqa: E731
        nodes = _json(call("node list", "node", "list", "-f", "json", until=running).stdout)
        found["commands/life/node list/states"] = sorted(
            [node.get("node"), node.get("status")] for node in nodes
        )
        call("node list of a dataflow", "node", "list", "-d", "flow", "-f", "json")
        call("node list of an unknown dataflow", "node", "list", "-d", "absent")
        info = _json(call("node info", "node", "info", "sink", "-f", "json").stdout)
        for entry in info:
            found["commands/life/node info/inputs"] = entry.get("inputs")
            found["commands/life/node info/outputs"] = entry.get("outputs")
        call("node info of no node", "node", "info", "absent")
        call("top", "top", "--once")
        call("inspect top", "inspect", "top", "--once")
        call("topic list", "topic", "list", "-d", "flow", "--format", "json")
        call("param set", "param", "set", "source", "gain", "1.5", "-d", "flow")
        call("param set of text", "param", "set", "source", "name", '"text"', "-d", "flow")
        call("param get", "param", "get", "source", "gain", "-d", "flow")
        call("param get of nothing", "param", "get", "source", "absent", "-d", "flow")
        call("param list", "param", "list", "source", "-d", "flow", "--format", "json")
        call("param delete", "param", "delete", "source", "gain", "-d", "flow")
        call("param of no node", "param", "list", "absent", "-d", "flow")
        call("logs", "logs", "flow", "--node", "source", "--tail", "3")
        call("logs of no node", "logs", "flow", "--node", "absent")
        call("logs of no dataflow", "logs", "absent")
        call("node add", "node", "add", "--from-yaml", "one.yml", "-d", "flow")
        call("node connect", "node", "connect", "source/value", "third/value", "-d", "flow")
        call("node disconnect", "node", "disconnect", "source/value", "third/value", "-d", "flow")
        call("node remove", "node", "remove", "third", "-d", "flow")
        call("node connect of nothing", "node", "connect", "source/absent", "sink/other", "-d", "flow")
        call("node restart", "node", "restart", "sink", "-d", "flow")
        call("node stop", "node", "stop", "sink", "-d", "flow")
        call("node stop of no node", "node", "stop", "absent", "-d", "flow")
        call("down while it runs", "down")
        call("stop of no dataflow", "stop", "absent")
        call("stop", "stop", "flow")
        call("stop again", "stop", "flow")
        call("start attached", "start", "failing.yml", "--attach", "--name", "failing")
        finished = _json(call("list of the ended", "list", "-f", "json").stdout)
        found["commands/life/list of the ended/states"] = sorted(
            [str(entry.get("name")), str(entry.get("status"))] for entry in finished
        )
        call("logs of the ended", "logs", "failing", "--node", "a")
        call("clean", "clean", "-f", "json")
        call("clean again", "clean")
        call("trace list", "trace", "list")
        call("down", "down")
        call("down again", "down")
        call("list after all", "list")
    return found


def _write(where: Place, files: dict[str, str]) -> None:
    for name, content in files.items():
        where.write(name, content)


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def _status(done: Finished) -> int | str:
    return "it did not end" if done.status is None else done.status


def _json(printed: str) -> list[Any]:
    """Return the values of a JSON document or of JSON lines; other lines are left out."""
    try:
        value = json.loads(printed)
    except ValueError:
        values = []
        for line in printed.splitlines():
            try:
                values.append(json.loads(line))
            except ValueError:
                continue
        return values
    return value if isinstance(value, list) else [value]


def _yaml(done: Finished) -> Any:
    if done.status != 0:
        return f"exit status {done.status}"
    try:
        return json.loads(json.dumps(yaml.safe_load(done.stdout), default=str))
    except yaml.YAMLError:
        return "no YAML"


def _commands(printed: str) -> list[str]:
    """Return the commands in a help text: the entries of all sections whose names are plain words."""
    return re.findall(r"^  ([a-z][a-z-]*) {2,}\S", printed, re.MULTILINE)


def _options(printed: str) -> str:
    section = re.search(r"^Options:\n(.*?)(?=^\S|\Z)", printed, re.DOTALL | re.MULTILINE)
    lines = section[1].splitlines() if section else []
    return "\n".join(re.split(r"\s{2,}", line.strip())[0] for line in lines if re.match(r"\s+-", line))
