"""The OpenAPI document of the coordinator's API, with schemas from the structs that it reads and writes."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from dora._version import __version__
from dora.cluster.http_api import (
    DashboardView,
    DataflowView,
    DownRequest,
    DownView,
    Failure,
    RestartView,
    StartRequest,
    StopRequest,
    SystemStatus,
)
from dora.cluster.protocol import VERSION_HEADER, TemplateView
from dora.dataflow.model import Dataflow
from dora.transport.proof import Proof
from dora.wire.daemon_protocol import DataflowAnswer, DataflowRequest

_REFUSALS = {
    400: "The request is not understood",
    401: "The coordinator wants its token",
    403: "The host name or the origin is not one of those that may ask",
    404: "There is no such dataflow",
    408: "The request was not complete in time",
    409: "It does not fit to what runs, or the name fits more than one dataflow",
    413: "The request is too large",
    415: "The content type is not application/json",
    426: f"The version in the header {VERSION_HEADER} does not fit to the coordinator's",
    425: "The dataflow is still starting",
    503: "No daemon is connected that could do it",
    504: "The machine has not answered in time",
    507: "The disk of the coordinator takes no record",
}
_OF_ALL = (401, 403, 426)
_OF_BODIES = (400, 408, 413, 415)
_OF_ONE_DATAFLOW = (404, 409)


class ApiOperation(NamedTuple):
    """One operation of the API. ``refusals`` are those that its kind does not bring along."""

    method: str
    path: str
    summary: str
    body: Any = None
    answer: Any = None  # None: an empty object
    status: int = 200
    refusals: tuple[int, ...] = ()
    is_open: bool = False  # needs no token

    def statuses(self) -> list[int]:
        """Return the statuses of all refusals."""
        found = {*_OF_ALL, *self.refusals}
        if self.is_open:
            found.discard(401)
        if self.body is not None:
            found.update(_OF_BODIES)
        if "{dataflow}" in self.path:
            found.update(_OF_ONE_DATAFLOW)
        return sorted(found)


OPERATIONS: list[ApiOperation] = [
    ApiOperation(
        "get",
        "/api/proof",
        "Prove that the coordinator knows the token: an HMAC of a random number",
        None,
        Proof,
        refusals=(400,),
        is_open=True,
    ),
    ApiOperation("get", "/api/dashboard", "Return the address that logs in a browser", None, DashboardView),
    ApiOperation(
        "get",
        "/api/status",
        "Return version, daemons and number of running dataflows",
        None,
        SystemStatus,
    ),
    ApiOperation(
        "get",
        "/api/templates",
        "List the template processes from which nodes are forked",
        None,
        list[TemplateView],
    ),
    ApiOperation("get", "/api/dataflows", "List all dataflows, the oldest first", None, list[DataflowView]),
    ApiOperation(
        "post", "/api/dataflows", "Start a dataflow", StartRequest, DataflowView, 201, (409, 503, 507)
    ),
    ApiOperation(
        "delete",
        "/api/dataflows",
        "Remove the records of ended dataflows",
        None,
        list[DataflowView],
        refusals=(507,),
    ),
    ApiOperation(
        "get", "/api/dataflows/{dataflow}", "Show one dataflow and how it ended", None, DataflowView
    ),
    ApiOperation(
        "post",
        "/api/dataflows/{dataflow}/stop",
        "Stop a dataflow; answers at once",
        StopRequest,
        DataflowView,
        202,
        (503,),
    ),
    ApiOperation(
        "post",
        "/api/dataflows/{dataflow}/restart",
        "Stop a dataflow, wait for its end, and start it again",
        StopRequest,
        RestartView,
        201,
        (409, 503, 507),
    ),
    ApiOperation(
        "get",
        "/api/dataflows/{dataflow}/wait",
        "Wait until a dataflow has started or ended, for at most a minute",
        None,
        DataflowView,
        refusals=(400,),
    ),
    ApiOperation(
        "post",
        "/api/dataflows/{dataflow}/requests",
        "Ask or change a running dataflow; answers when it is done",
        DataflowRequest,
        DataflowAnswer,
        refusals=(425, 503, 504, 507),
    ),
    ApiOperation(
        "post", "/api/down", "End the daemons and the coordinator", DownRequest, DownView, refusals=(409,)
    ),
]


def document() -> dict[str, Any]:
    """Return the document."""
    types = [kind for item in OPERATIONS for kind in (item.body, item.answer) if kind is not None]
    schemas, components = msgspec.json.schema_components(
        [*types, Dataflow, Failure], ref_template="#/components/schemas/{name}"
    )
    *found, dataflow, failure = schemas
    components["RunSpec"]["properties"]["dataflow"] = dataflow  # decoded when it is started
    components["Dataflow"]["properties"]["working_dir"]["pattern"] = "^/"
    for component in list(components.values()):
        for name, schema in component.get("properties", {}).items():
            component["properties"][name] = _without_tag(schema, components)
    schema_of = iter(found)
    paths: dict[str, Any] = {}
    for item in OPERATIONS:
        operation: dict[str, Any] = {"summary": item.summary, "parameters": _parameters(item.path)}
        if item.body is not None:
            required = not _is_all_optional(item.body)
            operation["requestBody"] = {"content": _content(next(schema_of)), "required": required}
        if item.is_open:
            operation["security"] = []
        shown = _content({"type": "object"} if item.answer is None else next(schema_of))
        operation["responses"] = {str(item.status): {"description": "Done", "content": shown}}
        for status in item.statuses():
            operation["responses"][str(status)] = {
                "description": _REFUSALS[status],
                "content": _content(failure),
            }
        paths.setdefault(item.path, {})[item.method] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "dora coordinator", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def _without_tag(schema: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a field: if it can have one type only, the tag of it may be missing."""
    tagged = components.get(schema.get("$ref", "").rpartition("/")[2], {})
    if tagged.get("properties", {}).get("type", {}).keys() != {"enum"}:
        return schema
    return {**tagged, "required": [name for name in tagged["required"] if name != "type"]}


def _is_all_optional(body: Any) -> bool:
    try:
        msgspec.convert({}, type=body)
    except msgspec.ValidationError:
        return False
    return True


def _parameters(path: str) -> list[dict[str, Any]]:
    found = []
    if "{dataflow}" in path:
        name = {"type": "string", "minLength": 1, "pattern": "^[^/]+$"}
        found.append(_parameter("dataflow", "path", "UUID, the beginning of it, or name", name))
    if path.endswith("/proof"):
        nonce = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
        found.append({**_parameter("nonce", "query", "32 random bytes", nonce), "required": True})
    if path.endswith("/requests"):
        machine = "the machine to ask if the request names no node [the first]"
        found.append(_parameter("machine", "query", machine, {"type": "string"}))
    if path.endswith("/wait"):
        until = {"enum": ["started", "ended"], "default": "ended"}
        found.append(_parameter("until", "query", "started: until it runs or has ended", until))
        seconds = {"type": "number", "minimum": 0, "default": 60}
        found.append(_parameter("timeout", "query", "seconds, at most 60", seconds))
    return found


def _parameter(name: str, place: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "in": place,
        "required": place == "path",
        "description": description,
        "schema": schema,
    }


def _content(schema: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
