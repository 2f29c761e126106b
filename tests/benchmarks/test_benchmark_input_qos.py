"""The measured links deliver all messages, and a stopped sender is found."""

from __future__ import annotations

import pytest
from benchmarks.input_qos import RULES, detections, rows


def test_every_rule_is_measured() -> None:
    assert [name for name, _, _ in rows(20, 1)] == list(RULES)


@pytest.mark.processes
def test_a_stop_of_the_sender_is_known_after_the_deadline() -> None:
    late, _ = detections(2)
    assert len(late) == 2 and all(milliseconds >= 0 for milliseconds in late)
