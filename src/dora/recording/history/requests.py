"""The questions of a page that looks back, and their answers.

The page sends them as JSON; times are nanoseconds since the first message of an output in the recording.
"""

from __future__ import annotations

from typing import Final

import msgspec

MOST_TOPICS: Final = 32  # of one question: each may decompress a chunk and draw an image


class OfRecording(msgspec.Struct):
    """A question about one of the recordings, by its number."""

    recording: int


class OfMoment(OfRecording):
    """A question about a moment of a recording."""

    at: int


class About(msgspec.Struct, tag="about"):
    """The facts about the recordings. Answer: JSON, see `dora.recording.history.answers`."""


class Marks(OfRecording, tag="marks"):
    """The newest marks before a moment; None: of all. Answer: JSON, ``marks``, and the next ``before``."""

    before: int | None = None


class Moment(OfMoment, tag="moment"):
    """Everything at a moment.

    ``topics``: outputs whose previews are wanted, each with the time of the message that the page shows;
    -1: none. ``over``: for outputs with boxes, the output with the frames that they may belong to.
    ``since``: the moment before, if the page plays: then curves and logs get all that came between.

    Answer: `Parts`, with the state, lines of the log, and heads of previews in the JSON, and their bodies
    behind it.
    """

    topics: dict[str, int] = {}
    over: dict[str, str] = {}
    since: int | None = None


class StepTo(OfMoment, tag="step"):
    """The time of the next message, or of the one before, of some outputs; none: of all. Answer: JSON."""

    forward: bool = True
    topics: list[str] = []


class Curve(OfRecording, tag="curve"):
    """The values of an output in a span of time. Answer: JSON, ``steps`` as previews have them."""

    topic: str
    after: int
    until: int
    points: int = 600


class Minute(OfMoment, tag="minute"):
    """The figures of the minute before a moment, as the page draws curves of.

    ``before``: only those up to this moment. Answer: JSON, ``samples``, and ``from``: they are complete
    after it.
    """

    before: int | None = None


class SearchLog(OfMoment, tag="search"):
    """The newest lines of the log up to a moment that fit.

    Answer: JSON, ``entries``, ``total`` (how many these are), and ``complete``: no earlier one fits.
    """

    node: str = ""
    level: str = "stdout"
    text: str = ""


class ParametersAt(OfMoment, tag="parameters"):
    """The parameters of a node at a moment. Answer: JSON, an object."""

    node: str


class Pixel(OfMoment, tag="pixel"):
    """The values of a pixel in the newest image of an output at a moment. Answer: JSON, ``text``."""

    topic: str
    x: int
    y: int


class Differences(msgspec.Struct, tag="differences"):
    """Where the messages of the second recording differ from the first one's. Answer: JSON."""


Request = About | Marks | Moment | StepTo | Curve | Minute | SearchLog | ParametersAt | Pixel | Differences
