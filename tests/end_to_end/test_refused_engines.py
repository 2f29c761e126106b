"""Engines that a run cannot have, and nodes of different versions: one sentence, and a status."""

from __future__ import annotations

import subprocess
import sys

import pytest
from flow import Flow
from waiting import TIMEOUT

import dora
from dora.transport import semaphore_support

pytestmark = pytest.mark.processes

ONE = "from dora import Node\nNode()\n"
CHOICES = "it can be iceoryx2 or shm"


def command(flow: Flow, *arguments: str) -> tuple[int, list[str]]:
    """Run a command in the folder of a dataflow; return its status, and the lines of its errors."""
    done = subprocess.run(
        [sys.executable, "-m", "dora", *arguments],
        cwd=flow.directory,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode, done.stderr.splitlines()


@pytest.mark.parametrize("name", ["run", "record", "replay"])
def test_a_command_names_the_engines_that_there_are(flow: Flow, name: str) -> None:
    flow.node("only", ONE)
    status, lines = command(flow, name, flow.write(), "--engine", "pigeon")
    assert status == 2
    told = "invalid value for '--engine': 'pigeon' is not one of 'iceoryx2', 'shm'"
    assert lines[0] == f"error: {told}"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["run", "record"])
def test_an_unknown_engine_of_the_environment_is_named(
    flow: Flow, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow.node("only", ONE)
    for text in ("pigeon", "Shm", "shm ", "iceoryx"):
        monkeypatch.setenv("DORA_ENGINE", text)
        status, lines = command(flow, name, flow.write())
        assert (status, lines) == (1, [f"error: DORA_ENGINE is `{text}`; {CHOICES}"])


def test_an_unknown_engine_of_a_program_is_named(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    flow.node("only", ONE)
    monkeypatch.delenv("DORA_ENGINE", raising=False)
    for engine in ("pigeon", "", "SHM"):
        with pytest.raises(dora.DoraError, match=f"^engine is `{engine}`; {CHOICES}$"):
            flow.run(engine=engine)
    monkeypatch.setenv("DORA_ENGINE", "pigeon")
    with pytest.raises(dora.DoraError, match=f"^DORA_ENGINE is `pigeon`; {CHOICES}$"):
        flow.run(engine="shm")


def test_an_engine_is_no_field_of_a_dataflow(flow: Flow) -> None:
    flow.node("only", ONE, engine="shm")
    status, lines = command(flow, "validate", flow.write())
    assert status == 1
    assert "`engine`" in lines[0]


def test_the_reason_why_shm_does_not_work_is_named(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    flow.node("only", ONE)
    monkeypatch.setattr(semaphore_support.os, "confstr", lambda _: None)  # as with musl
    with pytest.raises(dora.DoraError) as caught:
        flow.run(engine="shm")
    assert str(caught.value) == (
        "the engine shm does not work here: it needs Linux with the GNU C library on a 64-bit processor"
    )


SENDER = """
    {other}
    from dora import Node
    Node().send_output("out", b"x")
"""
RECEIVER = """
    from dora import Node
    for event in Node():
        print(event["type"])
"""


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (
            "import dora.transport.shm.ring as changed; changed._VERSION += 1",
            "input `in`: its source runs another version of dora; all nodes of a dataflow have to run",
        ),
        (
            "import dora.transport.shm.channel as changed; changed._VERSION += 1",
            "was made by another version of dora, or is damaged; all nodes of a dataflow have to run",
        ),
    ],
    ids=["rings", "folders"],
)
def test_nodes_with_different_versions_of_dora_say_so(
    flow: Flow, other: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DORA_ENGINE", "shm")
    flow.node(
        "sender", SENDER.format(other=other), inputs={"tick": "dora/timer/millis/10"}, outputs=["out"]
    )
    flow.node("receiver", RECEIVER, inputs={"in": "sender/out"})
    done = flow.run_command()
    assert done.returncode == 1
    assert sentence in done.stdout + done.stderr
    assert "/dora/transport/" not in done.stdout + done.stderr, "a traceback through dora"
