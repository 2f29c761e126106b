"""What the node and the operator of random dataflows share: payloads, the log, digests of values."""

import datetime
import hashlib
import json
import os

import pyarrow as pa

PLAN = json.loads(os.environ["PLAN"])
NAME = PLAN["name"]


class Log:
    """One line of JSON per event, in a file of this process."""

    def __init__(self, incarnation):
        folder = os.environ["RECORDS"]
        self._file = open(f"{folder}/{NAME}~{incarnation}.jsonl", "a")  # noqa: SIM115

    def write(self, what, **fields):
        print(json.dumps({"what": what, **fields}), file=self._file, flush=True)

    def event(self, event):
        kind = event["type"]
        if kind == "INPUT" and event["id"] == "tick":
            self.write("tick", type=str(event["value"].type), metadata=sorted(event["metadata"]))
        elif kind == "INPUT":
            self.message(event)
        elif kind == "ERROR":
            self.write("error", text=event["error"])
        elif kind == "NODE_FAILED":
            self.write("failed", id=event["id"], inputs=sorted(event["value"]["affected_input_ids"]))
        else:
            self.write(kind.lower(), id=event.get("id"))

    def message(self, event):
        if (identity := identify(event)) is None:
            return
        metadata = {k: v for k, v in event["metadata"].items() if k not in ("timestamp", "path", "number")}
        path, number = identity
        value = digest(event["value"])
        self.write("input", id=event["id"], path=path, number=number, value=value, metadata=metadata)


def identify(event):
    """Return path and number of a message, or None for a printed line that the plan does not know."""
    metadata = event["metadata"]
    if "path" in metadata:
        return metadata["path"], metadata["number"]
    word, _, number = event["value"][0].as_py().partition(" ")
    return ("printed", int(number)) if word == "line" else None


def forward(event, send_output, log):
    """Send a message on, with its metadata and a longer path, when the plan says so."""
    output = PLAN.get("forwards", {}).get(event["id"])
    if output is None or (identity := identify(event)) is None:
        return
    metadata = {key: value for key, value in event["metadata"].items() if key != "timestamp"}
    path, number = f"{identity[0]}>{NAME}.{event['id']}", identity[1]
    send_output(output, event["value"], {**metadata, "path": path, "number": number})
    log.write("sent", path=path, number=number)


def digest(value):
    content = f"{value.type} {value.to_pylist()!r}"
    return f"{value.type}, {len(value)}, {hashlib.sha1(content.encode()).hexdigest()[:12]}"


def payload(kind, number):
    if kind == "int64":
        return pa.array([number, -number])
    if kind == "bytes":
        return f"message {number}".encode()
    if kind == "floats":
        return pa.array([number / 3, 0.5], pa.float32())
    if kind == "texts":
        return pa.array([f"text {number}", "ä", ""])
    if kind == "struct":
        return pa.array([{"x": number, "name": "a", "parts": [1.5, None]}, None])
    if kind == "lists":
        return pa.array([[number], [], None, [1, 2]], pa.list_(pa.int32()))
    if kind == "nulls":
        return pa.nulls(number % 4)
    if kind == "slice":
        return pa.array(range(number, number + 20)).slice(3, 5)
    if kind == "dictionary":
        return pa.array(["a", "b", "a", str(number)]).dictionary_encode()
    if kind == "truths":
        return pa.array([True, None, number % 2 == 0])
    if kind == "empty":
        return pa.array([], pa.int16())
    if kind == "moments":
        return pa.array([datetime.datetime(2024, 1, 1, second=number % 60)], pa.timestamp("us", tz="UTC"))
    if kind == "batch":
        return pa.record_batch({"a": [number, 2], "b": ["x", None]})
    return pa.array(bytes([number % 256]) * 20_000, pa.uint8())
