"""The rules of outputs: each is declared here once.

Model, plan, nodes and observers carry `OutputRules`; a receiver gets the rules of the output that feeds
it, as ``source_rules``. `OUTPUT_RULES` describes them: parser, JSON schema, graph, ``dora topic info``,
``dora node info``, replay, ``Node.node_config`` and the descriptor are made from it. A new rule takes a
field in `OutputRules`, an entry, a parameter of ``add_output`` in `dora.builder`, and the code that obeys
it. A test goes through all rules and names what does not carry one.

Records of an output inherit from `OutputRules`, for the reason that `dora.wire.input_rules` gives.
"""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple, get_args

import msgspec

Priority = Literal["control", "normal", "bulk"]
"""Which messages go first between two machines."""

SafeStateCondition = Literal["deadline", "budget", "failed", "silent"]


class LatchRule(msgspec.Struct, frozen=True, omit_defaults=True):
    """How much a latched output keeps for receivers that join late."""

    depth: int  # messages, at least 1
    survive_restart: bool = False  # of the sending node


class SafeState(msgspec.Struct, frozen=True, omit_defaults=True):
    """The value that the receivers of an output get while its node does not send."""

    values: tuple[Any, ...]
    type: str  # the name of an Arrow type, "float32"
    when: tuple[SafeStateCondition, ...]
    metadata: dict[str, Any] = {}
    silence_ns: int = 0  # the pause that means `silent`


class OutputRules(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The rules of an output; None stands for a rule that is not given."""

    latched: LatchRule | None = None
    priority: Priority | None = None  # between machines; None: by the size of each message
    safe_state: SafeState | None = None
    description: str | None = None


NO_RULES: Final = OutputRules()


class OutputRule(NamedTuple):
    """How a rule is written, described and shown, and what it contradicts."""

    name: str  # in YAML and Python, and in `OutputRules`
    kind: Literal["latch", "choice", "safe_state", "text"]
    description: str  # for editors and the manual
    title: str  # before the value in words, for people
    label: str  # in drawings; `{}` stands for the value in one word; "": they leave the rule out
    sentence: str  # in drawings, when asked; `{}` stands for the value in words
    choices: tuple[str, ...] = ()
    # Completes "the output cannot …", for outputs where the daemon sends lines of text; "": it can.
    not_of_text: str = ""
    no_backpressure: str = ""  # why receivers cannot make the sender wait (`queue_policy: backpressure`)


OUTPUT_RULES: Final = (
    OutputRule(
        "latched",
        "latch",
        "A receiver that joins late first gets the newest messages, so many as this says: `1`, or "
        "`{depth: 1, survive_restart: true}`.",
        "Latched",
        "latched {}",
        "A receiver that joins late first gets {}.",
        not_of_text="be latched",
        no_backpressure="is latched: a late receiver would get messages that the sender has no credit for",
    ),
    OutputRule(
        "priority",
        "choice",
        "Which messages go first where they share a network to another machine: `control`, then "
        "`normal`, then `bulk`. Without it, messages of at most 8 KiB are `control`, and others are "
        "`normal`.",
        "Priority",
        "priority {}",
        "Priority: {}.",
        choices=get_args(Priority),
    ),
    OutputRule(
        "safe_state",
        "safe_state",
        "The value that receivers get while the node does not send, even if its process is dead or "
        "stopped: `{value: [0.0, 0.0], when: [failed]}`.",
        "Safe state",
        "safe state",
        "Safe state: {}.",
        not_of_text="have a safe state",
    ),
    OutputRule(
        "description",
        "text",
        "A text for people: what the messages are.",
        "Description",
        "",
        "Description: {}",
    ),
)


def output_rules_of(item: OutputRules) -> dict[str, Any]:
    """Return the rules of an output, to give them to another record with the same ones.

    >>> output_rules_of(OutputRules(priority="bulk"))["priority"]
    'bulk'
    """
    return {name: getattr(item, name) for name in OutputRules.__struct_fields__}
