"""Operations that change a running dataflow, and the change that follows from one.

They are the same in every protocol: in JSON to the coordinator, where ``type`` selects one, and in msgpack
to the daemon of a dataflow.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

from dora.errors import Problem
from dora.wire.input_rules import InputOptions

MAX_GRACE: Final = 86_400.0  # seconds, the most that nodes can get to stop

# Seconds until SIGTERM. `grace_fault` checks the limits, so that a wrong value is answered with a sentence.
Grace = Annotated[float, msgspec.Meta(extra_json_schema={"minimum": 0, "maximum": MAX_GRACE})]


class StopOperation(msgspec.Struct, frozen=True, tag_field="type", tag="stop"):
    """End a node for good."""

    node: str
    grace: Grace | None = None


class RestartOperation(msgspec.Struct, frozen=True, tag_field="type", tag="restart"):
    """End the process of a node and start another one."""

    node: str
    grace: Grace | None = None


# Those that change no dataflow.
NodeOperation = StopOperation | RestartOperation


class RemoveOperation(msgspec.Struct, frozen=True, tag_field="type", tag="remove"):
    """End a node and remove it from the dataflow, with its links."""

    node: str
    grace: Grace | None = None


class AddOperation(msgspec.Struct, frozen=True, tag_field="type", tag="add"):
    """Add the node that a YAML text describes; errors call the text ``file``.

    ``env`` gives the values of ``$NAME`` in the text, before the environment of the daemon.
    """

    yaml: str
    file: str = "<node>"
    strict_types: bool = False
    env: dict[str, str] = {}


class ReplaceOperation(msgspec.Struct, frozen=True, tag_field="type", tag="replace"):
    """Replace a node by the one that a YAML text describes; ``file`` and ``env`` as in `AddOperation`."""

    node: str
    yaml: str
    file: str = "<node>"
    strict_types: bool = False
    grace: Grace | None = None
    env: dict[str, str] = {}


# msgspec freezes a record of its own, whatever it inherits from; mypy thinks of dataclasses.
class ConnectOperation(InputOptions, frozen=True, tag_field="type", tag="connect"):  # type: ignore[misc]
    """Connect an output, ``node/output``, to an input, ``node/input``, with options as in YAML."""

    source: str
    target: str
    strict_types: bool = False


class DisconnectOperation(msgspec.Struct, frozen=True, tag_field="type", tag="disconnect"):
    """Remove a link."""

    source: str
    target: str


# Those that change the nodes or links of a dataflow; each becomes a `ProposedChange`.
TopologyOperation = (
    AddOperation | RemoveOperation | ReplaceOperation | ConnectOperation | DisconnectOperation
)


class ProposedChange(msgspec.Struct, frozen=True, kw_only=True):
    """The whole dataflow as it is to be after an operation.

    ``revision`` counts the changes, this one included. ``machines`` and ``generations`` are as in
    `dora.dataflow.layout.Placement`. ``added`` and ``removed`` name links for the log: "a/out -> b/in".
    A node that leaves, or gets another program, has ``grace`` seconds to end (None: the default).
    """

    revision: int
    dataflow: Any  # `dora.dataflow.model.Dataflow`
    machines: dict[str, str] = {}
    generations: dict[str, int] = {}
    programs: list[Any] = []  # `dora.dataflow.model.Program`, those that the change brings
    added: str = ""
    removed: str = ""
    grace: float | None = None

    def program_of(self, node_id: str) -> int:
        """Return the change that gave a node its present program; 0: it has the program it came with."""
        return self.generations.get(program_key(node_id), 0)


def program_key(node_id: str) -> str:
    """Return the key of a node's program in ``generations``; no id holds a space."""
    return f"{node_id} program"


class OperationResult(msgspec.Struct, frozen=True, tag=True):
    """An operation is done, or a parameter is set: the ``node`` concerned, and whether it had a process."""

    node: str
    was_running: bool = True
    warnings: tuple[Problem, ...] = ()


def grace_fault(grace: float | None) -> str:
    """Return what is wrong with a grace; "" if nothing is."""
    if grace is None or 0 <= grace <= MAX_GRACE:  # which NaN is not
        return ""
    return f"nodes get from 0 to {MAX_GRACE:,.0f} seconds to end, not {grace:g}"
