"""Where nodes run: the field ``deploy`` of a node, and of the dataflow for all nodes without one."""

from __future__ import annotations

import os
import re
from typing import Any, get_args

from dora.dataflow.model import HERE, Deploy, OnMachineLost
from dora.dataflow.names import MACHINE_ID, machine_id_fault
from dora.dataflow.problems import ProblemReport
from dora.dataflow.yaml.field_types import (
    TEXT_SCHEMA,
    ChoiceType,
    FieldType,
    Reader,
    RuledTextType,
    Schema,
    TextType,
    report_expected,
)
from dora.dataflow.yaml.schema_block import CheckedBlock, Field, SchemaBlock
from dora.dataflow.yaml.tree import MappingNode, YamlNode, texts_of

_LABEL = r"[A-Za-z0-9][A-Za-z0-9_./-]*"


def _machine_fault(text: str) -> tuple[str, str] | None:
    fault = machine_id_fault(text)
    return (f"the machine id `{text[:60]}` {fault}", "for example `robot-1`") if fault else None


MACHINE_NAME = RuledTextType(
    "the id of a machine", _machine_fault, {**TEXT_SCHEMA, "pattern": f"^{MACHINE_ID}$"}
)
"""The name of a machine: what its daemon was given as ``--machine-id``."""


class Labels(FieldType[dict[str, str]]):
    """Names and values that a machine must have."""

    def read(self, value: YamlNode, reader: Reader) -> dict[str, str] | None:
        """Return values by name, all as texts; None if any has a problem."""
        if not isinstance(value, MappingNode):
            report_expected(value, reader, "a mapping of labels", "for example `labels: {gpu: true}`")
            return None
        labels: dict[str, str] = {}
        for name, (key, item) in value.entries.items():
            text = TextType(f"a text, number or boolean for the label `{name}`").read(item, reader)
            if not re.fullmatch(_LABEL, name):
                reader.report.error(
                    key,
                    f"`{name[:60]}` cannot be a label",
                    "letters, digits, `_`, `.`, `/` and `-` are allowed",
                )
            elif text is not None:
                labels[name] = text
        return labels if len(labels) == len(value.entries) else None

    def stored(self, value: YamlNode) -> Any:
        return texts_of(value)

    def schema(self) -> Schema:
        return {
            "type": "object",
            "propertyNames": {"pattern": f"^{_LABEL}$"},
            "additionalProperties": dict(TEXT_SCHEMA),
        }


DEPLOY = SchemaBlock(
    "`deploy`",
    [
        Field("machine", MACHINE_NAME, "The machine to run on, by the `--machine-id` of its daemon."),
        Field(
            "labels",
            Labels(),
            "The labels that a machine must have, among others; of several machines it is the first by "
            "name. Without effect beside `machine`.",
        ),
        Field(
            "working_dir",
            TextType("a folder", may_be_empty=False),
            "The folder on that machine in which the node runs and its relative paths begin; by default "
            "the same as on the machine of the dataflow file.",
        ),
        Field(
            "distribute",
            ChoiceType(["local", "scp", "http"]),
            "How the node's files get there. With `local` they are there, or `dora cluster start` copies "
            "them; `scp` and `http` mean both that it has to, over ssh. Without effect beside "
            "`working_dir`.",
            default="local",
        ),
        Field(
            "on_machine_lost",
            ChoiceType(get_args(OnMachineLost)),
            "What happens when the machine is lost: with `keep` the other machines go on, and nodes with a "
            "`restart_policy` are started again when the machine is back; with `stop` the dataflow stops.",
            default="keep",
        ),
    ],
)


def deploy_of(checked: CheckedBlock, default: Deploy, report: ProblemReport) -> Deploy:
    """Return where a node runs, or with the dataflow's block the default for its nodes."""
    block: CheckedBlock | None = checked.get("deploy")
    if block is None or not block.nodes:
        return default
    folder: str | None = block.get("working_dir")
    if folder is not None and not os.path.isabs(folder):
        report.warn(
            block.place("working_dir"),
            f"the folder `{folder}` is relative, so it is below the folder of the dataflow file",
            "an absolute path, which begins with `/`, means the same on every machine",
        )
    is_sent = block.get("distribute") in ("scp", "http")
    if is_sent and folder is not None:
        report.warn(
            block.place("distribute"),
            f"`distribute: {block.get('distribute')}` has no effect beside `working_dir`, which says that "
            "the files are there",
            "without `working_dir`, `dora cluster start` copies them",
        )
    found = Deploy(
        machine=block.get("machine"),
        labels=block.get("labels") or {},
        working_dir=folder,
        is_sent=is_sent and folder is None,
        # Unlike the place, it applies to all nodes: "stop if any machine is lost" is one line.
        on_machine_lost=block.values.get("on_machine_lost", default.on_machine_lost),
    )
    return HERE if found == HERE else found


def is_elsewhere(checked: CheckedBlock, default: Deploy) -> bool:
    """Return whether a node's files may be on another machine, so that they cannot be checked now."""
    block: CheckedBlock | None = checked.get("deploy")
    if block is None or not block.nodes:
        return default.names_place
    return any(block.get(name) for name in ("machine", "labels", "working_dir"))
