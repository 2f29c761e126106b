"""The counters and flags of links: each is declared here once.

The board, ``Node.statistics``, ``dora top``, ``dora topic info``, the report at the end, the page,
OpenTelemetry and Prometheus read these tables. A new counter takes its entry, the line that counts, and a
test.

Counts travel as dictionaries of those that are not 0. Arrays in the order of the table would be shorter,
but a reader of another version would take one counter for another.

How many messages a link has received and dropped, and how many wait, is no entry: that follows from several
words of the board, see `dora.transport.board`.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class LinkCounter(NamedTuple):
    """A number that counts up from the start of a dataflow, with one writer.

    ``sentence`` may contain ``{count}``, ``{messages}`` ("2 messages"), ``{times}`` ("2 times"), and the
    nodes ``{sender}`` and ``{receiver}``.
    """

    name: str  # in Python, JSON and OpenTelemetry
    word: int  # of the line of the link on the board
    title: str  # what it counts
    sentence: str
    is_left_out: bool = False  # it counts messages that the receiver took and did not give to the program
    # Fields of `InputConfig`, or of its ``source_rules``: without one of them, the receiver counts nothing.
    rules: tuple[str, ...] = ()
    is_amber: bool = False  # on the page, if it is not 0
    unit: str = "message"
    metric: str = ""  # of Prometheus and ``dora top --format json``; "": NAME_messages

    @property
    def metric_name(self) -> str:
        return self.metric or f"{self.name}_messages"

    def describe(self, count: int, sender: str, receiver: str) -> str:
        """Return its sentence, for a link between two nodes.

        >>> UNMATCHED.describe(1200, "arm", "eye"), MISSED.describe(1, "arm", "eye")
        ('1,200 unmatched: in no set of `sync`', 'missed its deadline 1 time')
        """
        number, plural = f"{count:,}", "" if count == 1 else "s"
        return self.sentence.format(
            count=number,
            messages=f"{number} message{plural}",
            times=f"{number} time{plural}",
            sender=sender,
            receiver=receiver,
        )


class LinkFlag(NamedTuple):
    """Something that lasts: a word that is 1 meanwhile, else 0.

    The receiver writes it. The daemon clears it for a receiver that has ended.
    """

    name: str  # in Python and JSON
    word: int
    title: str
    label: str  # instead of the rate, on the page and in ``dora top``
    is_red: bool = True  # on the page


UNSENT: Final = LinkCounter(
    "unsent",
    6,
    "Messages not sent: a queue of the output was full when the sender was asked to stop",
    "{messages} not sent: a queue was full when `{sender}` was asked to stop",
    is_amber=True,
)
RESTART_LOSS: Final = LinkCounter(
    "restart_loss",
    7,
    "Dropped messages that were lost while the receiver was restarting",
    "{messages} lost while `{receiver}` was restarting",
    is_amber=True,
    metric="restart_lost_messages",
)
EXPIRED: Final = LinkCounter(
    "expired",
    8,
    "Messages older than the max_age of an input, and not delivered",
    "{count} expired",
    is_left_out=True,
    rules=("max_age_ns",),
    is_amber=True,
)
THINNED: Final = LinkCounter(
    "thinned",
    9,
    "Messages left out for the rate or the every of an input",
    "{count} thinned",
    is_left_out=True,
    rules=("period_ns", "every"),
)
MISSED: Final = LinkCounter(
    "missed",
    10,
    "How often the deadline of an input has passed without a message",
    "missed its deadline {times}",
    rules=("deadline_ns",),
    is_amber=True,
    unit="deadline",
    metric="missed_deadlines",
)
UNMATCHED: Final = LinkCounter(
    "unmatched",
    13,
    "Received messages that were in no set of a sync group",
    "{count} unmatched: in no set of `sync`",
    rules=("kept_by_sync",),
)
SAFE_STATES: Final = LinkCounter(
    "safe_states",
    14,
    "How often an input has begun the safe state of its source",
    "in its safe state {times}",
    rules=("source_rules.safe_state",),
    is_amber=True,
    unit="state",
    metric="safe_states",
)

# In the order in which they are shown.
LINK_COUNTERS: Final = (EXPIRED, THINNED, MISSED, UNMATCHED, SAFE_STATES, RESTART_LOSS, UNSENT)
LEFT_OUT: Final = tuple(counter for counter in LINK_COUNTERS if counter.is_left_out)

IN_SAFE_STATE: Final = LinkFlag(
    "in_safe_state", 15, "The input is in the safe state of its source", "safe state"
)
OVERDUE: Final = LinkFlag("overdue", 11, "No message has come since the deadline of the input", "late")
SILENT: Final = LinkFlag(
    "silent", 5, "The input is closed because its input_timeout has passed", "silent", is_red=False
)

# In the order in which they count: the first that is set is shown.
LINK_FLAGS: Final = (IN_SAFE_STATE, OVERDUE, SILENT)
