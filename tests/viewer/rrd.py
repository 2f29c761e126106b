"""Reads what a viewer saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def read(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Return entity → its rows in the order of logging, each component → value.

    The values of different components come in different rows.
    """
    try:
        from rerun.chunk import RrdReader
    except ImportError:  # before 0.41
        from rerun.experimental import RrdReader

    entities: dict[str, list[dict[str, Any]]] = {}
    for chunk in RrdReader(path).stream().to_chunks():
        batch = chunk.to_record_batch()
        columns = {
            name: [item.value if name == "timestamp" else item.as_py() for item in batch.column(name)]
            for name in batch.schema.names
            if ":" in name or name == "timestamp"
        }
        rows = entities.setdefault(chunk.entity_path.removeprefix("/"), [])
        rows += [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return entities


def last(entities: dict[str, list[dict[str, Any]]], entity: str) -> dict[str, Any]:
    """Return the components that were logged last at an entity."""
    return {name: value for row in entities[entity] for name, value in row.items() if value is not None}
