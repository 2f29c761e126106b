"""The rules of inputs: each is declared here once.

Model, plan, nodes and senders carry `InputRules`. A command or the API gives `InputOptions` for a new
link, as YAML has them. `INPUT_RULES` describes both: parser, JSON schema, ``dora node connect``,
``dora node info``, graph, replay and ``Node.node_config`` are made from it. A new rule takes a field in
each of the two records, an entry, a parameter of ``add_input`` in `dora.builder`, and the code that obeys
it, for most rules in `dora.node.receive.qos_input`. A test goes through all rules and names what does not
carry one.

Records of an input inherit from `InputRules`. The alternative is a field with an `InputRules` in it: a
hundred readers of rules would get longer, and no clearer.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, NamedTuple, get_args

import msgspec

QueuePolicy = Literal["drop_oldest", "latest", "backpressure"]
MissedTicks = Literal["skip", "coalesce", "burst"]
SyncPolicy = Literal["nearest", "exact", "latest"]
SyncBy = Literal["timestamp", "arrival"]

DEFAULT_QUEUE_SIZE: Final = 10
MAX_QUEUE_SIZE: Final = 10_000_000


class InputRules(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The rules of an input. Times are in nanoseconds, 0 stands for a rule that is not given."""

    queue_size: int = DEFAULT_QUEUE_SIZE  # at least 1; of `latest`: 1
    queue_policy: QueuePolicy = "drop_oldest"
    input_timeout: float | None = None  # seconds
    deadline_ns: int = 0  # the longest pause between messages
    max_age_ns: int = 0  # older messages are not delivered
    period_ns: int = 0  # of its `rate`: the least time between two messages
    every: int = 0  # of this many messages one is delivered
    keep: tuple[str, ...] = ()  # metadata keys of messages that newer ones never push out
    phase_ns: int = 0  # of a timer
    missed_ticks: MissedTicks = "skip"  # of a timer
    description: str = ""

    @property
    def has_qos(self) -> bool:
        """Whether it has a rule of the layer `qos`, which watches pauses and leaves messages out."""
        return any(getattr(self, rule.attribute) for rule in INPUT_RULES if rule.in_qos)


class InputOptions(msgspec.Struct, kw_only=True):
    """The rules of an input of messages as YAML has them; None, or no key to keep: not given."""

    queue_size: Annotated[int, msgspec.Meta(ge=1)] | None = None
    queue_policy: QueuePolicy | None = None
    input_timeout: float | None = None
    deadline: str | None = None
    max_age: str | None = None
    rate: str | None = None
    every: Annotated[int, msgspec.Meta(ge=1)] | None = None
    keep: tuple[str, ...] = ()
    description: str | None = None


class SyncGroup(msgspec.Struct, frozen=True):
    """A group of inputs whose messages come in sets, see `dora.node.receive.sync_matcher`."""

    inputs: tuple[str, ...]  # ids; the first one leads
    policy: SyncPolicy = "nearest"
    by: SyncBy = "timestamp"
    tolerance_ns: int | None = 0  # None: any age
    history: dict[str, int] = {}  # input → how many messages before the matching one come with it
    timeout_ns: int | None = None  # None: incomplete sets are not given


class InputRule(NamedTuple):
    """How a rule is written, described and shown.

    ``label`` and ``sentence`` are for graphs; ``{}`` stands for the value as YAML has it.
    """

    name: str  # in YAML and Python, and as an option of the command line
    attribute: str  # of `InputRules`
    kind: Literal["integer", "seconds", "duration", "rate", "choice", "keys", "text"]
    description: str  # for editors, the manual and ``--help``
    label: str
    sentence: str
    source: Literal["any", "messages", "timer"] = "messages"  # of inputs that may have it
    minimum: int = 0  # of an integer, or 1 for a duration that may not be zero
    choices: tuple[str, ...] = ()  # the first is the default
    default: Any = None
    loses: str = ""  # why it contradicts back-pressure: it lets messages be left out or pushed out
    in_qos: bool = False  # obeyed by `dora.node.receive.qos_input`
    # Apart from messages; a replay in recorded order gives out the recorded ones.
    makes_events: bool = False
    reads_timestamps: bool = False  # which are old in a replay


INPUT_RULES: Final = (
    InputRule(
        "queue_size",
        "queue_size",
        "integer",
        "How many messages may wait for the receiver (0 counts as 1).",
        "queue {}",
        "A queue of {} messages.",
        source="any",
        default=DEFAULT_QUEUE_SIZE,
    ),
    InputRule(
        "queue_policy",
        "queue_policy",
        "choice",
        "What happens when the queue is full: the oldest message is dropped (and counted), or the sender "
        "waits until there is room. `latest`: there is one place, for the newest message.",
        "{}",
        "Queue policy: {}.",
        source="any",
        choices=get_args(QueuePolicy),
    ),
    InputRule(
        "input_timeout",
        "input_timeout",
        "seconds",
        "Seconds of silence after which the input counts as closed. Unset: never.",
        "timeout {} s",
        "Closes after {} s of silence.",
        source="any",
        makes_events=True,
    ),
    InputRule(
        "deadline",
        "deadline_ns",
        "duration",
        "The longest pause between two messages, for example `50ms`. After a longer one the node gets the "
        "event `DEADLINE_MISSED`, and `DEADLINE_MET` before the next message.",
        "deadline {}",
        "Deadline: a message at least every {}.",
        minimum=1,
        makes_events=True,
        in_qos=True,
    ),
    InputRule(
        "max_age",
        "max_age_ns",
        "duration",
        "Messages that are older when the node takes them, by their `timestamp`, are not delivered, and "
        "counted as expired: `100ms`.",
        "max age {}",
        "Messages older than {} expire.",
        minimum=1,
        loses="leaves out messages that are too old",
        reads_timestamps=True,
        in_qos=True,
    ),
    InputRule(
        "rate",
        "period_ns",
        "rate",
        "The node gets at most so many messages a second, for example `10hz`, and of several the newest; "
        "the others are counted as thinned.",
        "{}",
        "At most {}.",
        loses="leaves out messages that come too fast",
        in_qos=True,
    ),
    InputRule(
        "every",
        "every",
        "integer",
        "The node gets the first message and then each one after so many: of `every: 3`, the first, the "
        "fourth, the seventh; the others are counted as thinned.",
        "1 of {}",
        "One of {} messages.",
        minimum=1,
        loses="leaves out messages",
        in_qos=True,
    ),
    InputRule(
        "keep",
        "keep",
        "keys",
        "Metadata keys: a message with one of them is not dropped, thinned or expired, for example "
        "`[stop, reset]`.",
        "keeps {}",
        "Never dropped: messages with {}.",
        loses="is for queues that push messages out",
    ),
    InputRule(
        "phase",
        "phase_ns",
        "duration",
        "Of a timer: how long after the start its first tick comes, so that timers do not tick together: "
        "`5ms`.",
        "phase {}",
        "Its first tick comes {} after the start.",
        source="timer",
    ),
    InputRule(
        "missed_ticks",
        "missed_ticks",
        "choice",
        "Of a timer, what the node gets when it was busy for several ticks: one (`skip`), one with their "
        "number as `missed_ticks` in the metadata (`coalesce`), or up to `queue_size` (`burst`).",
        "missed ticks: {}",
        "Missed ticks: {}.",
        source="timer",
        choices=get_args(MissedTicks),
    ),
    InputRule(
        "description",
        "description",
        "text",
        "A text for people: what the input is for.",
        "",
        "Description of the input: {}",
        source="any",
    ),
)


def input_rules_of(item: InputRules) -> dict[str, Any]:
    """Return the rules of an input, to give them to another record with the same ones.

    >>> input_rules_of(InputRules(queue_size=3))["queue_size"]
    3
    """
    return {name: getattr(item, name) for name in InputRules.__struct_fields__}
