"""The words for the status of a node, and how each is coloured: each is declared here once.

The daemon says the status (`NodeView`). The page, ``dora top``, ``dora doctor`` and Prometheus read it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, Self

Tone = Literal["fine", "warn", "bad", "rest"]  # green, amber, red and grey on the page


class StatusWord(StrEnum):
    """The status of a node for users, in the words of dora-rs where it has one.

    >>> StatusWord.FAILED == "Failed", StatusWord.FAILED.tone
    (True, 'bad')
    """

    tone: Tone

    def __new__(cls, word: str, tone: Tone) -> Self:
        status = str.__new__(cls, word)
        status._value_ = word
        status.tone = tone
        return status

    NOT_STARTED = "Not started", "rest"
    NOT_CONNECTED = "Not connected", "rest"  # a dynamic node that has not joined
    STARTING = "Starting", "fine"
    READY = "Ready", "fine"
    RUNNING = "Running", "fine"
    RESTARTING = "Restarting", "warn"
    AWAITING_FIX = "Failed, waits for new code", "warn"
    FAILED = "Failed", "bad"
    STOPPED = "Stopped", "rest"
    RECORDED = "Recorded", "fine"  # in a recording that does not say how the node was
