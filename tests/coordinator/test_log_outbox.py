"""Log entries that wait for the coordinator's word that it has them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dora.cluster.agent.worker_reports import IN_FLIGHT, LogOutbox
from dora.cluster.protocol import LogBatch
from dora.daemon.logs.entry import LogEntry


def batch(dataflow: str, *texts: str) -> LogBatch:
    return LogBatch(dataflow, [LogEntry(0, "info", "a", text) for text in texts])


def texts(sent: list[LogBatch]) -> list[str]:
    return [entry.message for each in sent for entry in each.entries]


def test_only_so_many_are_on_the_way() -> None:
    outbox = LogOutbox()
    for number in range(2 * IN_FLIGHT):
        outbox.add(batch("d", str(number)))
    sent = [outbox.next() for _ in range(IN_FLIGHT)]
    assert None not in sent and outbox.next() is None
    outbox.confirm(1)
    following = outbox.next()
    assert following is not None and texts([following]) == [str(IN_FLIGHT)]
    assert outbox.next() is None


def test_dropped_entries_are_counted_in_the_next_batch() -> None:
    outbox = LogOutbox(max_entries=3)
    outbox.add(batch("d", "a", "b"))
    outbox.add(batch("other", "x"))
    outbox.add(batch("d", "c"))  # and "a", "b" go
    outbox.add(batch("d", "e"))  # with the word about them; "x" goes, and is told when there is more of it
    sent = [outbox.next(), outbox.next()]
    told = "2 log entries are on their own machine only: they came while it was cut off"
    assert None not in sent and texts([each for each in sent if each]) == ["c", told, "e"]
    outbox.confirm(4)
    outbox.add(batch("other", "y"))
    following = outbox.next()
    assert following is not None and texts([following])[0].startswith("1 log entries are on their own")


def test_an_entry_larger_than_the_outbox_is_not_lost() -> None:
    outbox = LogOutbox(max_characters=10)
    outbox.add(batch("d", "x" * 100))
    sent = outbox.next()
    assert sent is not None and texts([sent]) == ["x" * 100]


@given(st.lists(st.sampled_from(["add", "send", "confirm", "cut"]), max_size=200))
def test_no_entry_is_lost_or_out_of_order(steps: list[str]) -> None:
    outbox = LogOutbox()
    added: list[str] = []
    arrived: list[LogBatch] = []  # at the coordinator, which knows what it has had
    waiting: list[LogBatch] = []

    def arrive() -> None:
        for each in waiting:
            if not arrived or each.number > arrived[-1].number:
                arrived.append(each)
        waiting.clear()

    for step in [*steps, "cut", "send", "confirm"]:
        if step == "add":
            added.append(str(len(added)))
            outbox.add(batch("d", added[-1]))
        elif step == "send":
            while (each := outbox.next()) is not None:
                waiting.append(each)
        elif step == "confirm":
            arrive()
            if arrived:
                outbox.confirm(arrived[-1].number)
        else:
            del waiting[len(waiting) // 2 :]
            arrive()  # what was sent first may have come, and the word of it is lost
            outbox.send_again()
    while not outbox.is_empty:
        each = outbox.next()
        if each is not None:
            waiting.append(each)
        arrive()
        outbox.confirm(arrived[-1].number)
    assert texts(arrived) == added
