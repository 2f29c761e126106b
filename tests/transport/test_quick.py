"""Which messages go the quick way to another machine."""

from __future__ import annotations

from dora.transport.network.sender import FAST_PATH_BYTES, MOST, SMALL, FastPath


class Receiver:
    """Hears the questions of a quick way."""

    def __init__(self) -> None:
        self.questions: list[int] = []
        self.way = FastPath(lambda data: self.questions.append(int.from_bytes(data, "little")))

    def tell(self, arrived: int) -> None:
        self.way.on_progress(arrived, self.questions[-1] if self.questions else 0)


def opened() -> Receiver:
    receiver = Receiver()
    receiver.tell(0)
    receiver.tell(0)
    return receiver


def test_it_is_closed_until_a_question_came_through() -> None:
    receiver = Receiver()
    assert not receiver.way.takes(1, 8, 8, alone=True)
    receiver.tell(1)
    assert not receiver.way.takes(2, 8, 8, alone=True)
    receiver.tell(2)
    assert receiver.way.takes(3, 8, 8, alone=True)
    assert len(receiver.questions) == 1


def test_it_is_for_what_is_small_and_goes_alone() -> None:
    assert opened().way.takes(1, SMALL, SMALL, alone=True)
    assert not opened().way.takes(1, SMALL + 1, SMALL + 1, alone=True)
    assert not opened().way.takes(1, 8, 8, alone=False)


def test_nothing_overtakes_what_went_the_usual_way() -> None:
    receiver = opened()
    assert not receiver.way.takes(1, 1 << 20, 1 << 20, alone=True)
    assert not receiver.way.takes(2, 8, 8, alone=True)
    receiver.tell(1)
    assert not receiver.way.takes(3, 8, 8, alone=True)
    receiver.tell(3)
    assert receiver.way.takes(4, 8, 8, alone=True)


def test_few_fly_at_a_time() -> None:
    receiver = opened()
    assert [receiver.way.takes(number, 8, 8, alone=True) for number in range(1, MOST + 2)] == [
        *[True] * MOST,
        False,
    ]


def test_no_more_flies_than_the_system_takes() -> None:
    way = opened().way
    assert way.takes(1, SMALL, FAST_PATH_BYTES, alone=True)
    assert not way.takes(2, SMALL, FAST_PATH_BYTES + 1, alone=True)


def test_what_came_with_a_message_counts_and_is_never_taken_back() -> None:
    receiver = opened()
    assert not receiver.way.takes(1, 8, 8, alone=False)
    receiver.way.on_report(1)
    receiver.tell(0)
    assert receiver.way.takes(2, 8, 8, alone=True)


def test_after_a_loss_the_answer_to_a_former_question_does_not_count() -> None:
    receiver = opened()
    receiver.way.close()
    former = receiver.questions[-1]
    receiver.way.on_progress(0, former)
    assert not receiver.way.takes(1, 8, 8, alone=True)
    assert receiver.questions[-1] != former
    receiver.tell(1)
    assert receiver.way.takes(2, 8, 8, alone=True)
