"""The loop of a recorder, and its end: messages may still be in flight."""

from __future__ import annotations

from unittest.mock import MagicMock

import pytest

from dora.recording.recorder import recorder
from dora.recording.recorder.recorder import Recorder
from dora.recording.recorder.sinks import topic_ends


def test_a_recorder_whose_taps_stay_half_full_serves_its_clients() -> None:
    polls = 0

    def poll() -> float:
        nonlocal polls
        polls += 1
        assert polls < 1000, "it looks for no client and no end"
        return 0.6

    busy = MagicMock(_stop=False)
    busy._filler.configure_mock(poll=poll, waits_for_memory=False)
    busy._sink.write_thread.failure = None
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
