"""The camera as a node."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

from dora.errors import DoraError
from dora.node.events import Stop
from dora.node.node import Node
from dora.nodes.camera.sources import CameraSettings, Frame, FrameSource, open_source
from dora.nodes.images import message_of
from dora.nodes.parameters import read_parameters

OUTPUT = "image"


def run(node: Node) -> None:
    """Send images until the source or the dataflow ends. Raises `DoraError`."""
    settings = read_parameters(CameraSettings, node.parameters)
    if OUTPUT not in node.node_config()["outputs"]:
        raise DoraError(f"the camera sends on the output `{OUTPUT}`; add it: `outputs: [{OUTPUT}]`")
    for count, frame in enumerate(_paced(open_source(settings), node), 1):
        captured = time.time() if frame.captured is None else frame.captured
        data, metadata = message_of(frame.image, settings.encoding)
        metadata["timestamp"] = datetime.fromtimestamp(captured, UTC)
        node.send_output(OUTPUT, data, metadata)
        if count == settings.frames:
            break


def _paced(source: FrameSource, node: Node) -> Iterator[Frame]:
    """Yield the frames of a source when they are due, until the node has to stop.

    The pattern leaves frames out if it is late, as a camera does; a file is sent frame by frame.
    """
    if source.rate is None:
        assert not callable(source.frames)
        for frame in source.frames:
            yield frame
            if isinstance(node.try_recv(), Stop):
                return
        return
    begin, number = time.monotonic(), 0
    while True:
        if callable(source.frames):
            number = max(number, int((time.monotonic() - begin) * source.rate))
        if _stops(node, begin + number / source.rate):
            return
        if callable(source.frames):
            yield source.frames(number)
        else:
            following = next(source.frames, None)
            if following is None:
                return
            yield following
        number += 1


def _stops(node: Node, due: float) -> bool:
    """Wait until a time of the monotonic clock; return whether the node has to stop."""
    while True:
        event = node.next(max(0.0, due - time.monotonic()))
        if event is None or isinstance(event, Stop):
            return True
        if time.monotonic() >= due:
            return False
