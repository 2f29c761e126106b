"""The stand-ins for machines behave like machines."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from hosts import Host, network
from waiting import TIMEOUT, alive

pytestmark = pytest.mark.processes

MakeHosts = Callable[..., dict[str, Host]]

ECHO = """
import socket, sys
with socket.create_server(("0.0.0.0", 7000)) as server:
    print("ready", flush=True)
    while True:
        connection, _ = server.accept()
        while data := connection.recv(1 << 20):
            connection.sendall(data)
"""


def echo_on(host: Host) -> None:
    process = host.popen([sys.executable, "-c", ECHO], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"


def reaches(host: Host, address: str, patience: float = TIMEOUT) -> bool:
    script = f"import socket; socket.create_connection(({address!r}, 7000), timeout={patience})"
    return "Error" not in host.run([sys.executable, "-S", "-c", script], status=None)


def takes_less_than(seconds: float, connection: socket.socket, size: int) -> bool:
    """Return whether it ever does: a busy machine may need several attempts, and a slow link never will."""
    deadline = time.monotonic() + TIMEOUT
    while _echo_seconds(connection, size) >= seconds:
        if time.monotonic() > deadline:
            return False
    return True


def test_hosts_reach_each_other_until_the_link_is_cut(make_hosts: MakeHosts) -> None:
    hosts = make_hosts("left", "right")
    left, right = hosts["left"], hosts["right"]
    echo_on(right)
    assert reaches(left, right.address)
    assert not reaches(left, "127.0.0.1"), "each has a loopback of its own"
    left.run(["touch", "/dev/shm/of-left"])
    assert left.run(["ls", "/dev/shm"]) == "of-left\n" and right.run(["ls", "/dev/shm"]) == ""
    right.cut()
    assert not reaches(left, right.address, 0.3)
    right.restore()
    assert reaches(left, right.address)
    socket.create_connection((right.address, 7000), timeout=TIMEOUT).close()  # from here, too


def test_a_limit_slows_the_link_down(make_hosts: MakeHosts) -> None:
    hosts = make_hosts("one")
    echo_on(hosts["one"])
    hosts["one"].limit("8mbit")  # 1 MB/s
    with socket.create_connection((hosts["one"].address, 7000)) as connection:
        assert _echo_seconds(connection, 200_000) > 0.1
    hosts["one"].unlimit()
    with socket.create_connection((hosts["one"].address, 7000)) as connection:
        assert takes_less_than(0.1, connection, 200_000)


def test_delay_and_loss_without_the_help_of_the_kernel(make_hosts: MakeHosts) -> None:
    host = make_hosts("far", impaired=True)["far"]
    echo_on(host)
    with socket.create_connection((host.address, 7000)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        assert takes_less_than(0.05, connection, 8)
        host.impair(delay=0.05)
        assert _echo_seconds(connection, 8) >= 0.1
        host.impair(loss=0.05)
        _echo_seconds(connection, 500_000)  # what is lost is sent again
        host.impair(loss=1.0)
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            _echo_seconds(connection, 8)


ORDER = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
    receiver.bind(("0.0.0.0", 7000))
    print("ready", flush=True)
    print(*(receiver.recv(100).decode() for _ in range(50)), flush=True)
"""


def test_frames_overtake_each_other(make_hosts: MakeHosts) -> None:
    host = make_hosts("far", impaired=True)["far"]
    process = host.popen([sys.executable, "-c", ORDER], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    host.impair(jitter=0.05)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for number in range(50):
            sender.sendto(str(number).encode(), (host.address, 7000))
    arrived = list(map(int, process.stdout.readline().split()))
    assert sorted(arrived) == list(range(50)) != arrived


def test_leftovers_of_a_killed_run_are_removed(namespaces: None) -> None:  # noqa: ARG001
    script = (
        "from hosts import network\n"
        "with network('lost') as hosts:\n"
        "    process = hosts['lost'].popen(['sleep', '1000'])\n"
        "    print(hosts['lost'].folder, process.pid, flush=True)\n"
        "    process.wait()\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout is not None
    folder, left_over = owner.stdout.readline().split()
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    assert Path(folder).exists()
    with ExitStack() as stack:
        for _ in range(20):  # others may use networks, too
            stack.enter_context(network("next"))
            if not Path(folder).exists():
                break
        assert not Path(folder).exists() and not alive(int(left_over))


def _echo_seconds(connection: socket.socket, size: int) -> float:
    """Return how long it takes to get this many bytes back."""
    started = time.monotonic()
    sent = received = 0
    while received < size:
        if sent < size:
            sent += connection.send(bytes(min(65536, size - sent)))
        received += len(connection.recv(1 << 20))
    return time.monotonic() - started
