"""A daemon looks whether its machine still has the address of its connection to the coordinator."""

from __future__ import annotations

import errno
import socket

import pytest

from dora.cluster.agent.connection import has_address


def test_an_address_counts_as_lost_only_if_the_system_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert has_address(("127.0.0.1", 80)) and not has_address(("192.0.2.1", 80))

    def full(*_: object) -> socket.socket:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(socket, "socket", full)
    assert has_address(("192.0.2.1", 80)), "nobody could ask"
