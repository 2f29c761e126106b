"""The JSON schema of a dataflow file, for editors: completion, hover help, red underlines.

``python -m dora.dataflow.schema`` rewrites ``dataflow.schema.json`` beside this module.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dora.dataflow.fields import DATAFLOW, INPUT, NODE_BLOCK, OPERATOR_BLOCK, PYTHON_SOURCE

SCHEMA_FILE = Path(__file__).with_name("dataflow.schema.json")


def json_schema() -> dict[str, Any]:
    """Return the schema (draft 2020-12), generated from the table that the parser uses.

    It describes each field by itself. What concerns several fields together, such as sources that
    must exist, only the parser checks.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "dora dataflow",
        "description": "Nodes, and how their outputs are wired to inputs.",
        **DATAFLOW.schema(),
        "$defs": {
            "node": NODE_BLOCK.schema(),
            "operator": OPERATOR_BLOCK.schema(),
            "input": INPUT.schema(),
            "python_source": PYTHON_SOURCE.schema(),
        },
    }


def schema_text() -> str:
    """Return the schema as the file that is shipped."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    SCHEMA_FILE.write_text(schema_text(), encoding="utf-8")
