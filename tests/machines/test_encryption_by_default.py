"""Coordinator and daemons that were started by hand: encrypted by default, and nobody gets in between."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_system import DORA, Spread
from hosts import network
from sniffer import Sniffer, can_be_read
from tokens import TOKEN
from waiting import wait_until

from dora._paths import NO_TLS
from dora.cluster.authority import own_authority
from dora.gateway.outgoing import CONNECTIONS

pytestmark = pytest.mark.processes

MESSAGE = "a message that crosses"
FILES = {
    "source.py": f"""
        import pyarrow as pa
        from dora import Node
        for event in (node := Node()):
            if event["type"] == "INPUT":
                node.send_output("text", pa.array(["{MESSAGE}"]))
    """,
    "sink.py": """
        from dora import Node
        for count, event in enumerate(Node(), 1):
            if event["type"] == "INPUT" and count == 200:
                print("has", count, flush=True)
    """,
    "flow.yml": """
        nodes:
          - id: source
            path: source.py
            deploy: {machine: robot}
            inputs: {tick: dora/timer/millis/5}
            outputs: [text]
          - {id: sink, path: sink.py, deploy: {machine: desk}, inputs: {text: source/text}}
    """,
}
COORDINATOR = range(6013, 6014)

# In between, with a certificate of its own: decrypts what comes, prints it, and encrypts it again for
# the coordinator. "plain" instead: answers without TLS.
RELAY = """
import select, socket, ssl, sys, threading
how, bundle, upstream = sys.argv[1:]
listener = socket.create_server(("0.0.0.0", 6013))
server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
server.load_cert_chain(bundle)
client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
client.check_hostname = False
client.verify_mode = ssl.CERT_NONE
print("ready", flush=True)

def received(source):
    source.settimeout(0)
    try:
        return source.recv(65536)
    except ssl.SSLWantReadError:  # a message of TLS itself
        return None
    finally:
        source.settimeout(60)

def serve(peer):
    if how == "plain":
        print(ascii(peer.recv(65536)), flush=True)
        peer.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\n[]")
        return
    peer = server.wrap_socket(peer, server_side=True)
    right = client.wrap_socket(socket.create_connection((upstream, 6013)))
    other = {peer: right, right: peer}
    while True:  # in one thread: a connection with TLS is for one at a time
        for source in select.select([peer, right], [], [])[0]:
            data = received(source)
            if data == b"":
                return
            if data:
                print(ascii(data), flush=True)
                other[source].sendall(data)

while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


LEAD = """
import socket, sys, threading
listener = socket.create_server(("0.0.0.0", 6013))
print("ready", flush=True)
def pass_on(source, target):
    while data := source.recv(65536):
        target.sendall(data)
    target.shutdown(socket.SHUT_WR)
while True:
    peer, _ = listener.accept()
    right = socket.create_connection((sys.argv[1], 6013))
    threading.Thread(target=pass_on, args=(peer, right), daemon=True).start()
    threading.Thread(target=pass_on, args=(right, peer), daemon=True).start()
"""


@pytest.fixture
def system(namespaces: None, tmp_path: Path) -> Iterator[Spread]:  # noqa: ARG001
    with network("desk", "robot", "between") as hosts:
        system = Spread(hosts, tmp_path, {})
        system.write(FILES)
        yield system


def run_a_dataflow(system: Spread) -> None:
    for name in ("desk", "robot"):
        system.start_daemon(name)
    system.wait_for_machines("desk", "robot")
    dataflow = system.start("flow.yml")
    system.wait_for_log(dataflow, "has 200")  # the node has a bypass by then
    assert MESSAGE in system.dora("topic", "echo", "source/text", "--count", "1", host=system.first)
    system.dora("stop", dataflow)


@pytest.mark.slow
def test_nothing_can_be_read_by_default(system: Spread) -> None:
    with Sniffer(system.hosts["robot"]) as sniffer:
        system.start_coordinator()
        run_a_dataflow(system)
    for data in sniffer.bytes.values():
        assert not [text for text in (MESSAGE, TOKEN) if can_be_read(text.encode(), bytes(data))]
    links = sniffer.of_links()
    # A road and a bypass, in both directions. On a busy machine, some are dialled twice.
    assert len(links) >= 2 * (CONNECTIONS + 1)
    for sent in (sniffer.of_ports(COORDINATOR), links):
        begun = [data for data in sent if data]
        assert begun and all(data[0] == 0x16 for data in begun), "each begins with a handshake of TLS"


@pytest.mark.slow
def test_all_can_be_read_where_both_sides_do_without_tls(system: Spread) -> None:
    options = ("--interface", system.first.address, "--no-tls")
    with Sniffer(system.hosts["robot"]) as sniffer:
        system.background(system.first, "coordinator", "coordinator", *options)
        system.start_daemon("robot")
        refusal = "does not use TLS, so nothing else was sent to it; if it is your coordinator, start it"
        wait_until(lambda: refusal in system.said("robot"), lambda: system.said("robot"))
        assert system.processes["robot"].wait() == 1
        assert refusal in system.dora("list", status=1)
        assert not any(can_be_read(TOKEN.encode(), data) for data in sniffer.of_ports(COORDINATOR))
        system.env["DORA_COORDINATOR_CA"] = NO_TLS
        run_a_dataflow(system)
    assert any(can_be_read(MESSAGE.encode(), data) for data in sniffer.of_links())
    assert any(can_be_read(TOKEN.encode(), data) for data in sniffer.of_ports(COORDINATOR))


@pytest.mark.slow
def test_the_machine_of_the_coordinator_reaches_it_by_loopback_without_tls(system: Spread) -> None:
    system.background(system.first, "coordinator", "coordinator", "--interface", "0.0.0.0")
    local = {"DORA_COORDINATOR_ADDR": "127.0.0.1"}
    system.background(system.first, "desk", "daemon", "--machine-id", "desk", env=local)
    system.start_daemon("robot")
    system.wait_for_machines("desk", "robot")
    status = system.first.run([*DORA, "status"], env={**system.env, **local})
    assert "http://127.0.0.1:6013/open?" in status
    assert f"https://{system.first.address}:6013/open?" in system.dora("status")
    with Sniffer(system.hosts["robot"]) as sniffer:  # the daemon on loopback has a certificate, too
        system.wait_for_log(system.start("flow.yml"), "has 200")
    assert not any(can_be_read(MESSAGE.encode(), data) for data in sniffer.of_links())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "told"),
    [("relay", "is not your dora coordinator: it does not know your token"), ("plain", "does not use TLS")],
)
def test_who_is_in_between_does_not_get_the_token(
    system: Spread, monkeypatch: pytest.MonkeyPatch, how: str, told: str
) -> None:
    monkeypatch.setenv("DORA_DATA_DIR", str(system.folder / "relay"))
    bundle = system.folder / "relay.pem"
    between = system.hosts["between"]
    bundle.write_text(own_authority(1).certify("coordinator", hosts=[between.address]))
    system.start_coordinator()
    system.start_daemon("robot")
    system.wait_for_machines("robot")
    with open(system.folder / "heard.txt", "w") as output:
        command = [sys.executable, "-c", RELAY, how, bundle, system.first.address]
        between.popen(command, stdout=output, stderr=output)
    wait_until(lambda: "ready" in system.said("heard"), "the program in between")
    for arguments in (("list",), ("daemon", "--machine-id", "other"), ("down",)):
        command = [*DORA, *arguments, "--coordinator-addr", between.address]
        printed = system.hosts["robot"].run(command, env=system.env, status=1)
        assert told in printed and "Traceback" not in printed, printed
    heard = system.said("heard")
    assert ("GET /api/proof?nonce=" in heard) == (how == "relay"), heard
    assert TOKEN not in heard and "Authorization" not in heard
    system.wait_for_machines("robot")


@pytest.mark.slow
def test_a_connection_may_be_led_on_without_being_opened(system: Spread) -> None:
    """A router that translates addresses, or a tunnel, changes nothing of the certificate."""
    system.start_coordinator()
    between = system.hosts["between"]
    with open(system.folder / "led.txt", "w") as output:
        between.popen([sys.executable, "-c", LEAD, system.first.address], stdout=output, stderr=output)
    wait_until(lambda: "ready" in system.said("led"), "the way")
    command = [*DORA, "status", "--coordinator-addr", between.address, "--format", "json"]
    printed = system.hosts["robot"].run(command, env=system.env, status=None)
    assert json.JSONDecoder().raw_decode(printed)[0]["coordinator"]


@pytest.mark.slow
def test_another_token_is_told_apart(system: Spread) -> None:
    system.start_coordinator()
    wait_until(lambda: "listening in TLS" in system.said("coordinator"), "the coordinator")
    other = {**system.env, "DORA_AUTH_TOKEN": TOKEN[::-1]}
    for arguments in (("list",), ("daemon", "--machine-id", "robot")):
        printed = system.hosts["robot"].run([*DORA, *arguments], env=other, status=1)
        assert "is not your dora coordinator: it does not know your token" in printed
