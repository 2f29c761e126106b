"""A recording of ten seconds, in which a node fails at the fifth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from recorded_files import write_recording

NODES = [
    {"id": "camera", "path": "camera.py", "outputs": ["image", "angle"], "parameters": {"gain": 1}},
    {
        "id": "eyes",
        "path": "eyes.py",
        "inputs": {"image": "camera/image"},
        "outputs": ["boxes", "cloud", "pose"],
    },
]
LENGTH = 10  # seconds
SIZE = {"width": 64, "height": 48, "encoding": "rgb8"}


def state(second: int) -> dict[str, Any]:
    """Return the state of the run at a second, as the recorder writes it: `eyes` fails at the fifth."""
    failed = second >= 5
    node = {
        "machine": "",
        "pid": 7,
        "counts": {},
        "cpu": 10.0 + second,
        "memory": 50_000_000,
        "sent_hz": 10.0,
    }
    node |= {"bytes_per_second": 100, "waiting": 0, "dropped": 0, "quiet": 0.1, "outputs": []}
    failure = {"number": 1, "reason": "exited with status 3"} if failed else None
    link = {"source": "camera/image", "target": "eyes/image", "hz": 10.0, "bytes_per_second": 92_160}
    link |= {"waiting": 0, "queue_size": 10, "policy": "drop_oldest", "dropped": second, "dropping_hz": 1.0}
    link |= {"counts": {}, "flags": [], "latency": None}
    return {
        "nodes": [
            {**node, "id": "camera", "status": "Running", "failure": None},
            {**node, "id": "eyes", "status": "Failed" if failed else "Running", "failure": failure},
        ],
        "links": [link],
        "paths": [],
        "networks": [],
    }


def drive(path: Path, shift: float = 0.0) -> Path:
    """Write a recording of ten seconds. ``shift`` is added to the angles of the second half."""
    messages: list[Any] = []
    for number in range(10 * LENGTH):
        seconds = number / 10
        image = np.full((48, 64, 3), (number, 100, 200), np.uint8)
        messages.append(("camera/image", seconds, image.ravel(), SIZE))
        angle = np.array([np.sin(seconds), np.cos(seconds) + (shift if seconds >= 5 else 0.0)])
        messages.append(("camera/angle", seconds, angle))
        box = {"x": 4.0, "y": 6.0, "width": 20.0, "height": 10.0, "confidence": 0.75, "label": "cat"}
        messages.append(("eyes/boxes", seconds + 0.02, pa.array([box])))
        points = np.random.default_rng(1).normal(size=300).astype(np.float32)
        messages.append(("eyes/cloud", seconds + 0.02, points, {"primitive": "points3d"}))
        pose = np.array([seconds, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0])
        messages.append(("eyes/pose", seconds + 0.02, pose, {"primitive": "pose"}))
    context = [
        *(("dora/state", second, state(second)) for second in range(LENGTH)),
        ("dora/parameters", 0, {"node": "camera", "values": {"gain": 2}}),
        ("dora/parameters", 5, {"node": "camera", "values": {"gain": 5}}),
        ("dora/mark", 5, {"kind": "failed", "node": "eyes", "text": "exited with status 3"}),
        ("dora/mark", 8, {"kind": "note", "node": None, "text": "look here"}),
    ]
    return write_recording(path, messages, dataflow={"nodes": NODES}, context=context)
