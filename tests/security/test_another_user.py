"""An audit: a second user of the machine tries every port, page, socket and file of a running system.

It looks for them as an attacker would, so what is added later is tried as well. A path that others may use
belongs into `OPEN`, with its reason.
"""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from another_user import NEEDS_ANOTHER_USER, USER, run_as_another_user
from system import System, own_system
from waiting import wait_until

import dora
from dora.cluster.coordinator.openapi import OPERATIONS

pytestmark = [pytest.mark.processes, NEEDS_ANOTHER_USER]

OPEN = {
    ("GET", "/"): "the page itself, which is the same in every installation",
    ("GET", "/assets/dashboard.js"): "part of it",
    ("GET", "/assets/dashboard.css"): "part of it",
    ("GET", "/api/proof"): "the server proves who it is, and refuses what is no nonce",
}
ASSETS = Path(dora.__file__).parent / "assets"

TICKING = """
import numpy as np
from dora import Node
node = Node()
for event in node:
    if event["type"] == "INPUT":
        node.send_output("number", np.zeros(10_000))
"""

# A browser that goes on until the page's file is gone.
BROWSER = f"""#!{sys.executable} -S
import os, sys, time
while os.path.exists(sys.argv[1].removeprefix("file://")):
    time.sleep(0.1)
"""

ASKS = """
import http.client, json, sys
for port, method, path, headers in json.load(sys.stdin):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path, b"{}" if method in ("POST", "PUT") else None, headers)
        response = connection.getresponse()
        text = response.read().decode("utf-8", "replace")
        print(json.dumps([port, method, path, response.status, text, dict(response.getheaders())]))
    except (OSError, http.client.HTTPException) as error:
        print(json.dumps([port, method, path, 0, str(error), {}]))
    connection.close()
"""

TRIES = """
import json, os, socket, stat, sys
for path in json.load(sys.stdin):
    def attempt(what, work):
        try:
            work()
        except OSError:
            return
        print(json.dumps([what, path]))
    attempt("read", lambda: os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK)))
    attempt("write", lambda: os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK)))
    attempt("list", lambda: os.listdir(path))
    attempt("create", lambda: os.close(os.open(path + "/planted", os.O_CREAT | os.O_EXCL | os.O_WRONLY)))
    attempt("rename", lambda: os.rename(path, path + "-taken"))
    attempt("remove", lambda: os.unlink(path))
    attempt("change mode", lambda: os.chmod(path, 0o777))
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
        with socket.socket(socket.AF_UNIX, kind) as connection:
            attempt("connect", lambda: connection.connect(path))
"""


class Running(NamedTuple):
    system: System
    root: Path
    address: str  # of `dora run --ui`, with its ticket
    shared_before: set[str]

    def processes(self) -> list[psutil.Process]:
        """Return all processes of this system: they have its port in their environment."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("DORA_COORDINATOR_PORT") == str(self.system.port):
                    found.append(process)
            except psutil.Error:
                continue  # it has just ended
        return [process for process in found if process.pid != os.getpid()]

    def command_lines(self) -> list[str]:
        return [" ".join(process.cmdline()) for process in self.processes()]

    def secrets(self) -> list[str]:
        token = (self.root / "config" / "dora" / ".dora-token").read_text().strip()
        tickets = [url.partition("ticket=")[2] for url in (self.address, self.system.client.dashboard())]
        return [token, *tickets]


@pytest.fixture(scope="module", params=["iceoryx2", "shm"])
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    """`dora up`, a dataflow of it, and `dora run --open`; in folders that others may enter."""
    if request.param != "shm":
        pytest.importorskip(request.param)
    before = set(os.listdir("/dev/shm"))
    root = Path(tempfile.mkdtemp(prefix="dora-test-", dir="/tmp"))
    root.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch, own_system(root, patch) as system:
        shutil.rmtree(os.environ["DORA_RUNTIME_DIR"])
        patch.setenv("DORA_RUNTIME_DIR", str(root / "run"))
        patch.setenv("DORA_ENGINE", request.param)
        patch.delenv("DORA_AUTH_TOKEN", raising=False)
        file = system.dataflow("robot", arm=TICKING, leg=TICKING)
        flow = json.loads((root / file).read_text())
        flow["nodes"][0]["outputs"] = flow["nodes"][1]["outputs"] = ["number"]
        flow["nodes"][1]["inputs"]["number"] = "arm/number"
        (root / file).write_text(json.dumps(flow))
        system.dora("up")
        system.start(file)
        (root / "browser").write_text(BROWSER)
        (root / "browser").chmod(0o755)
        ui = subprocess.Popen(
            [sys.executable, "-m", "dora", "run", "--open", file],
            cwd=root,
            env={**os.environ, "BROWSER": f"{root}/browser %s &"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert ui.stderr is not None
        try:
            found = next(filter(None, (re.search(r"http://\S+", line) for line in ui.stderr)))
            running = Running(system, root, found[0], before)
            wait_until(lambda: "/browser file://" in " ".join(running.command_lines()), "the browser")
            yield running
        finally:
            ui.send_signal(signal.SIGINT)
            ui.communicate(timeout=60)
    shutil.rmtree(root)


def listening(running: Running) -> set[int]:
    """Return the TCP ports at which the system listens."""
    return {
        connection.laddr.port
        for process in running.processes()
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }


def paths(running: Running) -> list[tuple[str, str]]:
    """Return every operation of the API, and of the dashboard."""
    flow = running.system.client.active()[0].uuid
    api = [(item.method.upper(), item.path.replace("{dataflow}", flow)) for item in OPERATIONS]
    base = f"/dashboard/{flow}"
    pages = [
        ("GET", base),
        ("GET", f"{base}/live"),
        ("GET", f"{base}/recordings"),
        ("POST", f"{base}/recordings"),
        ("POST", "/login"),
        ("GET", "/open"),
        ("GET", "/open?ticket="),
        ("GET", f"/open?ticket={'0' * 64}"),
    ]
    sockets = [
        ("GET", "/api/daemon"),
        ("GET", f"/api/dataflows/{flow}/observe"),
        ("GET", "/api/observers/1"),
    ]
    others = [("GET", "/metrics"), ("GET", "/openapi.json"), ("GET", "/assets/"), ("GET", "/nowhere")]
    return [*OPEN, *api, *pages, *sockets, *others]


LIES: list[dict[str, str]] = [
    {},
    {"X-Forwarded-For": "127.0.0.1", "X-Real-IP": "127.0.0.1", "Forwarded": "for=127.0.0.1"},
    {"X-Forwarded-For": "x", "X-Forwarded-Proto": "https"},
    {"Authorization": "Bearer "},
    {"Authorization": f"Bearer {'0' * 64}", "Cookie": "dora-session=x"},
    {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Protocol": "dora, page.",
    },
]


@pytest.mark.slow
def test_every_page_of_every_port_is_refused(running: Running) -> None:
    ports = listening(running)
    ui = int(running.address.split(":")[2].split("/")[0])
    assert {running.system.port, ui} <= ports
    pids = {process.pid for process in running.processes()}
    wanted = [
        (port, method, path, {"Content-Type": "application/json", **lie})
        for port in ports
        for method, path in paths(running)
        for lie in LIES
        if method == "GET" or "Upgrade" not in lie
    ]
    told = run_as_another_user(ASKS, given=json.dumps(wanted))
    answers = [json.loads(line) for line in told.splitlines()]
    assert len(answers) == len(wanted)
    for port, method, path, status, text, headers in answers:
        shown = f"port {port}: {method} {path}: {status} {text}"
        assert "set-cookie" not in {name.lower() for name in headers}, shown
        assert not any(secret in text + str(headers) for secret in running.secrets()), shown
        if status in (0, 400, 401, 403):
            # Without a token in it, a login is not understood.
            assert status != 400 or "nonce" in text or path == "/login", shown
            continue
        if status == 404 and path == "/assets/":
            continue
        assert (method, path) in OPEN and status == 200, shown
        name = {"/": "dashboard.html"}.get(path, os.path.basename(path))
        assert text == (ASSETS / name).read_text(), shown
    assert pids <= {process.pid for process in running.processes()}, "somebody was ended"


def owned_paths(running: Running) -> list[str]:
    """Return what the system has in the file system for itself: all but the user's own working folder."""
    found = []
    for top in ("run", "data", "config/dora"):
        for folder, folders, files in os.walk(running.root / top):
            found += [folder, *(f"{folder}/{name}" for name in (*folders, *files))]
    new = set(os.listdir("/dev/shm")) - running.shared_before
    for name in new:
        path = f"/dev/shm/{name}"
        try:
            mine = os.stat(path).st_uid == os.geteuid()
        except FileNotFoundError:
            continue
        if mine and name.startswith(("dora", "iox2")):
            found += [path, *glob.glob(f"{path}/**", recursive=True)]
    return sorted(set(found))


@pytest.mark.slow
def test_every_file_and_socket_is_closed_to_others(running: Running) -> None:
    found = owned_paths(running)
    assert any(stat.S_ISSOCK(os.stat(path).st_mode) for path in found if os.path.exists(path))
    assert any(path.endswith(".sqlite") for path in found)
    assert any(re.search(r"/run/page-\d+\.html$", path) for path in found)
    told = run_as_another_user(TRIES, given=json.dumps(found))
    assert told == "", "another user can use this"


def test_nothing_listens_beside_files_and_ports(running: Running) -> None:
    """Abstract sockets have no owner and no mode; anybody may connect to them."""
    for process in running.processes():
        for connection in process.net_connections("unix"):
            address = str(connection.laddr)
            assert not address.startswith(("@", "\0")), f"{process.name()}: {address!r}"


def test_no_secret_is_on_a_command_line_or_in_a_file_for_all(running: Running) -> None:
    secrets = running.secrets()
    lines = running.command_lines()
    assert any("/browser file://" in line for line in lines)
    for line in lines:
        assert not any(secret in line for secret in secrets), line
    for folder, _, files in os.walk(running.root):
        for name in files:
            path = Path(folder, name)
            try:
                mode, data = path.stat().st_mode, path.read_bytes() if path.is_file() else b""
            except FileNotFoundError:
                continue
            if mode & 0o044:
                assert not any(secret.encode() in data for secret in secrets), path


def test_memory_and_signals_of_its_processes_are_closed(running: Running) -> None:
    script = """
import json, os, sys
for pid in json.load(sys.stdin):
    for name in ("mem", "environ", "fd", "maps"):
        try:
            path = f"/proc/{pid}/{name}"
            os.listdir(path) if name == "fd" else open(path, "rb").read(1)
        except OSError:
            continue
        print(pid, name)
    try:
        os.kill(pid, 0)
        print(pid, "signal")
    except OSError:
        pass
"""
    pids = [process.pid for process in running.processes()]
    assert run_as_another_user(script, given=json.dumps(pids)) == ""


def test_a_working_folder_of_root_is_closed_to_others(running: Running) -> None:
    """A token that another user has planted where a command is given is not used."""
    place = Path(tempfile.mkdtemp(prefix="dora-test-", dir="/tmp"))
    try:
        (place / ".dora-token").write_text("known-to-the-other-user-0123456789abcdef")
        os.chown(place / ".dora-token", USER, USER)
        done: Any = subprocess.run(
            [sys.executable, "-m", "dora", "list"], cwd=place, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 1 and "it belongs to another user" in done.stderr
    finally:
        shutil.rmtree(place)
    assert wait_until(lambda: running.system.client.active(), "the dataflow still runs")
