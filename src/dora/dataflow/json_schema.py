"""The JSON schema of a dataflow file, for editors: completion, hover help, red underlines.

``python -m dora.dataflow.json_schema`` rewrites ``dataflow.schema.json`` beside this module.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dora.dataflow.modules.check import MODULE_FILE
from dora.dataflow.parser.fields import DATAFLOW, INPUT, NODE_BLOCK, OPERATOR_BLOCK, PYTHON_SOURCE
from dora.dataflow.parser.output_rules import OUTPUT
from dora.dataflow.parser.sync import SYNC_BLOCK
from dora.dataflow.yaml.schema_block import SchemaBlock

SCHEMA_FILE = Path(__file__).with_name("dataflow.schema.json")


def json_schema() -> dict[str, Any]:
    """Return the schema (draft 2020-12), generated from the table that the parser uses.

    It describes each field by itself. Rules about several fields together, such as sources that must
    exist, are checked by the parser only.
    """
    return _schema("dora dataflow", "Nodes, and how their outputs are wired to inputs.", DATAFLOW)


def module_schema() -> dict[str, Any]:
    """Return the schema of a module's file."""
    return _schema("dora module", "A part of a dataflow, and its ports.", MODULE_FILE)


def _schema(title: str, description: str, block: SchemaBlock) -> dict[str, Any]:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        "description": description,
        **block.schema(),
        "$defs": {
            used.reference: used.definition()
            for used in (NODE_BLOCK, OPERATOR_BLOCK, INPUT, OUTPUT, SYNC_BLOCK, PYTHON_SOURCE)
        },
    }


def schema_text() -> str:
    """Return the schema as the file that is shipped."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA_FILE.write_text(schema_text(), encoding="utf-8")
