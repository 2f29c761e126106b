"""A coordinator that is reachable at several addresses."""

from __future__ import annotations

import http.server
import threading

import pytest
from serving import serving
from tokens import TOKEN

from dora._paths import is_chosen
from dora.cli.argument_values import parse_addresses
from dora.cluster.client import Client, Unreachable
from dora.cluster.coordinator.store import MEMORY, Store
from dora.transport.tokens import Token


def client_of(port: int, addresses: str) -> Client:
    return Client(addresses, port, token=Token(TOKEN, "the test"))


@pytest.mark.lengthy
def test_a_command_takes_the_first_address_that_answers() -> None:
    with serving(lambda: Store(MEMORY)) as served:
        client = client_of(served.port, "127.0.0.2,127.0.0.1")  # nothing listens at the first one
        assert client.status().daemons == []
        assert client.where == f"127.0.0.1:{served.port}"
    gone = f"cannot connect to coordinator at 127.0.0.2:{served.port} or 127.0.0.1:{served.port}: "
    with pytest.raises(Unreachable, match=gone):
        client.status()


@pytest.mark.lengthy
def test_another_server_at_one_of_the_addresses_does_not_matter() -> None:
    """In another network, a stranger may have an address, who does not know the token."""
    with (
        serving(lambda: Store(MEMORY)) as served,
        http.server.HTTPServer(("127.0.0.2", served.port), http.server.SimpleHTTPRequestHandler) as other,
    ):
        threading.Thread(target=other.handle_request).start()
        client = client_of(served.port, "127.0.0.2,127.0.0.1")
        assert client.status().daemons == []
        assert client.where == f"127.0.0.1:{served.port}"


def test_addresses_are_given_with_commas() -> None:
    assert parse_addresses("10.0.0.1, [fd00::1],robot.local") == "10.0.0.1,fd00::1,robot.local"
    with pytest.raises(ValueError, match="has an address twice"):
        parse_addresses("10.0.0.1,10.0.0.1")
    with pytest.raises(ValueError, match="is neither an IP address nor the name of a host"):
        parse_addresses("10.0.0.1,")


def test_dataflows_of_a_coordinator_are_found_by_each_of_its_addresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DORA_COORDINATOR_ADDR", "10.0.0.1,10.8.0.1")
    monkeypatch.setenv("DORA_COORDINATOR_PORT", "6013")
    places = ("10.0.0.1:6013", "10.8.0.1:6013", "10.0.0.2:6013", "10.8.0.1:6014")
    assert [is_chosen(place) for place in places] == [True, True, False, False]
