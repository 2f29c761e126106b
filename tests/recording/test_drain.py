"""The loop of a recorder, and its end: messages may still be in flight."""

from __future__ import annotations

import fcntl
import os
import resource
import select
import socket
import threading
from functools import partial
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from waiting import TIMEOUT

from dora.errors import ConnectError, DoraError
from dora.recording.mcap.format import RecordingStart
from dora.recording.recorder import control, recorder
from dora.recording.recorder.control import ControlClient, ControlSocket, RecorderRequest
from dora.recording.recorder.options import RecordingOptions
from dora.recording.recorder.recorder import Recorder
from dora.recording.recorder.sinks import Expected, RingSink, topic_ends
from dora.wire.daemon_protocol import DataflowText


def busy_recorder(full: float, *, waits_for_memory: bool = False) -> MagicMock:
    """Return a recorder whose taps stay ``full``, of which 1 is all; polls without end fail the test."""
    polls = 0

    def poll() -> float:
        nonlocal polls
        polls += 1
        assert polls < 1000, "it polls, and never rests or looks for a client or the end"
        return full

    busy = MagicMock(_stop=False)
    busy._filler.configure_mock(poll=poll, waits_for_memory=waits_for_memory)
    busy._sink.write_thread.failure = None
    return busy


def test_a_recorder_whose_taps_stay_half_full_serves_its_clients() -> None:
    busy = busy_recorder(0.6)
    busy._wait = lambda _: True
    assert Recorder._record(busy) == "dataflow ended"


def test_an_output_that_could_not_be_tapped_counts_as_lost() -> None:
    ending = MagicMock()
    ending._taps.topics = []
    ending._taps.untapped.return_value = {"more/image": 7}
    ending._context.failed = set()
    ending._run.ended = ending._sink.write_thread.failure = None
    ending._filler.waits_for_memory = False
    expected = Recorder._drain(ending)
    assert topic_ends(expected, {}, from_start=True)["more/image"].lost == 7


def test_a_recording_ends_with_messages_that_arrive_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "_LAST_PATIENCE", 60.0)
    topic = MagicMock(sent=5, seen=2, before=0, unsent=[])
    topic.name = "camera/image"
    ending = MagicMock()
    ending._taps.topics = [topic]
    ending._context.failed = set()
    ending._run.ended = ending._sink.write_thread.failure = None
    ending._filler.configure_mock(messages=2, waits_for_memory=False)
    polls = 0

    def poll() -> None:
        nonlocal polls
        polls += 1
        if polls == 50:  # the message went through other processes, which had to wait for the processor
            topic.seen = ending._filler.messages = 5

    ending._filler.poll = poll
    expected = Recorder._drain(ending)
    assert (topic.seen, expected["camera/image"].last) == (5, 5)


def test_an_output_that_fell_silent_before_its_tap_does_not_hold_up_the_end_while_others_send(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recorder, "_LAST_PATIENCE", 60.0)
    silent = MagicMock(sent=2, seen=0, before=2, unsent=[])
    busy = MagicMock(sent=1, seen=1, before=0, unsent=[])
    silent.name, busy.name = "more/image", "camera/image"
    ending = MagicMock()
    ending._taps.topics = [silent, busy]
    ending._context.failed = set()
    ending._run.ended = ending._sink.write_thread.failure = None
    ending._filler.configure_mock(messages=1, waits_for_memory=False)

    def poll() -> None:
        busy.sent = busy.seen = ending._filler.messages = busy.seen + 1
        assert busy.seen < 1000, "the recording does not end"

    ending._filler.poll = poll
    Recorder._drain(ending)
    assert busy.seen < 10


def ending_with(*topics: MagicMock) -> MagicMock:
    """Return a recorder at its end, whose dataflow goes on."""
    ending = MagicMock(_saved_failures=0)
    ending._taps.topics = topics
    ending._taps.untapped.return_value = {}
    ending._context.configure_mock(failed=set(), failures=0)
    ending._run.ended = ending._sink.write_thread.failure = None
    ending._filler.configure_mock(waits_for_memory=False, memory_in_use=False)
    return ending


def topic_of(name: str, **values: int) -> MagicMock:
    topic = MagicMock(before=0, unsent=[], node_id=name.partition("/")[0], **values)
    topic.name = name
    return topic


def test_one_message_that_a_killed_node_counted_is_not_lost_and_two_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recorder, "_LAST_PATIENCE", 0.0)
    topics = [
        topic_of("killed/one", sent=5, seen=4),
        topic_of("killed/two", sent=5, seen=3),
        topic_of("alive/one", sent=5, seen=4),
    ]
    ending = ending_with(*topics)
    ending._context.failed = {"killed"}
    found = Recorder._drain(ending)
    assert {name: item.unsent for name, item in found.items()} == {
        "killed/one": (5,),
        "killed/two": (),
        "alive/one": (),
    }


def test_an_output_that_was_removed_and_added_again_is_expected_twice() -> None:
    ending = ending_with(topic_of("a/x", sent=5, seen=5), topic_of("a/x", sent=3, seen=3))
    assert Recorder._drain(ending)["a/x"].last == 8


def test_a_slow_disk_is_no_reason_to_give_messages_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    def poll() -> None:
        assert now < 100
        if now > 30:  # the disk has taken a chunk
            topic.seen = 5
            ending._filler.waits_for_memory = False

    monkeypatch.setattr(recorder.time, "sleep", sleep)
    monkeypatch.setattr(recorder.time, "monotonic", lambda: now)
    topic = topic_of("a/x", sent=5, seen=2)
    ending = ending_with(topic)
    ending._filler.configure_mock(waits_for_memory=True, memory_in_use=True, poll=poll)
    Recorder._drain(ending)
    assert topic.seen == 5


def test_a_message_that_is_given_up_does_not_keep_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "_LAST_PATIENCE", 0.0)
    ending = ending_with(topic_of("a/x", sent=5, seen=2))
    Recorder._drain(ending)
    ending._filler.drop_held.assert_called_once_with()


def test_the_last_context_waits_for_memory() -> None:
    ending = ending_with()
    added = iter([False, False, True])
    ending._filler.configure_mock(memory_in_use=True, add_context=lambda _: next(added))
    Recorder._drain(ending)
    assert list(added) == []


@pytest.mark.parametrize("is_known", [False, True])
def test_a_failure_that_comes_with_the_end_is_saved(is_known: bool) -> None:
    ending = ending_with()
    ending._sink = MagicMock(spec=RingSink, write_thread=MagicMock(failure=None))
    ending._run.ended = MagicMock(failed=["a"])
    if is_known:  # and saved
        ending._context.failed = {"a"}
    Recorder._drain(ending)
    assert ending._sink.save.call_count == (not is_known)
    assert ending._context.failed == {"a"}, "the end of a file tells it, too"


def test_a_ring_saves_a_failure_once_and_the_next_one_in_a_file_of_its_own() -> None:
    ring = MagicMock(_saved_failures=0, _save_due=None, _next_save=0.0, _sink=MagicMock(spec=RingSink))
    ring._settings.last_seconds = 10.0

    def saves(failures: int, now: float) -> int:
        ring._context.failures = failures
        Recorder._do_housekeeping(ring, now)
        count: int = ring._save_ring.call_count
        return count

    assert [saves(1, now) for now in (100.0, 100.9, 101.0, 104.0)] == [0, 0, 1, 1]
    assert [saves(2, now) for now in (105.0, 110.9, 111.0, 200.0, 300.0)] == [1, 1, 2, 2, 2]


def test_old_chunks_are_stored_and_the_lease_is_renewed_while_messages_come() -> None:
    busy = MagicMock(_stop=True)
    busy._sink.write_thread.failure = None
    busy._wait = lambda _: False
    assert Recorder._record(busy) == "asked"
    busy._filler.flush_old.assert_called_once()
    busy._taps.renew.assert_called_once_with()


def test_a_command_that_goes_away_is_forgotten() -> None:
    mine, its = socket.socketpair()
    client = ControlClient(mine)
    recording = MagicMock(_clients=[client])
    Recorder._serve(recording, client)
    assert recording._clients == [client], "nothing has come"
    its.close()
    Recorder._serve(recording, client)
    assert recording._clients == [] and mine.fileno() == -1


def test_a_recorder_with_more_files_than_select_knows_serves_its_clients() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2000:
        pytest.skip("the system allows too few open files")
    quiet, other = socket.socketpair()
    mine, its = socket.socketpair()
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000), hard))
    try:
        late = socket.socket(fileno=fcntl.fcntl(mine, fcntl.F_DUPFD_CLOEXEC, 1500))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    recording = MagicMock(_clients=[ControlClient(late)], _save=False, _wake_read=quiet)
    recording._run.configure_mock(ended=None, fileno=quiet.fileno)
    recording._control.fileno = quiet.fileno
    recording._serve, recording._answer = partial(Recorder._serve, recording), MagicMock()
    its.sendall(b'{"do":"save"}\n')
    assert not Recorder._wait(recording, 0.0)
    assert recording._answer.call_args.args[1] == RecorderRequest("save")
    for each in (quiet, other, mine, its, late):
        each.close()


def test_the_end_of_a_recorder_closes_its_clients() -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    waiting, stopping = (ControlClient(mine) for mine, _ in pairs)
    Recorder._close(MagicMock(_clients=[waiting], _stopping=[stopping]))
    for _, its in pairs:
        its.setblocking(False)
        assert its.recv(1) == b""
        its.close()


def test_only_the_user_of_a_recorder_reaches_it(runtime_root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    listening = ControlSocket(runtime_root)
    path = f"{runtime_root}/rec-{os.getpid()}"
    assert os.stat(path).st_mode & 0o777 == 0o600
    for is_own in (True, False):
        monkeypatch.setattr(control, "is_own_peer", lambda _, is_own=is_own: is_own)
        with socket.socket(socket.AF_UNIX) as its:
            its.settimeout(TIMEOUT)
            its.connect(path)
            client = listening.accept()
            if client is not None:
                client.close()
            assert (client is not None, its.recv(1)) == (is_own, b"")
    listening.close()
    assert not os.path.exists(path), "nobody asks a recorder that has ended"


def test_a_request_has_a_limit() -> None:
    mine, its = socket.socketpair()
    client = ControlClient(mine)
    its.sendall(b'{"do":')
    assert client.read() is None, "the rest comes later"
    its.sendall(b'"save"}\n')
    assert client.read() == RecorderRequest("save")
    client = ControlClient(mine)
    with pytest.raises(ConnectionError):
        for _ in range(100):
            its.sendall(bytes(10_000))
            client.read()
    client.close()
    its.close()


def test_a_file_that_cannot_be_written_ends_the_recording_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "_LAST_PATIENCE", 60.0)
    ending = ending_with(topic_of("a/x", sent=5, seen=2))
    ending.configure_mock(_stop=False, _wait=lambda _: False)
    ending._sink.write_thread.failure = DoraError("there is no room left on its disk")
    polls = 0

    def poll() -> float:
        nonlocal polls
        polls += 1
        assert polls < 100, "it waits for messages that nobody can store"
        return 0.0

    ending._filler.poll = poll
    assert Recorder._record(ending) == "asked"
    assert Recorder._drain(ending)["a/x"].last == 5


def test_a_recorder_that_waits_for_memory_rests_though_its_taps_are_full() -> None:
    full = busy_recorder(1.0, waits_for_memory=True)
    full._wait = lambda seconds: seconds > 0  # else it takes the processor from the thread that writes
    assert Recorder._record(full) == "dataflow ended"


def test_memory_that_nothing_will_free_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        assert now < 100, "the recording does not end"

    monkeypatch.setattr(recorder.time, "sleep", sleep)
    monkeypatch.setattr(recorder.time, "monotonic", lambda: now)
    ending = ending_with(topic_of("a/x", sent=5, seen=2))
    ending._filler.configure_mock(waits_for_memory=True, memory_in_use=False, add_context=lambda _: False)
    assert Recorder._drain(ending)["a/x"].last == 5


def test_messages_of_an_output_before_and_after_its_tap_was_refused_add_up() -> None:
    ending = ending_with(topic_of("a/x", sent=5, seen=5))
    ending._taps.untapped.return_value = {"a/x": 3}  # removed, and added again
    assert Recorder._drain(ending)["a/x"] == Expected(0, 8, untapped=True)


def test_a_request_to_save_is_carried_out_once_and_wakes_the_recorder_once() -> None:
    sockets = [*socket.socketpair(), *socket.socketpair()]
    wake_read, wake_write, quiet, _ = sockets
    for each in (wake_read, wake_write):
        each.setblocking(False)
    ring = MagicMock(_clients=[], _save=False, _wake_read=wake_read, _wake_write=wake_write)
    ring._run.configure_mock(ended=None, fileno=quiet.fileno)
    ring._control.fileno = quiet.fileno
    ring._wake, ring._drain_wake = partial(Recorder._wake, ring), partial(Recorder._drain_wake, ring)
    Recorder.save(ring)
    assert select.select([wake_read], (), (), 0)[0], "it may be waiting for messages"
    for _ in range(3):
        assert not Recorder._wait(ring, 0.0)
    ring._save_ring.assert_called_once_with()
    assert not select.select([wake_read], (), (), 0)[0]
    for each in sockets:
        each.close()


def test_an_end_that_another_answer_brought_ends_the_recording() -> None:
    recording = MagicMock()
    recording._run.ended = MagicMock(failed=[])
    assert Recorder._wait(recording, 60.0)


def test_a_ring_is_saved_with_what_the_taps_hold() -> None:
    ring = MagicMock(_sink=MagicMock(spec=RingSink))
    ring._taps.configure_mock(topics=[], untapped=dict)
    Recorder._save_ring(ring)
    steps = [name for name, _, _ in ring.mock_calls]
    assert steps == ["_filler.poll", "_filler.flush", "_sink.save"]


def test_a_ring_that_could_not_go_on_is_an_error() -> None:
    ring = MagicMock(_sink=MagicMock(spec=RingSink), _stopping=[])
    ring._sink.write_thread = MagicMock(failure=DoraError("there is no memory"))
    with pytest.raises(DoraError, match="there is no memory"):
        Recorder._finish(ring, "asked", {})
    ring._sink.close.assert_called_once_with()


@pytest.mark.parametrize("last_seconds", [None, 1.0])
def test_a_recording_that_cannot_begin_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last_seconds: float | None
) -> None:
    taps, listening = MagicMock(topics=[]), MagicMock()
    monkeypatch.setattr(recorder, "set_priority", lambda _: None)
    monkeypatch.setattr(recorder, "inspect", MagicMock())
    monkeypatch.setattr(recorder, "RecorderTaps", lambda *_, **__: taps)
    monkeypatch.setattr(recorder, "ControlSocket", lambda _: listening)
    monkeypatch.setattr(recorder, "RecordingContext", MagicMock(side_effect=ConnectError("it has ended")))
    monkeypatch.setattr(Recorder, "_start", lambda *_: start)
    run = MagicMock(ask=lambda _: DataflowText(b"{}", "/"))
    start = RecordingStart(dora="1", dataflow_id="id", started=1)
    threads = threading.active_count()
    path = tmp_path / "a.mcap"
    with pytest.raises(ConnectError):
        Recorder(run, RecordingOptions(path=str(path), last_seconds=last_seconds))
    assert not path.exists(), "it would block the next attempt"
    assert threading.active_count() == threads
    taps.close.assert_called_once_with()
    listening.close.assert_called_once_with()


def test_the_last_context_is_read_before_the_run_may_end_and_stored_after_that() -> None:
    ending = ending_with()
    Recorder._drain(ending)
    steps = [name for name, _, _ in ending.mock_calls]
    wanted = ["_context.close", "_taps.close", "_filler.add_context", "_filler.flush"]
    assert [name for name in steps if name in wanted] == wanted
