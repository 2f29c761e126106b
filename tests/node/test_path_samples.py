"""How many messages of an input are measured: all of a slow one, a share of a fast one."""

from __future__ import annotations

from pathlib import Path

import pytest

from dora.node.receive import path_meter
from dora.node.receive.path_meter import InputMeter, PathMeter, Records
from dora.wire.message import Encoding, Message, pack_head
from dora.wire.path_statistics import bucket_of

MESSAGE = Message(pack_head(Encoding.PLAIN, b"C", b"", 0, 1, 1))
MICROSECOND, MILLISECOND, SECOND = 1000, 1_000_000, 1_000_000_000


class Run:
    """Messages on one input, at times of a clock of its own."""

    def __init__(self) -> None:
        self.meter = PathMeter(Records())
        self.input: InputMeter = InputMeter(self.meter, slot=7)
        self.now_ns = SECOND
        self.number = 0
        self.next = 1

    def receive(self, messages: int, apart_ns: int) -> int:
        """Receive messages; return how many of them were measured."""
        samples = 0
        for _ in range(messages):
            self.now_ns += apart_ns
            self.number += 1
            if self.number == self.next:
                self.next = self.input.sample(MESSAGE, self.number, self.now_ns)
                samples += 1
        return samples

    def counted(self) -> int:
        (path,) = self.meter.statistics({0: "camera/image"}, {7: "motor/image"})
        return path.messages


def test_each_message_is_measured_up_to_a_thousand_a_second() -> None:
    run = Run()
    assert run.receive(2000, MILLISECOND) == 2000
    assert run.counted() == 2000


def test_of_a_fast_input_a_share_is_measured_and_counts_for_all() -> None:
    run = Run()
    assert 1000 < run.receive(100_000, 10 * MICROSECOND) < 4000
    assert abs(run.counted() - 100_000) < 200


def test_a_burst_leaves_out_little_of_what_comes_slowly_after_it() -> None:
    run = Run()
    run.receive(1000, 5 * MICROSECOND)
    assert run.receive(300, 10 * MILLISECOND) > 200


def test_a_message_taken_while_another_thread_closes_the_node_is_not_counted(tmp_path: Path) -> None:
    meter = PathMeter(Records(str(tmp_path / "paths")))
    meter.add(path=1, time_ns=MILLISECOND)
    meter.close()
    meter.add(path=2, time_ns=MILLISECOND)
    assert meter.statistics({}, {}) == []


def test_a_signal_handler_may_close_a_node_that_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = PathMeter(Records(str(tmp_path / "paths")))
    meter.add(path=1, time_ns=MILLISECOND)

    def closing(time_ns: int) -> int:
        meter.close()
        return bucket_of(time_ns)

    monkeypatch.setattr(path_meter, "bucket_of", closing)
    meter.add(path=1, time_ns=MILLISECOND)
    assert meter.statistics({}, {}) == []
