"""The table of all fields of a module's file, beside `dora.dataflow.fields`."""

from __future__ import annotations

from dora.dataflow.block import Block, Field
from dora.dataflow.fields import BUILD, Nodes
from dora.dataflow.kinds import DATA, ListType, TextType

MODULE_HEADER = Block(
    "the header of a module",
    [
        Field("name", TextType("a name"), "What the module is called; for people.", required=True),
        Field(
            "inputs",
            ListType(DATA, "input ports"),
            "The ports that have to be connected; nodes of the module refer to them as `_mod/<port>`.",
        ),
        Field(
            "inputs_optional",
            ListType(DATA, "input ports"),
            "The ports that may be left open; inputs that refer to an open port are left out.",
        ),
        Field(
            "outputs",
            ListType(DATA, "outputs"),
            "The outputs that others may use; each is an output of exactly one node of the module.",
        ),
    ],
)

MODULE_FILE = Block(
    "a module",
    [
        Field("module", MODULE_HEADER, "What the module is called, and its ports.", required=True),
        Field("nodes", Nodes(), "The nodes of the module.", required=True),
        Field(
            "build",
            BUILD.kind,
            "Commands that are run before those of each of its nodes, one a line.",
        ),
    ],
    notes=True,
)
