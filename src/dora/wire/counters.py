"""The counters of nodes, and the counters and flags of links: each is declared here once.

The board, ``Node.statistics``, ``dora top``, ``dora node list``, ``dora topic info``, the report at the
end, the page, OpenTelemetry and Prometheus read these tables. A new counter takes its entry, the line that
counts, and a test.

Counts travel as dictionaries of those that are not 0. Arrays in the order of the table would be shorter,
but a reader of another version would take one counter for another.

How many messages a link has received and dropped, and how many wait, is no entry: that follows from several
words of the board, see `dora.transport.board`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, NamedTuple


class NodeCounter(NamedTuple):
    """A number that counts up from the start of a dataflow, with one writer.

    The process of the node counts on the board, the daemon with `RunState.count` or `Accounting.count`.
    ``sentence`` follows the name of the node. It may contain ``{count}``, ``{messages}`` ("2 messages") and
    ``{times}`` ("2 times").
    """

    name: str  # in Python, JSON and OpenTelemetry
    word: int  # of the line of the node on the board
    title: str  # what it counts
    sentence: str
    unit: str
    metric: str  # of Prometheus
    key: str = ""  # of ``--format json``; "": ``metric``
    is_amber: bool = False  # a warning, on the page, in tables and in ``dora doctor``, if it is not 0
    is_reported: bool = True  # the report at the end has its sentence
    is_always_shown: bool = False  # tables have a column for it, also if it is 0 for all nodes

    def __repr__(self) -> str:
        return self.name

    @property
    def json_key(self) -> str:
        return self.key or self.metric

    def describe(self, count: int) -> str:
        """Return its sentence, which follows the name of the node.

        >>> RESTARTS.describe(1), UNDECLARED.describe(1200)
        ('was restarted 1 time', 'sent 1,200 messages to outputs that are not declared')
        """
        return self.sentence.format_map(_words_for(count))


def _words_for(count: int) -> dict[str, str]:
    number, plural = f"{count:,}", "" if count == 1 else "s"
    return {"count": number, "messages": f"{number} message{plural}", "times": f"{number} time{plural}"}


RESTARTS: Final = NodeCounter(
    "restarts",
    8,
    "Restarts of a node",
    "was restarted {times}",
    unit="restart",
    metric="restarts",
    key="restart_count",
    is_amber=True,
    is_always_shown=True,
)
RELOADS: Final = NodeCounter(
    "reloads",
    9,
    "Processes of a node that another one with new code has followed",
    "got new code {times}",
    unit="reload",
    metric="reloads",
    is_reported=False,
)
UNDECLARED: Final = NodeCounter(
    "undeclared",
    2,
    "Messages sent to outputs that are not declared, and dropped",
    "sent {messages} to outputs that are not declared",
    unit="message",
    metric="undeclared_messages",
    is_amber=True,
    is_reported=False,  # the report names the outputs
)

ERRORS: Final = NodeCounter(
    "errors",
    10,
    "Entries with the level error in the log of a node",
    "logged an error {times}",
    unit="entry",
    metric="logged_errors",
    is_amber=True,
    is_reported=False,  # they were on the terminal
)

ROS2_LOST: Final = NodeCounter(
    "ros2_lost",
    11,
    "Messages, requests and goals that a node with a ros2 block has lost, from ROS 2 or for it",
    "lost {messages} from or for ROS 2",
    unit="message",
    metric="ros2_lost_messages",
    is_amber=True,
)

# In the order in which they are shown.
NODE_COUNTERS: Final = (RESTARTS, RELOADS, UNDECLARED, ERRORS, ROS2_LOST)


def shown_counters(counts: Collection[Mapping[str, int]]) -> list[NodeCounter]:
    """Return the counters for which a table has a column; ``counts``: one dictionary for each node.

    >>> [counter.name for counter in shown_counters([{"undeclared": 2}, {}])]
    ['restarts', 'undeclared']
    """
    return [
        counter
        for counter in NODE_COUNTERS
        if counter.is_always_shown or any(counter.name in some for some in counts)
    ]


# ------------------------------------------------------------------ links


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
        return self.sentence.format_map(_words_for(count) | {"sender": sender, "receiver": receiver})


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
FLUSHED: Final = LinkCounter(
    "flushed",
    16,
    "Dropped messages that the sender has flushed: a newer one with flush: true has replaced them",
    "{messages} flushed by `{sender}`",
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
    "Messages left out because the input asks for fewer",
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
LINK_COUNTERS: Final = (
    EXPIRED,
    THINNED,
    MISSED,
    UNMATCHED,
    SAFE_STATES,
    FLUSHED,
    RESTART_LOSS,
    UNSENT,
)
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


# ------------------------------------------------------------------ networks between machines

# The connections between two gateways, in the order in which their messages go.
PRIORITIES: Final = ("control", "normal", "bulk")


class NetworkFigure(NamedTuple):
    """A figure of the network from one machine to another, on a line of the board that the gateway writes.

    A word divided by ``scale`` is the value in ``unit``.
    """

    name: str  # in Python, JSON and OpenTelemetry
    word: int
    title: str
    unit: str  # of UCUM, as OpenTelemetry wants it
    metric: str  # of Prometheus
    is_total: bool = False  # it only grows
    scale: float = 1


class StreamFigure(NamedTuple):
    """A figure of one output on a network, on the line with which the gateway receives the output."""

    name: str  # in JSON
    word: int
    title: str


def _of_each_priority(figure: NetworkFigure) -> tuple[NetworkFigure, ...]:
    """Return the figures of all priorities, on words one after the other."""
    return tuple(
        figure._replace(
            name=f"{priority}_{figure.name}",
            word=figure.word + place,
            title=figure.title.format(priority),
            metric=f"{priority}_{figure.metric}",
        )
        for place, priority in enumerate(PRIORITIES)
    )


# `UNCONNECTED`, `CONNECTED` or `CLOSED` of `dora.transport.board`: not met yet, connected, cut.
NETWORK_STATE: Final = 0
SENT_BYTES: Final = _of_each_priority(
    NetworkFigure(
        "sent", 1, "Bytes sent to another machine with the priority {}", "By", "sent_bytes", is_total=True
    )
)
WAITING: Final = _of_each_priority(
    NetworkFigure(
        "waiting",
        4,
        "Messages with the priority {} that wait to be sent to another machine",
        "{message}",
        "waiting_messages",
    )
)
MEDIAN_AGES: Final = _of_each_priority(
    NetworkFigure(
        "age_median",
        7,
        "Age on arrival of the last messages with the priority {}, half of them",
        "s",
        "age_median_seconds",
        scale=1e9,
    )
)
P99_AGES: Final = _of_each_priority(
    NetworkFigure(
        "age_p99",
        10,
        "Age on arrival of the last messages with the priority {}, 99 % of them",
        "s",
        "age_p99_seconds",
        scale=1e9,
    )
)
AVAILABLE: Final = NetworkFigure(
    "available", 13, "Bytes per second that a network carries", "By/s", "available_bytes_per_second"
)
ROUND_TRIP: Final = NetworkFigure(
    "round_trip",
    14,
    "Time to another machine and back, at the last look",
    "s",
    "round_trip_seconds",
    scale=1e9,
)
PACKETS: Final = NetworkFigure(
    "packets", 15, "Packets with data sent to another machine", "{packet}", "packets", is_total=True
)
RESENT_PACKETS: Final = NetworkFigure(
    "resent_packets",
    16,
    "Packets that were sent again, because the network had lost them or was late",
    "{packet}",
    "resent_packets",
    is_total=True,
)
CUTS: Final = NetworkFigure(
    "cuts", 17, "How often the network to another machine was cut", "{cut}", "cuts", is_total=True
)
NETWORK_FIGURES: Final = (
    *SENT_BYTES,
    AVAILABLE,
    ROUND_TRIP,
    PACKETS,
    RESENT_PACKETS,
    CUTS,
    *WAITING,
    *MEDIAN_AGES,
    *P99_AGES,
)

# Shares are in thousandths.
ARRIVED_BYTES: Final = StreamFigure(
    "arrived_bytes", 16, "Bytes of an output that have arrived on another machine"
)
SHARE: Final = StreamFigure("share", 17, "Share of the network that the output takes, over 5 s")
HIGHEST_SHARE: Final = StreamFigure("highest_share", 18, "The highest `share` so far")
CROWDED: Final = StreamFigure("crowded", 19, "For how long the `share` was too high, in milliseconds")
STREAM_FIGURES: Final = (ARRIVED_BYTES, SHARE, HIGHEST_SHARE, CROWDED)
CROWDED_FROM: Final = 0.8  # share of a network from which an output is named as too large


def loss_of(packets: int, resent: int) -> float | None:
    """Return the share of packets that were sent again, 0 to 1; None: there was none, or nobody counts.

    >>> loss_of(200, 4), loss_of(0, 0)
    (0.02, None)
    """
    return min(resent / packets, 1.0) if packets else None


def describe_share(output: str, machine: str, share: float, *, seconds: float = 0.0) -> str:
    """Return the sentence about an output that takes most of a network; ``seconds``: it did so for so long.

    >>> describe_share("camera/image", "desk", 0.94)
    'camera/image takes 94 % of the network to `desk`: compress it, or lower its rate'
    >>> describe_share("camera/image", "desk", 0.94, seconds=12.3)
    'camera/image took up to 94 % of the network to `desk`, for 12 s: compress it, or lower its rate'
    """
    takes, how_long = ("took up to", f", for {seconds:.0f} s") if seconds else ("takes", "")
    return (
        f"{output} {takes} {share * 100:.0f} % of the network to `{machine}`{how_long}: "
        "compress it, or lower its rate"
    )
