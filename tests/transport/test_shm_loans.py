"""Loans of the engine ``shm``: after they were sent, and of several threads."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from linking import HERE, LIMIT, Bench
from own_shm import needs_own_shm, within_own_shm

from dora.node.send.loan import SampleHandler
from dora.node.send.output import OutputPort as NodeOutput
from dora.transport.shm.engine import ShmSender
from dora.wire.decode import decode_numpy


@pytest.mark.processes
@needs_own_shm
def test_a_loan_can_be_looked_at_after_its_memory_was_freed_and_no_room_is_left() -> None:
    """The page that the program touches would have to be allocated again, and there is no room for it."""
    command = within_own_shm("32m", sys.executable, str(HERE / "loan_process.py"))
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert (done.returncode, done.stdout) == (0, "free 0\nread\n"), done.stderr


def test_a_loan_that_is_looked_at_keeps_no_memory(shm_bench: Bench) -> None:
    output_port, (port,) = shm_bench.link(10)
    loan = output_port.fill(output_port.message(bytes(5 << 20)))
    array = np.frombuffer(loan.memory, np.uint8)
    loan.send()
    port.take()
    for _ in range(600):
        output_port.send(b"x")
        port.take()
    assert isinstance(output_port.sender, ShmSender)
    assert all(segment.mapping.size < 5 << 20 for segment in output_port.sender.pool._segments.values())
    assert array.sum() == 0


def one_at_a_time(sender: Any) -> None:
    """Let a sender fail if two threads use it at once."""
    busy = threading.Lock()

    def guarded(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            assert busy.acquire(blocking=False), "two threads use a sender"
            try:
                time.sleep(0)  # another thread may go on
                return method(*arguments)
            finally:
                busy.release()

        return call

    for name in ("send", "loan", "send_loan", "prepare"):
        setattr(sender, name, guarded(getattr(sender, name)))


@pytest.mark.lengthy
def test_loans_and_messages_of_several_threads_do_not_disturb_each_other(shm_bench: Bench) -> None:
    """Nodes may be used by several threads; a loan is made and discarded while another thread sends."""
    output, (config,) = shm_bench.describe(50)
    port = shm_bench.port(config)
    sender = shm_bench.engine().sender(output)
    one_at_a_time(sender)
    node_output = NodeOutput(output, sender, shm_bench.board, rings=False)
    failures: list[BaseException] = []

    def guarded(work: object) -> threading.Thread:
        def run() -> None:
            try:
                for number in range(300):
                    work(number)  # type: ignore[operator]
            except BaseException as error:  # noqa: BLE001 - looked at below
                failures.append(error)

        return threading.Thread(target=run)

    def send(number: int) -> None:
        node_output.send(np.full(3000 + 50 * (number % 50), number, np.uint16), None)

    def lend(number: int) -> None:
        loan = SampleHandler(node_output, b"S", 40_000, None)
        np.frombuffer(loan.as_memoryview(), np.uint16)[:] = number
        loan.send_in_use()

    def discard(number: int) -> None:
        SampleHandler(node_output, b"S", 3000 + 1000 * (number % 50), None)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [guarded(work) for work in (send, lend, discard, send)]
    try:
        for thread in threads:
            thread.start()
        last = 0
        while any(thread.is_alive() for thread in threads) or port.receiver.has_messages():
            message = port.receiver.receive()
            if message is None:
                continue
            array = decode_numpy(message)
            assert message.sequence > last and (array == array[0]).all()
            last = message.sequence
            del array, message
    finally:
        sys.setswitchinterval(interval)
        for thread in threads:
            thread.join(LIMIT)
    assert not failures
    assert last == 900
    assert isinstance(sender, ShmSender)
    sender._reclaim()
    assert not sender.lent
    sender._ready = None
    sender._put_in_order()
    pool = sender.pool
    assert {size: len(idle) for size, idle in pool._idle.items() if idle} == pool._total
