"""Fields with which nodes and operators describe the messages of their inputs and outputs."""

from __future__ import annotations

import msgspec

from dora.dataflow.model import InputSpec
from dora.dataflow.yaml.field_types import ChoiceType, ListType, MapType, TextType
from dora.dataflow.yaml.schema_block import CheckedBlock, Field, SchemaBlock

PATTERNS = ("service-server", "service-client", "action-server", "action-client")
TYPE_NAME = TextType("the name of a type", may_be_empty=False)

CONTRACTS = [
    Field(
        "input_types",
        MapType(TYPE_NAME, "inputs"),
        "For each input its type, for example `image: std/media/v1/Image`.",
    ),
    Field(
        "output_types",
        MapType(TYPE_NAME, "outputs"),
        "For each output its type, for example `image: std/media/v1/Image`.",
    ),
    Field(
        "output_metadata",
        MapType(ListType(TextType(), "metadata keys"), "outputs"),
        "For each output the metadata keys that it carries; documentation, without effect.",
    ),
    Field(
        "pattern",
        ChoiceType(PATTERNS, strict=False),
        "The communication pattern that it takes part in. Requests, goals and their answers are then never "
        "dropped to make room for others.",
    ),
    Field(
        "output_framing",
        MapType(ChoiceType(("raw", "arrow-ipc")), "outputs"),
        "Accepted for compatibility, without effect: messages are always in Arrow's IPC format.",
    ),
]

TYPE_RULE = SchemaBlock(
    "a type rule",
    [
        Field("from", TYPE_NAME, "The type that is sent.", required=True),
        Field("to", TYPE_NAME, "The type that is expected.", required=True),
    ],
)

TYPE_RULES = ListType(TYPE_RULE, "type rules")


class Ports(msgspec.Struct, frozen=True):
    """The inputs and outputs of one program or operator, and the block that describes them."""

    owner: str  # "node `a`", for messages
    node: str
    prefix: str  # of its ids within the node: "<operator id>/" or ""
    block: CheckedBlock
    inputs: tuple[InputSpec, ...]  # with the ids of the block
    outputs: tuple[str, ...]
    path: str = ""  # of the program, relative to the project; "" for operators

    @property
    def texts(self) -> tuple[str, ...]:
        """The outputs that carry captured lines or log entries."""
        names = (self.block.get(field) for field in ("send_stdout_as", "send_logs_as"))
        return tuple(name for name in names if name is not None)

    @property
    def are_described(self) -> bool:
        """Whether anything describes their messages."""
        return any(self.block.has(field.name) for field in CONTRACTS)
