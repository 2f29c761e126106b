"""Reports and log entries on their way to the coordinator, until its word that it has them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import TIMEOUT

from dora.cluster.agent import worker_reports
from dora.cluster.agent.worker_reports import IN_FLIGHT, LogForwarder, LogOutbox, Reports
from dora.cluster.protocol import (
    MAX_MESSAGE,
    Answered,
    LogBatch,
    ParametersSet,
    RunReport,
    ToCoordinator,
    decode_to_coordinator,
)
from dora.daemon.logs.entry import LogEntry
from dora.wire.daemon_protocol import Ok


def batch(dataflow: str, *texts: str) -> LogBatch:
    return LogBatch(dataflow, [LogEntry(0, "info", "a", text) for text in texts])


def texts(sent: list[LogBatch]) -> list[str]:
    return [entry.message for each in sent for entry in each.entries]


def forwarded(entries: list[LogEntry], *, at_once: bool = False) -> list[LogEntry]:
    """Return the entries as the daemon of the machine gets them, each message below its limit.

    ``at_once``: the daemon reads nothing until all entries have come.
    """
    source, pipe = os.pipe()
    come = threading.Event()

    def forward() -> None:
        forwarder = LogForwarder(Reports(pipe, "d"))
        for entry in entries:
            forwarder.put(entry)
        come.set()
        forwarder.close()
        os.close(pipe)

    forwarding = threading.Thread(target=forward)
    forwarding.start()
    if at_once:
        assert come.wait(TIMEOUT)
    with open(source, "rb") as lines:
        read = list(lines)
    forwarding.join()
    assert max(map(len, read)) < MAX_MESSAGE
    batches = [message for line in read if isinstance(message := decode_to_coordinator(line), LogBatch)]
    return [entry for batch in batches for entry in batch.entries]


@pytest.mark.lengthy
def test_entries_with_much_in_their_fields_are_forwarded_in_messages_that_can_be_read() -> None:
    entries = [
        LogEntry(0, "info", "a", str(number), fields={"image": "é" * 300_000}) for number in range(40)
    ]
    assert forwarded(entries) == entries


@pytest.mark.lengthy
@pytest.mark.parametrize(
    "large",
    [
        LogEntry(0, "error", "a", "Traceback" + "\x01" * MAX_MESSAGE, "stderr"),
        LogEntry(0, "error", "a", "Traceback", "stderr", fields={"k" * MAX_MESSAGE: "é" * MAX_MESSAGE}),
        LogEntry(0, "error", "a", "Traceback", "stderr", file="f" * MAX_MESSAGE),
    ],
)
def test_an_entry_too_large_to_be_forwarded_is_shortened_and_says_so(large: LogEntry) -> None:
    small = LogEntry(0, "info", "a", "on")
    shortened, after = forwarded([large, small])
    assert after == small
    assert shortened.message.startswith("Traceback")
    assert shortened.message.endswith("too many to forward: the rest is on its own machine")
    assert (shortened.level, shortened.node_id, shortened.stream) == ("error", "a", "stderr")


def test_entries_beyond_the_memory_for_waiting_ones_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_reports, "_MAX_WAITING_SIZE", 1 << 20)
    long = [LogEntry(0, "info", "a", f"{number:02}" * (1 << 17)) for number in range(40)]
    come = forwarded(long, at_once=True)
    sent = [entry for entry in come if entry.node_id == "a"]
    notes = [entry.message for entry in come if entry.node_id is None]
    # Beside the waiting ones, the thread that writes to the full pipe has a batch.
    assert 0 < len(sent) < 20 and sent == sorted(sent, key=lambda entry: entry.message)
    assert all(
        note.endswith("log entries were not forwarded: there were too many at once") for note in notes
    )
    assert sum(int(note.partition(" ")[0]) for note in notes) == len(long) - len(sent)


def test_entries_that_come_too_fast_are_counted_once_and_keep_no_later_ones_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_reports, "_MAX_WAITING_SIZE", 1)  # room for one
    monkeypatch.setattr(worker_reports, "_EVERY", TIMEOUT)
    sent: list[LogEntry] = []
    reports: Any = SimpleNamespace(send_logs=sent.extend)
    forwarder = LogForwarder(reports)
    for text in ("one", "two"):
        forwarder.put(LogEntry(0, "info", "a", text))
        forwarder.put(LogEntry(0, "info", "a", "too fast"))
        forwarder._flush()
    forwarder.close()
    note = "1 log entries were not forwarded: there were too many at once"
    assert [entry.message for entry in sent] == ["one", note, "two", note]


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


def told(count: int) -> str:
    return f"{count} log entries are on their own machine only: they came while it was cut off"


def all_of(outbox: LogOutbox) -> list[LogBatch]:
    """Send and confirm everything, and return it."""
    sent = []
    while (each := outbox.next()) is not None:
        sent.append(each)
        outbox.confirm(each.number)
    assert outbox.is_empty
    return sent


def test_dropped_entries_are_counted_in_the_next_batch() -> None:
    outbox = LogOutbox(max_entries=3)
    outbox.add(batch("d", "a", "b"))
    outbox.add(batch("other", "x"))
    outbox.add(batch("d", "c"))  # and "a", "b" go
    outbox.add(batch("d", "e"))
    assert texts(all_of(outbox)) == ["x", told(2), "c", "e"]
    assert all_of(outbox) == []


def test_every_dropped_entry_of_a_long_cut_is_counted() -> None:
    outbox = LogOutbox(max_entries=100)
    for number in range(100):
        outbox.add(batch("d", *map(str, range(10 * number, 10 * number + 10))))
    assert texts(all_of(outbox)) == [told(900), *map(str, range(900, 1000))]


def test_dropped_entries_of_a_dataflow_that_logs_nothing_more_are_counted() -> None:
    outbox = LogOutbox(max_entries=3)
    outbox.add(batch("ended", "a", "b"))
    outbox.add(batch("d", "c", "e"))
    sent = all_of(outbox)
    assert [each.dataflow_id for each in sent] == ["d", "ended"]
    assert texts(sent) == ["c", "e", told(2)]


def test_a_count_that_did_not_arrive_is_sent_again_also_if_its_batch_is_dropped() -> None:
    outbox = LogOutbox(max_entries=2)
    outbox.add(batch("d", "a"))
    outbox.add(batch("d", "b", "c"))  # and "a" goes
    lost = outbox.next()
    assert lost is not None and texts([lost]) == [told(1), "b", "c"]
    outbox.send_again()
    again = outbox.next()
    assert again is not None and (again.number, texts([again])) == (lost.number, texts([lost]))
    outbox.send_again()
    outbox.add(batch("d", "e"))  # and "b", "c" go
    assert texts(all_of(outbox)) == [told(3), "e"]


def test_an_entry_larger_than_the_outbox_is_not_lost() -> None:
    outbox = LogOutbox(max_size=10)
    outbox.add(batch("d", "x" * 100))
    sent = outbox.next()
    assert sent is not None and texts([sent]) == ["x" * 100]


def test_the_fields_of_entries_count_for_the_limit() -> None:
    outbox = LogOutbox(max_size=1000)
    for number in range(20):
        outbox.add(LogBatch("d", [LogEntry(0, "info", "a", str(number), fields={"k" * 100: "v" * 100})]))
    sent = []
    while (each := outbox.next()) is not None:
        sent.append(each)
    kept = [text for text in texts(sent) if text.isdecimal()]
    assert kept == [str(number) for number in range(20 - len(kept), 20)]
    assert 1 <= len(kept) <= 4


def told_to_hung_daemon(work: Callable[[Reports], None]) -> list[ToCoordinator]:
    """Report while the daemon hangs, and its pipe is full; return what it reads when it goes on."""
    source, pipe = os.pipe()
    os.set_blocking(pipe, False)
    with suppress(BlockingIOError):
        while True:
            os.write(pipe, b"\n" * 4096)
    os.set_blocking(pipe, True)
    reports = Reports(pipe, "d")
    working = threading.Thread(target=work, args=(reports,), daemon=True)
    working.start()
    working.join(TIMEOUT)
    assert not working.is_alive(), "the run waits for the daemon"
    read: list[bytes] = []
    with open(source, "rb") as lines:
        reading = threading.Thread(target=lambda: read.extend(lines))
        reading.start()
        reports.flush()
        os.close(pipe)
        reading.join()
    return [decode_to_coordinator(line) for line in read if line.strip()]


def test_a_run_does_not_wait_for_a_daemon_that_hangs() -> None:
    def work(reports: Reports) -> None:
        for number in range(10_000):
            reports.update(reason=str(number))
            reports.parameters_set("a", {"gain": number})
        reports.update(status="Finished")

    told = told_to_hung_daemon(work)
    assert RunReport("d", "Finished", reason="9999") in told
    assert ParametersSet("d", "a", {"gain": 9999}) in told
    assert len(told) <= 3, "the first one is on its way already; no other older ones are kept"


def test_a_message_that_is_being_written_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker ends after that: its last report would be lost."""
    begun, may_write = threading.Event(), threading.Event()

    def write(_pipe: int, data: bytes) -> int:
        begun.set()
        may_write.wait(TIMEOUT)
        return len(data)

    monkeypatch.setattr(worker_reports, "os", SimpleNamespace(write=write))
    reports = Reports(-1, "d")
    reports.update(status="Finished")
    assert begun.wait(TIMEOUT)
    since = time.monotonic()
    reports.flush(0.05)
    assert time.monotonic() - since >= 0.05
    may_write.set()
    reports.flush(TIMEOUT)
    assert time.monotonic() - since < TIMEOUT


def test_a_report_is_in_front_of_the_answers_that_rely_on_it() -> None:
    def work(reports: Reports) -> None:
        reports.update(status="Running")
        reports.update(port=6014)
        reports.answered(1, Ok())
        reports.update(revision=1)
        reports.answered(2, Ok())

    *_, report, first, second = told_to_hung_daemon(work)
    assert isinstance(report, RunReport) and (report.port, report.revision) == (6014, 1)
    assert (first, second) == (Answered(1, Ok()), Answered(2, Ok()))


@pytest.mark.lengthy
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
