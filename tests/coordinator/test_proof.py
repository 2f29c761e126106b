"""A server proves that it knows the token before it is shown anything."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import NotConnected
from pathlib import Path

import pytest
from another_user import identity, interpreter
from ports import free_port
from serving import Serving, serving
from system import FOREVER, System
from tokens import TOKEN
from waiting import alive, wait_until

from dora.cluster.coordinator.store import Store
from dora.transport.proof import UnprovenServerError, proof_of, proven_connection, proven_socket
from dora.transport.tokens import Token

pytestmark = pytest.mark.processes

# A program of another user. What it hears, it prints. It passes everything on to `upstream`, if that is not
# 0, and answers by itself otherwise.
IMPOSTOR = """
import socket, sys, threading
host, port, upstream_host, upstream, answer = sys.argv[1:]
family = socket.AF_INET6 if ":" in host else socket.AF_INET
listener = socket.create_server((host, int(port)), family=family)
print("ready", flush=True)

def pass_on(source, target, say):
    while data := source.recv(65536):
        if say:
            print(ascii(data), flush=True)
        target.sendall(data)
    target.shutdown(socket.SHUT_WR)

def serve(peer):
    if upstream != "0":
        right = socket.create_connection((upstream_host, int(upstream)))
        threading.Thread(target=pass_on, args=(right, peer, False), daemon=True).start()
        pass_on(peer, right, True)
        return
    while data := peer.recv(65536):
        print(ascii(data), flush=True)
        body = answer.encode()
        status = b"404 Not Found" if b"error" in body else b"200 OK"
        head = b"HTTP/1.1 %s\\r\\nContent-Type: application/json\\r\\nContent-Length: %d\\r\\n\\r\\n"
        peer.sendall(head % (status, len(body)) + body)

while True:
    peer, _ = listener.accept()
    threading.Thread(target=serve, args=(peer,), daemon=True).start()
"""


class Impostor:
    """A server of another user (of this one where the tests do not run as root)."""

    def __init__(self, heard: Path) -> None:
        self._heard = heard

    def heard(self) -> str:
        return self._heard.read_text()


@contextmanager
def impostor(
    folder: Path, host: str, port: int, *, upstream: tuple[str, int] = ("", 0), answer: str = "[]"
) -> Iterator[Impostor]:
    program = interpreter() or sys.executable
    heard = folder / "heard.txt"
    with open(heard, "w") as output:
        place = (host, str(port), upstream[0], str(upstream[1]), answer)
        process = subprocess.Popen([program, "-c", IMPOSTOR, *place], stdout=output, **identity())
    try:
        wait_until(lambda: "ready" in heard.read_text(), "the other user's server")
        yield Impostor(heard)
    finally:
        process.kill()
        process.wait()


ANSWERS = {
    "everything is fine": "[]",
    "another proof": json.dumps({"proof": "0" * 64}),
    "no coordinator": "<html>",
    "an old coordinator": json.dumps({"error": "GET /api/proof: Not Found"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
def test_the_server_of_another_user_gets_nothing(system: System, answer: str) -> None:
    flow = system.dataflow("arm", a=FOREVER)
    system.dora("up")
    system.dora("down")
    token = (system.folder / "config" / "dora" / ".dora-token").read_text().strip()
    commands = [
        ["list"],
        ["up"],
        ["start", flow, "--env", "SECRET=of-the-user"],
        ["status"],
        ["down"],
        ["daemon"],
    ]
    told = {
        "everything is fine": "is not a dora coordinator",
        "another proof": "is not your dora coordinator: it does not know your token",
        "no coordinator": "is not a dora coordinator",
        "an old coordinator": "cannot prove that it is your dora coordinator",
    }
    expected = next(told[name] for name, text in ANSWERS.items() if text == answer)
    with impostor(system.folder, "127.0.0.1", system.port, answer=answer) as other:
        for command in commands:
            if command == ["daemon"] and "not a dora" in expected:
                continue  # it tries again and again, as with a server that is just starting
            status, printed = system.try_dora(*command)
            assert status == 1, printed
            assert expected in printed and "already running" not in printed
        heard = other.heard()
    assert "GET /api/proof?nonce=" in heard
    assert token not in heard and "of-the-user" not in heard and "Authorization" not in heard
    assert not (system.folder / "out" / "dora-coordinator.txt").read_text().count("listening") > 1


@pytest.mark.parametrize("place", ["other address", "other port", "IPv6"])
def test_a_relay_to_the_right_server_is_refused(system: System, place: str) -> None:
    system.dora("up")
    right = ("127.0.0.1", system.port)
    token = (system.folder / "config" / "dora" / ".dora-token").read_text().strip()
    host, port = {
        "other address": ("127.0.0.2", system.port),
        "other port": ("127.0.0.1", free_port()),
        "IPv6": ("::1", system.port),
    }[place]
    if host == "::1" and not _has_ipv6():
        pytest.skip("this machine has no IPv6")
    address = "[::1]" if host == "::1" else host
    with impostor(system.folder, host, port, upstream=right) as other:
        command = ("list", "--coordinator-addr", host, "--coordinator-port", str(port))
        told = system.dora(*command, status=1)
        # The right server does not call itself 127.0.0.2, so it refuses what is passed on to it.
        reason = "cannot prove that it is" if host == "127.0.0.2" else "is not"
        assert f"the server at {address}:{port} {reason} your dora coordinator" in told
        heard = other.heard()
    assert "GET /api/proof?nonce=" in heard and token not in heard


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.slow
def test_a_daemon_obeys_no_server_without_the_proof(system: System) -> None:
    system.dora("up")
    run = system.start(system.dataflow("arm", a=FOREVER))
    token = (system.folder / "config" / "dora" / ".dora-token").read_text().strip()
    pids = system.node_pids(run)
    os.kill(coordinator := system.coordinator(), signal.SIGKILL)
    wait_until(lambda: not alive(coordinator), "the end of the coordinator")
    log = system.folder / "out" / "dora-daemon.txt"
    answer = ANSWERS["another proof"]
    with impostor(system.folder, "127.0.0.1", system.port, answer=answer) as other:
        wait_until(lambda: "it does not know your token" in log.read_text(), "the daemon to find out")
        heard = other.heard()
    assert token not in heard and "websocket" not in heard.lower()
    assert "started dora coordinator" in system.dora("up")
    assert system.node_pids(run) == pids, "the dataflow has gone on"


# --------------------------------------------------------------------------- the proof itself


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Serving]:
    with serving(lambda: Store(str(tmp_path / "store.sqlite"))) as served:
        yield served


def test_a_proof_needs_no_token_and_is_no_cookie(served: Serving) -> None:
    nonce = "ab" * 32
    status, text = served.ask("GET", f"/api/proof?nonce={nonce}", authorization="")
    assert status == 200
    shown = json.loads(text)["proof"]
    assert shown == proof_of(TOKEN, nonce, f"127.0.0.1 {served.port}")
    said = f"dora coordinator proof 1\n{nonce}\n127.0.0.1 {served.port}".encode()
    assert shown == hmac.new(TOKEN.encode(), said, hashlib.sha256).hexdigest()
    for wrong in ("", "ab", "AB" * 32, "ab" * 33, "xy" * 32):
        assert served.ask("GET", f"/api/proof?nonce={wrong}", authorization="")[0] == 400
    for name in (f"Bearer {shown}", f"Bearer {nonce}"):
        assert served.ask("GET", "/api/status", authorization=name)[0] == 401


def test_a_proven_connection_is_never_reopened(served: Serving) -> None:
    connection = proven_connection("127.0.0.1", served.port, Token(TOKEN, "the test"))
    proved = connection.sock.getsockname()
    connection.request("GET", "/api/status", headers={"Authorization": f"Bearer {TOKEN}"})
    assert connection.sock.getsockname() == proved
    assert connection.getresponse().status == 200
    connection.close()
    with pytest.raises(NotConnected):
        connection.request("GET", "/api/status")  # it is not opened again
    with proven_socket("127.0.0.1", served.port, Token(TOKEN, "the test")) as plain:
        assert plain.gettimeout() is None


@pytest.mark.parametrize("token", [Token(TOKEN[::-1], "the test"), None])
def test_another_token_or_none_is_not_shown(served: Serving, token: Token | None) -> None:
    with pytest.raises(
        UnprovenServerError, match="does not know your token" if token else "and you have none"
    ):
        proven_connection("127.0.0.1", served.port, token)


def test_headers_of_proxies_are_not_believed(served: Serving) -> None:
    names = ("x_forwarded_for", "x_real_ip", "forwarded", "x_forwarded_proto", "x_forwarded_host")
    headers = dict.fromkeys(names, "127.0.0.1")
    assert served.ask("GET", "/api/dataflows", authorization="", **headers)[0] == 401


def test_a_server_that_answers_byte_by_byte_holds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def answer() -> None:
        peer, _ = listener.accept()
        with peer:
            peer.recv(4096)
            peer.sendall(b"HTTP/1.1 200 OK\r\nX-Endless: ")
            for _ in range(300):
                if over.wait(0.01):
                    return
                peer.sendall(b"a")

    monkeypatch.setattr("dora.transport.proof.TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=answer)
        server.start()
        try:
            with pytest.raises(TimeoutError):
                proven_connection("127.0.0.1", listener.getsockname()[1], Token(TOKEN, "the test's"))
        finally:
            over.set()
            server.join()
