"""The OpenAPI document of the coordinator's API, with schemas from the structs that it reads and writes."""

from __future__ import annotations

from typing import Any

import msgspec

from dora._version import __version__
from dora.coordinator.protocol import (
    DataflowView,
    DownRequest,
    Failure,
    StartRequest,
    StopRequest,
    SystemStatus,
)

# method, path, summary, body, answer
OPERATIONS: list[tuple[str, str, str, Any, Any]] = [
    ("get", "/api/status", "Tell the version, the daemons and how many dataflows run", None, SystemStatus),
    ("get", "/api/dataflows", "List all dataflows, the oldest first", None, list[DataflowView]),
    ("post", "/api/dataflows", "Start a dataflow", StartRequest, DataflowView),
    ("delete", "/api/dataflows", "Remove the records of ended dataflows", None, list[DataflowView]),
    ("get", "/api/dataflows/{dataflow}", "Show one dataflow and how it ended", None, DataflowView),
    (
        "post",
        "/api/dataflows/{dataflow}/stop",
        "Stop a dataflow; answers at once",
        StopRequest,
        DataflowView,
    ),
    (
        "post",
        "/api/dataflows/{dataflow}/restart",
        "Stop a dataflow, wait for its end, and start it again",
        StopRequest,
        None,
    ),
    (
        "get",
        "/api/dataflows/{dataflow}/wait",
        "Wait until a dataflow has started or ended (until=started, ended), for at most timeout seconds",
        None,
        DataflowView,
    ),
    ("post", "/api/down", "End the daemon and the coordinator", DownRequest, None),
]


def document() -> dict[str, Any]:
    """Return the document."""
    types = [kind for *_, body, answer in OPERATIONS for kind in (body, answer) if kind is not None]
    schemas, components = msgspec.json.schema_components(
        [*types, Failure], ref_template="#/components/schemas/{name}"
    )
    found = iter(schemas)
    failure = schemas[-1]
    paths: dict[str, Any] = {}
    for method, path, summary, body, answer in OPERATIONS:
        operation: dict[str, Any] = {"summary": summary, "responses": {}}
        if "{dataflow}" in path:
            operation["parameters"] = [_parameter("dataflow", "path", "UUID, the beginning of it, or name")]
        if path.endswith("/wait"):
            operation["parameters"] += [
                _parameter("until", "query", "started or ended"),
                _parameter("timeout", "query", "seconds, at most 60"),
            ]
        if body is not None:
            operation["requestBody"] = {"content": _content(next(found))}
        shown = _content(next(found)) if answer is not None else _content({"type": "object"})
        operation["responses"]["2XX"] = {"description": "Done", "content": shown}
        operation["responses"]["4XX"] = {"description": "Refused", "content": _content(failure)}
        paths.setdefault(path, {})[method] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "dora coordinator", "version": __version__},
        "paths": paths,
        "components": {"schemas": components},
    }


def _parameter(name: str, place: str, description: str) -> dict[str, Any]:
    return {
        "name": name,
        "in": place,
        "required": place == "path",
        "description": description,
        "schema": {"type": "string"},
    }


def _content(schema: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
