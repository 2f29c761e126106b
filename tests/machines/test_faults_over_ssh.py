"""A machine on which ``dora run --on`` cannot run: one sentence, and nothing is left behind."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import network
from robot import PYTHON, Robot, write_dataflow
from sshd import Keys, no_ssh
from waiting import wait_until

pytestmark = [pytest.mark.processes, pytest.mark.skipif(bool(no_ssh()), reason=no_ssh())]


@pytest.fixture(scope="module")
def machines(namespaces: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Robot]:  # noqa: ARG001
    with network("desk", "robot") as hosts:
        yield Robot(hosts["desk"], hosts["robot"], tmp_path_factory.mktemp("robot"))


@pytest.fixture
def robot(machines: Robot) -> Iterator[Robot]:
    """Return a robot on which no dora has been installed, with the programs that it has at first."""
    yield machines
    machines.write_program("python3", PYTHON)
    machines.write_program("uname", f'exec {shutil.which("uname")} "$@"')
    machines.wait_until_nothing_is_left()
    assert not list(machines.cache.glob("environments/*"))


@pytest.fixture
def flow(tmp_path: Path) -> Path:
    write_dataflow(tmp_path / "flow", {"a.py": "print(1)"}, [{"id": "a", "path": "a.py"}])
    return tmp_path / "flow"


def fault(robot: Robot, flow: Path, *, path: str = "", name: str = "") -> str:
    """Return the only line that is printed, without what begins all of them."""
    name = name or robot.name
    command = [sys.executable, "-m", "dora", "run", "--on", name, "--progress", "off"]
    printed = robot.desk.run(command, status=1, env={"PATH": path or robot.keys.path}, cwd=flow)
    assert printed.startswith(f"error: {name}: ") and printed.count("\n") == 1, printed
    return printed.removeprefix(f"error: {name}: ").rstrip()


@pytest.mark.slow
def test_a_host_that_does_not_answer(robot: Robot, flow: Path) -> None:
    nobody = f"{robot.host.address.rpartition('.')[0]}.77"
    assert fault(robot, flow, name=nobody) == (
        f"ssh to {nobody} failed: there is no way to it; check the host, and that the machine is on"
    )


def test_a_host_without_an_ssh_server(robot: Robot, flow: Path) -> None:
    name = f"ssh://root@{robot.host.address}:23"
    assert fault(robot, flow, name=name) == (
        f"ssh to {robot.host.address} failed: no ssh server listens there; check host and port"
    )


def test_a_host_with_another_key_than_is_known(robot: Robot, flow: Path) -> None:
    known = robot.keys.known.read_text()
    robot.keys.known.write_text("")
    try:
        assert "its host key is unknown, or another one; say `ssh -l root" in fault(robot, flow)
    finally:
        robot.keys.known.write_text(known)


def test_a_key_that_the_host_does_not_accept(robot: Robot, flow: Path, tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys")
    keys.known.write_text(robot.keys.known.read_text())
    assert "it wants more than your ssh keys" in fault(robot, flow, path=keys.path)


def test_no_python(robot: Robot, flow: Path) -> None:
    (robot.bin / "python3").unlink()
    assert fault(robot, flow) == (
        "it has no Python, and dora needs Python 3.11 or newer; install that there, or uv, which brings "
        "one (https://docs.astral.sh/uv)"
    )


def test_an_old_python(robot: Robot, flow: Path) -> None:
    robot.write_program("python3", "echo dora python 3.9.2 1 /usr/bin/python3")
    assert fault(robot, flow).startswith(
        "it has only Python 3.9.2 (/usr/bin/python3), and dora needs Python 3.11 or newer"
    )


def test_a_python_of_32_bits(robot: Robot, flow: Path) -> None:
    robot.write_program("python3", "echo dora python 3.13.1 0 /usr/bin/python3")
    assert fault(robot, flow).startswith("its Python has 32 bits: 3.13.1 (/usr/bin/python3)")


def test_another_architecture(robot: Robot, flow: Path) -> None:
    robot.write_program("uname", "[ $1 = -s ] && echo Linux || echo armv7l")
    assert fault(robot, flow).startswith("it is a Linux on armv7l, and the packages that dora needs are")


def test_a_python_whose_venv_is_missing(robot: Robot, flow: Path) -> None:
    refused = '[ "$2" != venv ] || { echo "No module named venv"; exit 1; }'
    robot.write_program("python3", f"{refused}; echo dora python 3.11.7 1 {robot.bin}/python3")
    assert fault(robot, flow) == "dora cannot be installed there: No module named venv"


@pytest.mark.slow
def test_no_way_to_a_package_index(robot: Robot, flow: Path) -> None:
    robot.write_program("python3", f"unset PYTHONPATH; {PYTHON}")
    made = robot.bin / "packages-are-missing"
    packages = robot.folder / "packages"
    packages.rename(made)
    try:
        assert fault(robot, flow).startswith("its installer does not reach a package index")
    finally:
        made.rename(packages)


def test_no_room(robot: Robot, flow: Path) -> None:
    robot.cache.mkdir(parents=True, exist_ok=True)
    mounted = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", robot.cache]
    robot.host.run(mounted)
    try:
        assert (
            fault(robot, flow)
            == "there is no room for dora on its disk; it needs about 600 MB in ~/.cache/dora"
        )
        left = robot.host.run(["find", robot.cache, "-mindepth", "2"])
        assert left == ""
    finally:
        robot.host.run(["umount", robot.cache])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_installation_that_is_broken_off_leaves_nothing(
    robot: Robot, flow: Path, number: signal.Signals
) -> None:
    process = robot.start(flow)
    wait_until(lambda: robot.programs(robot.host, " install "), "the installation")
    os.kill(next(iter(robot.programs(robot.desk, "dora run --on"))), number)
    printed, _ = process.communicate(timeout=60)
    assert number == signal.SIGKILL or printed.splitlines()[-1] == "error: interrupted"
    robot.wait_until_nothing_is_left()
