"""The fields by which nodes and operators say what their inputs and outputs carry."""

from __future__ import annotations

from dora.dataflow.block import Block, Field
from dora.dataflow.kinds import Choice, ListOf, MapOf, Text
from dora.dataflow.type_check import PATTERNS

TYPE_NAME = Text("the name of a type", may_be_empty=False)

CONTRACTS = [
    Field(
        "input_types",
        MapOf(TYPE_NAME, "inputs"),
        "For each input its type, for example `image: std/media/v1/Image`.",
    ),
    Field(
        "output_types",
        MapOf(TYPE_NAME, "outputs"),
        "For each output its type, for example `image: std/media/v1/Image`.",
    ),
    Field(
        "output_metadata",
        MapOf(ListOf(Text(), "metadata keys"), "outputs"),
        "For each output the metadata keys that it carries; documentation, without effect.",
    ),
    Field(
        "pattern",
        Choice(PATTERNS, strict=False),
        "The communication pattern that it takes part in. Requests, goals and their answers are then never "
        "dropped to make room for others.",
    ),
    Field(
        "output_framing",
        MapOf(Choice(("raw", "arrow-ipc")), "outputs"),
        "Accepted for compatibility, without effect: messages are always in Arrow's IPC format.",
    ),
]

TYPE_RULE = Block(
    "a type rule",
    [
        Field("from", TYPE_NAME, "The type that is sent.", required=True),
        Field("to", TYPE_NAME, "The type that is expected.", required=True),
    ],
)

TYPE_RULES = ListOf(TYPE_RULE, "type rules")
