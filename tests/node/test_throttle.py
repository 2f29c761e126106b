"""A sender that is megabytes ahead of another machine lets it catch up, for less than 1 ms a message."""

from typing import Literal

import pytest

from dora.node.send.throttle import Throttle, throttle_for
from dora.transport.board import FORWARDED, WORDS
from dora.wire.node_config import LinkConfig

SLOT = 2
MIB = 1 << 20


class Network:
    """Words of the board, a clock, and another machine that gets ``each_ms`` messages a millisecond.

    It acknowledges ``together`` messages at a time.
    """

    def __init__(self, each_ms: float = 0.0, together: int = 1) -> None:
        self.together = together
        self.words = memoryview(bytearray(8 * WORDS * (SLOT + 1))).cast("Q")
        self.now = 0
        self.naps = 0
        self.each_ms = each_ms
        self.arrived = 0.0

    def sleep(self, seconds: float) -> None:
        self.naps += 1
        self.now += int(seconds * 1e9)
        self.arrived += self.each_ms * seconds * 1e3
        self.words[SLOT * WORDS + FORWARDED] = int(self.arrived) // self.together * self.together

    def throttle(self, depth: int) -> Throttle:
        return Throttle(depth, SLOT, self.words, sleep=self.sleep, clock=lambda: self.now)


def wait_ns(network: Network, throttle: Throttle, sequence: int) -> int:
    """Return how many nanoseconds a message of 1 MiB waits."""
    before = network.now
    throttle.wait(sequence, MIB)
    return network.now - before


def test_a_sender_that_is_not_ahead_does_not_wait() -> None:
    network = Network()
    throttle = network.throttle(depth=1000)
    for sequence in range(1, 17):
        throttle.wait(sequence, MIB)
    for sequence in range(1, 1000):
        throttle.wait(sequence, 4_000)
    assert network.naps == 0


def test_a_sender_that_is_far_ahead_waits_until_the_network_has_caught_up() -> None:
    network = Network(each_ms=5.0)
    throttle = network.throttle(depth=1000)
    for sequence in range(1, 200):
        throttle.wait(sequence, MIB)
        assert sequence - int(network.arrived) <= 17
    assert network.naps > 0


def test_small_messages_that_wait_stay_in_the_caches_of_a_processor() -> None:
    network = Network(each_ms=20.0)
    throttle = network.throttle(depth=1000)
    for sequence in range(1, 1000):
        throttle.wait(sequence, 64 << 10)
        assert sequence - int(network.arrived) <= 65
    assert network.naps > 0


def test_no_message_waits_for_a_millisecond() -> None:
    network = Network(each_ms=0.5)
    throttle = network.throttle(depth=1000)
    waits = [wait_ns(network, throttle, sequence) for sequence in range(1, 200)]
    assert 0 < max(waits) <= 1_000_000


def test_no_message_waits_behind_a_network_that_is_cut() -> None:
    network = Network()
    throttle = network.throttle(depth=1000)
    waits = [wait_ns(network, throttle, sequence) for sequence in range(1, 200)]
    assert 20_000_000 <= sum(waits) <= 22_000_000
    assert waits[-1] == 0
    network.words[SLOT * WORDS + FORWARDED] = 1  # the network is back
    assert wait_ns(network, throttle, 200) > 0


def test_a_sender_does_not_run_ahead_between_two_acknowledgements() -> None:
    network = Network(each_ms=2.0, together=7)  # one every 3.5 ms
    throttle = network.throttle(depth=1000)
    for sequence in range(1, 500):
        throttle.wait(sequence, MIB)
        assert sequence - int(network.arrived) <= 17


def test_messages_that_a_short_queue_drops_are_not_ahead() -> None:
    network = Network()
    throttle = network.throttle(depth=10)
    for sequence in range(1, 200):
        throttle.wait(sequence, MIB)
    assert network.naps == 0


@pytest.mark.parametrize(
    ("machine", "policy", "is_throttled"),
    [("other", "drop_oldest", True), ("", "drop_oldest", False), ("other", "backpressure", False)],
)
def test_only_links_to_another_machine_that_may_drop_are_throttled(
    machine: str, policy: Literal["drop_oldest", "backpressure"], is_throttled: bool
) -> None:
    link = LinkConfig(1, 0, "bell", "there/in", machine=machine, queue_size=1000, queue_policy=policy)
    assert (throttle_for([link], SLOT, Network().words) is not None) is is_throttled
