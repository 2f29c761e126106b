"""The API in TLS: commands and daemons that know the authority get through, others are told why not."""

from __future__ import annotations

import http.client
import socket
import ssl
from pathlib import Path

import pytest
from certificates import certify, recipe
from serving import Serving
from system import FOREVER, System
from tokens import TOKEN
from waiting import TIMEOUT, wait_until

from dora.cluster.agent.identity import running_daemon
from dora.cluster.client import Client, Unreachable
from dora.cluster.coordinator.store import Store
from dora.cluster.http import server
from dora.errors import DoraError
from dora.transport.tls import client_context, is_tls_fault, server_context
from dora.transport.tokens import Token


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    certify(tmp_path, "here", "127.0.0.1")
    certify(tmp_path, "elsewhere", "10.1.2.3")
    certify(tmp_path, "stranger", "127.0.0.1", authority="other")
    return tmp_path


def encrypted(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the system's commands, and its own client, know the authority."""
    monkeypatch.setenv("DORA_COORDINATOR_CA", "ca.pem")  # in the folder of the commands
    system.client = Client("127.0.0.1", system.port, authority=str(system.folder / "ca.pem"))


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.usefixtures("certificates")
def test_a_dataflow_through_tls(
    system: System,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encrypted(system, monkeypatch)
    files = ("--tls-cert", "here.pem", "--tls-key", "here.key")
    assert "started dora daemon" in system.dora("up", "--auth", *files)
    assert "coordinator already running" in system.dora("up")
    run = system.start(system.dataflow("clock", clock=FOREVER))
    with pytest.raises(http.client.HTTPException):  # nothing is said without TLS
        connection = http.client.HTTPConnection("127.0.0.1", system.port, timeout=TIMEOUT)
        connection.request("GET", "/api/status")
        connection.getresponse()
    monkeypatch.delenv("DORA_COORDINATOR_CA")
    told = system.dora("list", status=1)
    assert "hint: one with TLS needs DORA_COORDINATOR_CA, or --coordinator-ca" in told
    assert run in system.dora("list", "--coordinator-ca", "ca.pem", "-q")
    told = system.dora("list", "--coordinator-ca", "other.pem", status=1)
    assert "is not trusted" in told
    assert "Traceback" not in told
    told = system.dora("daemon", "--machine-id", "b", "--coordinator-ca", "other.pem", status=1)
    assert "is not trusted" in told
    monkeypatch.setenv("DORA_COORDINATOR_CA", "ca.pem")
    with monkeypatch.context() as elsewhere:  # where nothing of it runs, looks go over the coordinator
        elsewhere.setenv("DORA_RUNTIME_DIR", str(system.folder))
        assert system.dora("node", "list", "-q") == "clock\n"
        assert "Set `speed` = 2" in system.dora("param", "set", "clock", "speed", "2")
    assert system.dora("param", "get", "clock", "speed") == "2\n"
    assert "dataflow stopped" in system.dora("stop", "clock")
    assert "got STOP" in system.dora("logs", "clock")
    assert "destroyed" in system.dora("down")


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.usefixtures("certificates")
def test_contradicting_options_are_refused(system: System) -> None:
    files = ("--tls-cert", "here.pem", "--tls-key", "here.key")
    assert "set DORA_COORDINATOR_CA" in system.dora("up", *files, status=1)
    told = system.dora("up", "--tls-cert", "here.pem", "--coordinator-ca", "ca.pem", status=1)
    assert "--tls-cert and --tls-key must be given together" in told
    told = system.dora("up", "--coordinator-ca", "ca.pem", status=1)
    assert "to start one, give --tls-cert and --tls-key" in told
    system.dora("up")
    told = system.dora("list", "--coordinator-ca", "ca.pem", status=1)
    assert "does not use TLS, so nothing else was sent to it" in told
    told = system.dora("daemon", "--machine-id", "b", "--coordinator-ca", "ca.pem", status=1)
    assert "does not use TLS" in told


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.usefixtures("certificates")
def test_a_certificate_of_another_address_leaves_nothing_running(system: System) -> None:
    files = ("--tls-cert", "elsewhere.pem", "--tls-key", "elsewhere.key", "--coordinator-ca", "ca.pem")
    assert "certificate is not valid for '127.0.0.1'" in system.dora("up", *files, status=1)
    wait_until(lambda: running_daemon("127.0.0.1", system.port) is None, "the end of the daemon")

    def is_free() -> bool:
        try:
            socket.create_server(("127.0.0.1", system.port)).close()
        except OSError:
            return False
        return True

    wait_until(is_free, "the end of the coordinator")


@pytest.mark.processes
def test_files_that_cannot_be_used(certificates: Path) -> None:
    def path(name: str) -> str:
        return str(certificates / name)

    assert server_context("", "") is None and client_context("") is None
    with pytest.raises(DoraError, match=r"cannot read .*/none.pem: No such file or directory"):
        client_context(path("none.pem"))
    with pytest.raises(DoraError, match=r"here.key contains no certificate of an authority"):
        client_context(path("here.key"))
    with pytest.raises(DoraError, match=r"cannot read .*/none.key"):
        server_context(path("here.pem"), path("none.key"))
    with pytest.raises(DoraError, match=r"are not a certificate and its key: key values mismatch"):
        server_context(path("here.pem"), path("stranger.key"))


@pytest.mark.processes
def test_a_certificate_of_another_host_is_refused(certificates: Path, tmp_path: Path) -> None:
    elsewhere = server_context(str(certificates / "elsewhere.pem"), str(certificates / "elsewhere.key"))
    served = Serving(lambda: Store(str(tmp_path / "store.sqlite")), 100, elsewhere)
    try:
        authority = str(certificates / "ca.pem")
        client = Client("127.0.0.1", served.port, authority=authority, token=Token(TOKEN, "the test"))
        with pytest.raises(
            DoraError, match=r"IP address mismatch, certificate is not valid for '127\.0\.0\.1'"
        ):
            client.status()
    finally:
        served.join()
    with pytest.raises(Unreachable):
        client.status()


@pytest.mark.processes
@pytest.mark.parametrize(
    ("authority", "fault"),
    [("", ""), ("-addext keyUsage=critical,keyCertSign,cRLSign", "CA cert does not include key usage")],
    ids=["as the manual shows", "without a usage of its key"],
)
def test_strict_pythons_accept_the_certificates_of_the_manual(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, authority: str, fault: str
) -> None:
    commands = [command.replace(authority, "") if authority else command for command in recipe()]
    monkeypatch.setattr("certificates.recipe", lambda: commands)
    certify(tmp_path, "here", "127.0.0.1")
    here = server_context(str(tmp_path / "here.pem"), str(tmp_path / "here.key"))
    of_client = client_context(str(tmp_path / "ca.pem"))
    assert of_client is not None
    of_client.verify_flags |= ssl.VERIFY_X509_STRICT  # the default since Python 3.13
    monkeypatch.setattr(ssl, "create_default_context", lambda **_: of_client)
    served = Serving(lambda: Store(str(tmp_path / "store.sqlite")), 100, here)
    try:
        client = Client(
            "127.0.0.1", served.port, authority=str(tmp_path / "ca.pem"), token=Token(TOKEN, "the test")
        )
        if fault:
            with pytest.raises(DoraError, match=rf"Python 3\.13 and newer .*: {fault}.*; make the auth"):
                client.status()
        else:
            assert client.status().daemons == []
    finally:
        served.join()


def test_a_connection_that_is_reset_is_no_fault_of_tls() -> None:
    reset = ssl.SSLError(1, "[SYS] unknown error (_ssl.c:2427)")  # now and then what a write says then
    reset.library = "SYS"
    assert not is_tls_fault(reset) and not is_tls_fault(ConnectionResetError())
    assert is_tls_fault(ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"))


@pytest.mark.slow
@pytest.mark.processes
def test_connections_without_a_handshake_do_not_block_clients(
    certificates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "REQUEST_TIMEOUT", 4.0)
    here = server_context(str(certificates / "here.pem"), str(certificates / "here.key"))
    served = Serving(lambda: Store(str(tmp_path / "store.sqlite")), 40, here)
    try:
        crowd = [socket.create_connection(("127.0.0.1", served.port), timeout=TIMEOUT) for _ in range(300)]
        crowd[0].sendall(b"GET / HTTP/1.1\r\n\r\n")
        authority = str(certificates / "ca.pem")
        client = Client("127.0.0.1", served.port, authority=authority, token=Token(TOKEN, "the test"))
        assert client.status().daemons == []

        def is_closed(connection: socket.socket) -> bool:
            try:
                return not connection.recv(1000)
            except ConnectionResetError:
                return True

        assert all(is_closed(connection) or is_closed(connection) for connection in crowd)
        assert client.status().daemons == []
    finally:
        served.join()
