"""The block ``black_box`` of a dataflow file: what a run keeps of its last seconds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from dora.dataflow.model import BlackBoxRules, NodeSpec
from dora.dataflow.problems import MAX_LISTED, ProblemReport, listed
from dora.dataflow.yaml.field_types import FlagType, ListType, TextType
from dora.dataflow.yaml.number_types import ByteSizeType, DurationType, IntegerType
from dora.dataflow.yaml.schema_block import CheckedBlock, Field, SchemaBlock, ShortForm

_OUTPUTS: Final = ListType(TextType("an output", may_be_empty=False), "outputs")
_MOST_FILES: Final = 1000

OUTPUT_LISTS: Final = ("outputs", "leave_out", "save_on")
"""The fields that list outputs."""

_OF_MESSAGES: Final = ("outputs", "save_on")

BLACK_BOX: Final = ShortForm(
    SchemaBlock(
        "a black box",
        [
            Field("enabled", FlagType(), "Whether a run keeps its last seconds.", default=True),
            Field(
                "duration",
                DurationType(),
                "How much it keeps, for example `60s`. Unset: `30s`.",
            ),
            Field(
                "memory",
                ByteSizeType(),
                'How much memory that may take on each machine: "256MB". Unset: 64 MiB, or 2 % of the '
                "machine's memory if that is less.",
            ),
            Field("outputs", _OUTPUTS, "The outputs to keep: `[camera/image]`. Unset: all."),
            Field("leave_out", _OUTPUTS, "Outputs not to keep: `[camera/raw]`."),
            Field(
                "save_on",
                _OUTPUTS,
                "Outputs of which each message saves a file, as a failure does: `[planner/stuck]`.",
            ),
            Field(
                "files",
                IntegerType(1, _MOST_FILES),
                "How many files of a run stay; a further one replaces the oldest.",
                default=5,
            ),
        ],
        reference="black_box",
    ),
    "enabled",
)


def black_box_of(
    block: CheckedBlock | None, nodes: Iterable[NodeSpec], report: ProblemReport
) -> BlackBoxRules:
    """Return the settings of a block; report outputs that no node has."""
    if block is None:
        return BlackBoxRules()
    known = [f"{node.id}/{output}" for node in nodes for output in node.outputs]
    texts = {f"{node.id}/{output}" for node in nodes for output in node.log.outputs}
    for field in OUTPUT_LISTS:
        for name in block.get(field) or ():
            if name not in known:
                report.error(
                    block.place(field, name),
                    f"no node has the output `{name}`",
                    report.did_you_mean(name, known) or f"the outputs are {listed(known, MAX_LISTED)}",
                )
            elif name in texts and field in _OF_MESSAGES:
                report.error(
                    block.place(field, name),
                    f"`{name}` carries lines of text, which a black box does not see",
                    "name an output that the program sends to; the log file has the lines",
                )
    settings = BlackBoxRules()
    return BlackBoxRules(
        enabled=block.get("enabled"),
        duration_ns=block.get("duration") or settings.duration_ns,
        memory=block.get("memory"),
        outputs=block.get("outputs"),
        leave_out=block.get("leave_out") or (),
        save_on=block.get("save_on") or (),
        files=block.get("files"),
    )
