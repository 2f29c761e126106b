"""Another user has made the folder of my dataflows first, with a daemon of his in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from planted_daemon import ESCAPES
from second_user import ATTACKER, VICTIM, as_user, environment, needs_second_user, run

pytestmark = [pytest.mark.processes, needs_second_user]

ROOT = f"/tmp/dora-{VICTIM}"
RUN_DIR = f"{ROOT}/0123456789ab"
FAKE = str(Path(__file__).with_name("planted_daemon.py"))


@pytest.fixture(scope="module", autouse=True)
def readable_dora() -> None:
    """Skip where a folder on the way to dora is closed to others, as the home of root is."""
    done = run(VICTIM, "-c", "import dora", env=environment())
    if done.returncode:
        pytest.skip(f"another user cannot import dora: {done.stderr.strip().rpartition(chr(10))[2]}")


@pytest.fixture
def attackers_folder(open_folder: Path) -> Path:
    """A folder in which the attacker can write, and all can read."""
    folder = open_folder / "attacker"
    folder.mkdir()
    os.chown(folder, ATTACKER, ATTACKER)
    return folder


@pytest.fixture
def heard(attackers_folder: Path) -> Iterator[Path]:
    """What the attacker's daemon, at the place of the victim's default folder, was told."""
    log, board = attackers_folder / "heard", attackers_folder / "board"
    assert not os.path.exists(ROOT), "left by another test"
    daemon = subprocess.Popen(
        as_user(ATTACKER, [sys.executable, FAKE, RUN_DIR, str(board), str(log)]),
        stdout=subprocess.PIPE,
        env=environment(),
        text=True,
    )
    try:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == "ready\n"
        yield log
    finally:
        daemon.kill()
        daemon.wait()
        shutil.rmtree(ROOT, ignore_errors=True)


COMMANDS = [
    ("topic", "hz", "--duration", "1"),
    ("topic", "list"),
    ("topic", "echo", "camera/image", "--count", "1"),
    ("topic", "info", "camera/image"),
    ("node", "list"),
    ("node", "info", "camera"),
    ("top", "--once"),
    ("param", "list", "camera"),
    ("record", "--stop"),
]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_refuses_a_folder_of_another_user(command: tuple[str, ...], heard: Path) -> None:
    """It does not ask the daemon there, map the file that this names, or print its escape sequences."""
    done = run(VICTIM, "-m", "dora", *command, env=environment())
    assert done.returncode == 1, done
    assert f"cannot use {ROOT} for sockets and locks: it belongs to another user; remove it" in done.stderr
    assert "DORA_RUNTIME_DIR" in done.stderr
    assert heard.read_text() == ""
    assert not any(escape in done.stdout + done.stderr for escape in (ESCAPES, "\x1b", "\x07"))
    assert not any((heard.parent / "board").read_bytes())


def test_a_dynamic_node_does_not_join_the_daemon_of_another_user(heard: Path) -> None:
    done = run(VICTIM, "-c", "from dora import Node; Node('camera')", env=environment())
    assert done.returncode == 1
    assert f"error: cannot use {ROOT} for sockets and locks: it belongs to another user" in done.stderr
    assert heard.read_text() == ""


def test_a_node_does_not_register_with_the_daemon_of_another_user(heard: Path) -> None:
    """A daemon that died may have left the address in the environment of its node."""
    address = f'{{"dataflow_id": "x", "node_id": "camera", "socket": "{RUN_DIR}/daemon.sock"}}'
    env = environment(DORA_NODE_CONFIG=address)
    done = run(VICTIM, "-c", "from dora import Node; Node()", env=env)
    assert done.returncode == 1
    assert f"error: {RUN_DIR} belongs to another user (user id {ATTACKER})" in done.stderr
    assert heard.read_text() == ""


def test_a_dataflow_is_not_started_in_a_folder_of_another_user(heard: Path, open_folder: Path) -> None:
    flow = open_folder / "flow.yml"
    flow.write_text("nodes: [{id: a, path: a.py}]\n")
    (open_folder / "a.py").write_text("from dora import Node\nNode()\n")
    done = run(VICTIM, "-m", "dora", "run", str(flow), env=environment())
    assert done.returncode != 0
    assert f"cannot use {ROOT}" in done.stderr
    assert heard.read_text() == ""
    assert os.path.exists(f"{RUN_DIR}/lock")  # nothing was removed either
