"""Links inside one process."""

from __future__ import annotations

import ctypes

import pytest

from dora.transport.inprocess import LocalEngine
from dora.wire.message import pack_head
from dora.wire.node_config import InputConfig, OutputConfig


def test_receivers_of_an_output_get_the_same_message_object() -> None:
    engine = LocalEngine()
    sender = engine.sender(OutputConfig("output", "service"))
    receivers = [
        engine.receiver(InputConfig(f"input-{index}", "link", "a/output", service="service"), lambda: None)
        for index in range(2)
    ]
    sender.send(pack_head(0, b"C", b"", 0, 1, 0))
    loan = sender.loan(64)
    message = receivers[0].receive()
    assert message is not None
    assert message is receivers[1].receive()
    loan.discard()


@pytest.mark.parametrize("size", [1, 63, 64, 65, 127, 128, 4095, 4096, 100_001])
def test_a_loan_is_aligned_and_has_the_requested_size(size: int) -> None:
    sender = LocalEngine().sender(OutputConfig("output", "service"))
    for _ in range(20):
        loan = sender.loan(size)
        assert loan.address % 64 == 0
        assert len(loan.memory) == size
        ctypes.memset(loan.address, 0xA5, size)
        assert bytes(loan.memory) == b"\xa5" * size
