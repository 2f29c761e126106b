"""The end of a recording: what was sent may still be under way."""

from __future__ import annotations

from unittest.mock import MagicMock

import pytest

from dora.recording.recorder import recorder
from dora.recording.recorder.recorder import Recorder


def test_what_is_under_way_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "_LAST_PATIENCE", 60.0)
    topic = MagicMock(sent=5, seen=2, before=0, unsent=[])
    topic.name = "camera/image"
    ending = MagicMock()
    ending._attachment.topics = [topic]
    ending._around.failed = set()
    ending._run.ended = ending._target.store.failure = None
    ending._intake.configure_mock(messages=2, waits_for_memory=False)
    looks = 0

    def look() -> None:
        nonlocal looks
        looks += 1
        if looks == 50:  # it went through other processes, which had to wait for the processor
            topic.seen = ending._intake.messages = 5

    ending._intake.look = look
    expected = Recorder._drain(ending, "asked")
    assert (topic.seen, expected["camera/image"].last) == (5, 5)
