"""The two halves of a link between machines, over a network that loses and keeps the order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dora.transport.network.window import WINDOW, WINDOW_BYTES, Entry, ReceiveWindow, SendWindow

LANE = 7


class Network:
    """A lane, a landing, and what is between them."""

    def __init__(self, capacity: int | None) -> None:
        self.air: list[Entry] = []
        self.taken: list[int] = []
        self.lane = SendWindow(capacity)
        self.landing = ReceiveWindow()
        self.sent = 0

    def send(self, size: int = 1) -> None:
        self.sent += 1
        self.lane.put(self.sent, f"message {self.sent}", size)
        self.launch()

    def launch(self) -> None:
        while (entry := self.lane.next()) is not None:
            self.air.append(entry)

    def probe(self) -> None:
        """What flies arrives, and behind it a probe, which is answered."""
        self.arrive()
        self.landing.open(LANE, self.lane.last)
        if not self.lane.open:
            self.lane.open = True
        self.answer()

    def answer(self) -> None:
        missing = self.landing.missing
        self.lane.acknowledge(self.landing.arrived)
        self.landing.told()
        if missing:
            self.lane.repeat()
        self.launch()

    def arrive(self) -> None:
        flying, self.air[:] = list(self.air), []
        for number, sequence, _, size in flying:
            if self.landing.takes(LANE, number, size):
                self.taken.append(sequence)

    def lose(self) -> None:
        self.air.clear()


def opened(capacity: int | None) -> Network:
    network = Network(capacity)
    network.probe()
    return network


def test_nothing_takes_off_before_somebody_listens() -> None:
    network = Network(None)
    network.send()
    assert network.air == []
    network.probe()
    network.arrive()
    assert network.taken == [1]


def test_the_window_bounds_what_flies() -> None:
    network = opened(10)
    for _ in range(WINDOW + 25):
        network.send()
    assert len(network.air) == WINDOW
    network.probe()
    network.probe()
    # Of the 25 that had to wait, the newest 10 were kept.
    assert network.taken == [*range(1, WINDOW + 1), *range(WINDOW + 16, WINDOW + 26)]
    assert network.lane.dropped == 15
    assert network.lane.idle


def test_it_tells_which_message_was_launched_last() -> None:
    lane = SendWindow(None)
    lane.open = True
    told = [lane.last_launched]
    for sequence in (1, 2, 3):
        lane.put(sequence, "", 1)
    lane.next()
    told.append(lane.last_launched)
    lane.next()
    lane.back()  # there was no room for it
    told.append(lane.last_launched)
    lane.acknowledge(1)
    told.append(lane.last_launched)
    lane.next()
    lane.next()
    told.append(lane.last_launched)
    lane.repeat()
    told.append(lane.last_launched)
    assert told == [0, 1, 1, 1, 3, 1]


def test_a_message_larger_than_the_window_flies_alone() -> None:
    network = opened(10)
    network.send(WINDOW_BYTES * 3)
    network.send(10)
    assert [entry[1] for entry in network.air] == [1]
    network.probe()
    network.probe()
    assert network.taken == [1, 2]


def test_what_a_cut_took_is_sent_again() -> None:
    network = opened(None)
    network.send()
    network.probe()
    network.send()
    network.send()
    network.lose()
    network.send()
    network.arrive()  # the third is not the next one: it is not taken
    assert network.taken == [1]
    network.probe()
    network.arrive()
    assert network.taken == [1, 2, 3, 4]


def test_another_process_gets_what_the_last_one_has_not_acknowledged() -> None:
    network = opened(None)
    network.send()
    network.probe()
    for _ in range(3):
        network.send()
    network.lose()
    network.lane.begin_anew()
    assert network.lane.last_sequence == 1
    network.landing = ReceiveWindow()
    network.send()
    network.probe()
    network.arrive()
    assert network.taken == [1, 2, 3, 4, 5]


def test_another_process_gets_no_more_than_may_wait() -> None:
    network = opened(2)
    for _ in range(5):
        network.send()
    network.lose()
    network.lane.begin_anew()
    network.landing = ReceiveWindow()
    network.probe()
    network.arrive()
    assert network.taken == [4, 5]
    assert network.lane.dropped == 3


def test_nobody_gets_what_was_for_one_that_has_closed() -> None:
    network = opened(None)
    network.send()
    network.lane.forget()
    assert network.lane.idle
    assert network.lane.last_sequence == 1


def test_progress_is_told_in_time() -> None:
    landing = ReceiveWindow()
    landing.open(LANE, 0)
    for number in range(1, WINDOW // 4):
        assert landing.takes(LANE, number, 1)
        assert not landing.wants_to_tell()
    assert landing.has_news()
    assert landing.takes(LANE, WINDOW // 4, 1)
    assert landing.wants_to_tell()
    landing.told()
    assert not landing.has_news()
    assert not landing.takes(LANE + 1, WINDOW // 4 + 1, 1), "a message of a former sender"


@given(
    st.lists(st.sampled_from(["send", "large", "arrive", "lose", "probe", "answer"]), max_size=300),
    st.sampled_from([None, 1, 3]),
)
def test_every_message_arrives_once_and_in_order(steps: list[str], capacity: int | None) -> None:
    network = opened(capacity)
    for step in steps:
        match step:
            case "send":
                network.send()
            case "large":
                network.send(WINDOW_BYTES // 2)
            case "arrive":
                network.arrive()
            case "lose":
                network.lose()
            case "probe":
                network.probe()
            case "answer":
                network.answer()
    for _ in range(len(steps) + 3):
        network.probe()
    assert network.lane.idle
    assert network.taken == sorted(set(network.taken))
    assert len(network.taken) == network.sent - network.lane.dropped
    if capacity is None:
        assert network.taken == list(range(1, network.sent + 1))


def test_what_has_overtaken_others_is_taken_after_them() -> None:
    landing = ReceiveWindow()
    landing.open(LANE, 0)
    assert not landing.takes(LANE, 3, 1)
    landing.keep(LANE, 3, "third")
    assert not landing.takes(LANE, 2, 1)
    landing.keep(LANE, 2, "second")
    assert landing.follower() is None
    assert landing.takes(LANE, 1, 1)
    for number, message in ((2, "second"), (3, "third")):
        assert landing.follower() == message
        assert landing.takes(LANE, number, 1)
    assert landing.follower() is None
    assert not landing.missing


def test_what_was_kept_of_one_lane_is_nothing_of_the_next() -> None:
    landing = ReceiveWindow()
    landing.open(LANE, 0)
    landing.keep(LANE, 2, "of the first")
    landing.open(LANE + 1, 1)
    assert landing.follower() is None
    landing.keep(LANE, 2, "late")
    landing.keep(LANE + 1, 1, "known")
    assert landing.follower() is None
    assert landing.arrived == 1
