"""Every snippet of the README and of ``docs/`` is run.

A snippet is a fenced block in ``python``, ``yaml`` or ``console``. A page is a story: its snippets are
taken in order, in one folder. What happens to one is said by the HTML comment right above it:

========================  =====================================================================
comment                   what the test does
========================  =====================================================================
none, ``python``          runs it as a program
none, ``yaml``            reads it as a whole dataflow
``<!-- file: name -->``   writes it to that file (and reads it, if it is a dataflow, unless the
                          comment ends in ``, with a mistake``)
``<!-- node: name -->``   writes the YAML of one node to that file
``<!-- run -->``          runs the lines that begin with ``$`` and looks for the other lines, in
                          order, in the output; dates, times, UUIDs and folders are ignored, and
                          ``--stop-after`` stops when they are there
``<!-- run: fails -->``   the same, expecting exit status 1
``<!-- in a node -->``    runs it in a node, where ``node = Node()`` is given, of a small dataflow of
                          all such snippets of the page
``<!-- not run: why -->`` checks that it is valid Python or YAML
========================  =====================================================================

6013, the usual port of a coordinator, is written as a free one, and ``ssh`` leads back to this machine.
"""

from __future__ import annotations

import atexit
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from local_ssh import write_local_ssh
from ports import free_port
from shared_template import share_template
from waiting import TIMEOUT

from dora._paths import DEFAULT_PORT
from dora.cluster.ssh.file import load_cluster
from dora.dataflow import check_module, parse

ROOT = Path(__file__).parents[2]

# A page with snippets that another test covers.
TESTED_ELSEWHERE = {"docs/reference/dataflow-yaml.md": "tests/dataflow"}

FENCE = re.compile(
    r"^(?:<!-- (?P<comment>[^\n]*?) -->\n\n?)?^```(?P<language>python|yaml|console)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
VARYING = re.compile(
    r"\d{4}-\d\d-\d\d|\d\d:\d\d:\d\d(\.\d{3})?|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    r"|(?<= in )/\S+(?=\))"
)

FEEDER = """
import pyarrow as pa
from dora import Node

with Node() as node:
    for number in range(3):
        node.send_output("image", pa.array(bytes(12), pa.uint8()), {"width": 2, "height": 2})
        node.send_output("number", pa.array([number]))
        node.send_service_request("request", pa.array([number, number]))
"""

PRELUDE = """
import numpy as np
import pyarrow as pa
from dora import *

node = Node()
"""

FED = """
nodes:
  - id: feeder
    path: feeder.py
    outputs: [image, number, request]
"""
FED_SNIPPET = """\
  - id: line-{line}
    path: line-{line}.py
    inputs: {{image: feeder/image, number: feeder/number, request: feeder/request}}
    outputs: [image, result, points, string, request, response]
"""


@dataclass(frozen=True)
class Snippet:
    line: int
    comment: str
    language: str
    text: str


def snippets(page: Path) -> list[Snippet]:
    source = page.read_text()
    return [
        Snippet(
            source.count("\n", 0, found.start()) + 1,
            found["comment"] or "",
            found["language"],
            found["text"],
        )
        for found in FENCE.finditer(source)
    ]


def pages() -> list[Path]:
    front = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")]
    return [*front, *sorted((ROOT / "docs").rglob("*.md"))]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def in_folder(folder: Path) -> dict[str, Any]:
    """Return how a program is started in a folder: with what it prints in one text, without colours."""
    return {
        "cwd": folder,
        "env": {**os.environ, "NO_COLOR": "1", "PATH": PATH, **of_its_own(folder)},
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "stdin": subprocess.DEVNULL,
        "text": True,
    }


def run(command: list[str], folder: Path, status: int = 0) -> str:
    """Run a program in ``folder``, expecting this exit status, and return all that it printed."""
    done = subprocess.run(command, timeout=TIMEOUT, **in_folder(folder))
    assert done.returncode == status, f"{shlex.join(command)} exits with {done.returncode}:\n{done.stdout}"
    return done.stdout


def of_its_own(folder: Path) -> dict[str, str]:
    """Return the variables that keep coordinator and dataflows away from those of the user."""
    return {
        "DORA_RUNTIME_DIR": RUNTIME,
        "DORA_COORDINATOR_PORT": PORT,
        "DORA_DATA_DIR": str(folder / "data"),
        "XDG_CONFIG_HOME": str(folder / "config"),
    }


PORT = str(free_port())
RUNTIME = tempfile.mkdtemp(prefix="dora-docs-", dir="/tmp")  # that of a test is too long for sockets
atexit.register(shutil.rmtree, RUNTIME, ignore_errors=True)
write_local_ssh(Path(RUNTIME, "bin"), Path(os.devnull))
PATH = f"{RUNTIME}/bin{os.pathsep}{os.environ['PATH']}"


def check_valid(snippet: Snippet) -> None:
    if snippet.language == "python":
        compile(
            snippet.text, "snippet", "exec", dont_inherit=True, flags=0x2000
        )  # `await` is fine anywhere
    elif snippet.language == "yaml":
        yaml.safe_load(snippet.text)


def run_console(snippet: Snippet, folder: Path, status: int) -> None:
    commands: list[tuple[list[str], list[str]]] = []  # each with the lines that it prints
    for line in snippet.text.splitlines():
        if line.startswith("$ "):
            words = shlex.split(line[2:], comments=True)
            if words[0] == "openssl" and shutil.which("openssl") is None:
                pytest.skip("openssl makes the certificates of this page, and is not there")
            program = {
                "dora": [sys.executable, "-m", "dora"],
                "python": [sys.executable],
                "openssl": ["openssl"],
            }[words[0]]
            commands.append(([*program, *words[1:]], []))
        elif line.strip() not in ("", "..."):
            commands[-1][1].append(VARYING.sub("", line.replace(f":{DEFAULT_PORT}", f":{PORT}")).rstrip())
    for command, wanted in commands:
        if "--stop-after" in command and wanted:
            printed = run_until_shown(command, folder, wanted)
        else:
            printed = run(command, folder, status)
        missing = first_missing(wanted, printed)
        assert missing is None, (
            f"`{missing}` is not in the output, or not after the lines before it: {printed}"
        )


def first_missing(wanted: list[str], printed: str) -> str | None:
    """Return the first of the lines that is not in a text, after the lines before it."""
    output = iter([text.rstrip() for text in VARYING.sub("", printed).splitlines()])
    return next((line for line in wanted if line not in output), None)


def run_until_shown(command: list[str], folder: Path, wanted: list[str]) -> str:
    """Run a dataflow that would stop after a time until it has printed this; return all that it printed.

    The time counts from before the nodes are started, which takes a busy machine its own.
    """
    command[command.index("--stop-after") + 1] = f"{TIMEOUT}s"
    process = subprocess.Popen(command, **in_folder(folder))
    printed, is_stopped = "", False
    try:
        assert process.stdout is not None
        for line in process.stdout:
            printed += line
            if not is_stopped and first_missing(wanted, printed) is None:
                process.send_signal(signal.SIGINT)
                is_stopped = True
        assert process.wait(TIMEOUT) == 0, printed
    finally:
        process.kill()
        process.wait()
    return printed


def run_in_nodes(snippets: list[Snippet], folder: Path) -> None:
    """Run a dataflow in which each of these snippets is a node, named after its line."""
    folder.mkdir()
    (folder / "feeder.py").write_text(FEEDER)
    dataflow = FED
    for snippet in snippets:
        (folder / f"line-{snippet.line}.py").write_text(PRELUDE + snippet.text)
        dataflow += FED_SNIPPET.format(line=snippet.line)
    (folder / "dataflow.yml").write_text(dataflow)
    run([sys.executable, "-m", "dora", "run", "dataflow.yml"], folder)


def is_cluster_file(snippet: Snippet) -> bool:
    return snippet.language == "yaml" and snippet.text.startswith("coordinator:")


def play(snippet: Snippet, folder: Path) -> None:
    """Do with a snippet what its comment says."""
    match snippet.comment.split(": ", 1), snippet.language:
        case ["not run", reason], _:
            assert len(reason) > 10, "say why it is not run"
            check_valid(snippet)
        case ["file", name], _:
            name, _, mistake = name.partition(", ")
            (folder / name).write_text(snippet.text.replace(f"port: {DEFAULT_PORT}", f"port: {PORT}"))
            check_valid(snippet)
            if is_cluster_file(snippet) and mistake != "with a mistake":
                load_cluster(folder / name)
            elif snippet.language == "yaml" and mistake != "with a mistake":
                parse(snippet.text, file=name, working_dir=str(folder), environ={})
        case ["node", name], "yaml":
            (folder / name).write_text(snippet.text)
            check_valid(snippet)
        case ["module", name], "yaml":
            (folder / name).write_text(snippet.text)
            check_module(folder / name)
        case ["run"], "console":
            run_console(snippet, folder, status=0)
        case ["run", "fails"], "console":
            run_console(snippet, folder, status=1)
        case ["in a node"], "python":
            pass  # `run_in_nodes` runs all of a page
        case [""], "python":
            (folder / "snippet.py").write_text(snippet.text)
            run([sys.executable, "snippet.py"], folder)
        case [""], "yaml":
            parse(snippet.text, file="snippet.yml", working_dir=str(folder), environ={})
        case _:
            raise AssertionError(
                f"`<!-- {snippet.comment} -->` does not say how to run a {snippet.language} block"
            )


@pytest.mark.processes
@pytest.mark.parametrize(
    "page",
    [page for page in pages() if name_of(page) not in TESTED_ELSEWHERE and snippets(page)],
    ids=name_of,
)
def test_snippets(page: Path, tmp_path: Path) -> None:
    share_template(RUNTIME)
    try:
        for snippet in snippets(page):
            try:
                play(snippet, tmp_path)
            except Exception as error:
                raise AssertionError(f"{name_of(page)}:{snippet.line}: {error}") from error
        if in_nodes := [snippet for snippet in snippets(page) if snippet.comment == "in a node"]:
            run_in_nodes(in_nodes, tmp_path / "in-nodes")
    except AssertionError:
        for up, down in (("$ dora up", ["down"]), ("$ dora cluster up", ["cluster", "down", "try.yml"])):
            if up in page.read_text():
                command = [sys.executable, "-m", "dora", *down, "--force"]
                subprocess.run(command, check=False, **in_folder(tmp_path))
        raise


def test_snippets_marked_as_tested_elsewhere_are_tested() -> None:
    for page, folder in TESTED_ELSEWHERE.items():
        tests = "".join(test.read_text() for test in (ROOT / folder).glob("test_*.py"))
        assert Path(page).name in tests, f"no test in {folder} reads {page}"


def test_no_fence_escapes() -> None:
    for page in pages():
        opened = re.findall(r"^```(python|yaml|console)$", page.read_text(), re.MULTILINE)
        assert len(opened) == len(snippets(page)), f"{name_of(page)}: a block is not recognised"


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    source = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", source):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{name_of(page)} links to {target}, which is not there"
