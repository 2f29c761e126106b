"""Which messages take the fast path to another machine."""

from __future__ import annotations

from dora.transport.network.sender import FAST_PATH_BYTES, MAX_IN_FLIGHT, MAX_MESSAGE, FastPath


class Receiver:
    """Gets the pings of a fast path."""

    def __init__(self) -> None:
        self.pings: list[int] = []
        self.path = FastPath(lambda data: self.pings.append(int.from_bytes(data, "little")))

    def acknowledge(self, arrived: int) -> None:
        self.path.on_ack(arrived, self.pings[-1] if self.pings else 0)


def opened() -> Receiver:
    receiver = Receiver()
    receiver.acknowledge(0)
    receiver.acknowledge(0)
    return receiver


def test_the_fast_path_is_closed_until_a_ping_has_arrived() -> None:
    receiver = Receiver()
    assert not receiver.path.accepts(1, 8, 8, alone=True)
    receiver.acknowledge(1)
    assert not receiver.path.accepts(2, 8, 8, alone=True)
    receiver.acknowledge(2)
    assert receiver.path.accepts(3, 8, 8, alone=True)
    assert len(receiver.pings) == 1


def test_the_fast_path_is_for_single_messages_of_moderate_size() -> None:
    assert opened().path.accepts(1, MAX_MESSAGE, MAX_MESSAGE, alone=True)
    assert not opened().path.accepts(1, MAX_MESSAGE + 1, MAX_MESSAGE + 1, alone=True)
    assert not opened().path.accepts(1, 8, 8, alone=False)


def test_no_message_overtakes_one_on_the_regular_path() -> None:
    receiver = opened()
    assert not receiver.path.accepts(1, 1 << 20, 1 << 20, alone=True)
    assert not receiver.path.accepts(2, 8, 8, alone=True)
    receiver.acknowledge(1)
    assert not receiver.path.accepts(3, 8, 8, alone=True)
    receiver.acknowledge(3)
    assert receiver.path.accepts(4, 8, 8, alone=True)


def test_few_messages_are_in_flight_on_the_fast_path() -> None:
    receiver = opened()
    numbers = range(1, MAX_IN_FLIGHT + 2)
    assert [receiver.path.accepts(number, 8, 8, alone=True) for number in numbers] == [
        *[True] * MAX_IN_FLIGHT,
        False,
    ]


def test_no_more_bytes_are_in_flight_than_the_system_buffers() -> None:
    path = opened().path
    assert path.accepts(1, MAX_MESSAGE, FAST_PATH_BYTES, alone=True)
    assert not path.accepts(2, MAX_MESSAGE, FAST_PATH_BYTES + 1, alone=True)


def test_a_piggyback_acknowledgement_counts_and_is_never_taken_back() -> None:
    receiver = opened()
    assert not receiver.path.accepts(1, 8, 8, alone=False)
    receiver.path.on_arrived(1)
    receiver.acknowledge(0)
    assert receiver.path.accepts(2, 8, 8, alone=True)


def test_a_ping_from_before_a_loss_does_not_open_the_fast_path() -> None:
    receiver = opened()
    receiver.path.close()
    former = receiver.pings[-1]
    receiver.path.on_ack(0, former)
    assert not receiver.path.accepts(1, 8, 8, alone=True)
    assert receiver.pings[-1] != former
    receiver.acknowledge(1)
    assert receiver.path.accepts(2, 8, 8, alone=True)
