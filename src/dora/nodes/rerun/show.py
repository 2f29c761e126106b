"""The viewer node: shows all messages, and reports inputs that it cannot show."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime

import rerun as rr

from dora.node.events import Input
from dora.node.node import Node
from dora.nodes.rerun.drawing import DRAWERS, Drawing
from dora.nodes.rerun.robot import Robots
from dora.nodes.rerun.settings import ViewerSettings
from dora.nodes.rerun.sink import CannotShow, open_sink
from dora.observe.preview.drawable import (
    DEFAULT_SIZE,
    DrawableMessage,
    NotDrawable,
    UnknownPrimitive,
    primitive_of,
)

APPLICATION = "dora-rerun"
TIMELINE = "timestamp"

log = logging.getLogger("dora.nodes.rerun")


class Canvas:
    """Draws messages into a recording, each on the timeline ``timestamp`` at the time it was sent."""

    def __init__(self, recording: rr.RecordingStream, settings: ViewerSettings) -> None:
        """Draw the robots of the settings; raises `SettingError`."""
        self._recording = recording
        self._size = settings.image_size or DEFAULT_SIZE
        robots = Robots(settings.robots, recording)
        self._drawers: Mapping[str, Callable[[DrawableMessage], Iterable[Drawing]]] = {
            **DRAWERS,
            "jointstate": robots.draw,
        }
        self.not_drawn: dict[str, int] = {}
        if settings.readme:
            document = rr.TextDocument(settings.readme, media_type=rr.MediaType.MARKDOWN)
            recording.log("README", document, static=True)

    def draw(self, event: Input) -> None:
        """Draw a message. Count one that cannot be drawn, and warn about the first of each input."""
        metadata = event.metadata
        try:
            drawer = self._drawers[primitive_of(event.id, metadata)]
            sent = metadata.get("timestamp")
            if isinstance(sent, datetime):
                self._recording.set_time(TIMELINE, timestamp=sent)
            for entity, archetypes in drawer(DrawableMessage(event.id, event.value, metadata, self._size)):
                self._recording.log(entity, *archetypes)
        except (UnknownPrimitive, NotDrawable) as fault:
            self._not_drawn(event.id, str(fault))
        except Exception as error:  # noqa: BLE001 - a picture is never worth the end of a dataflow
            self._not_drawn(event.id, f"{type(error).__name__}: {error}")

    def _not_drawn(self, input_id: str, reason: str) -> None:
        before = self.not_drawn.get(input_id, 0)
        self.not_drawn[input_id] = before + 1
        if not before:
            log.warning("input `%s` cannot be shown: %s", input_id, reason)


def run(settings: ViewerSettings, node_id: str | None = None) -> None:
    """Show what a node's inputs bring until the dataflow ends; ``node_id`` joins as a dynamic node.

    Raises `SettingError`, and what `Node` raises. Where nothing can be shown at all, that is logged and
    the inputs are read nevertheless: nobody has to wait for a picture.
    """
    rr.set_strict_mode(True)  # raise instead of warning
    recording = rr.RecordingStream(APPLICATION)
    canvas = Canvas(recording, settings)  # before the node is ready, while the others wait for it
    with Node(node_id) as node:
        for warning in settings.warnings:
            log.warning(warning)
        try:
            sink = open_sink(recording, settings, node.dataflow_id())
        except CannotShow as reason:
            log.error("%s; nothing is shown", reason)
            for _ in node:
                pass
            return
        log.info(str(sink))
        for event in node:
            if isinstance(event, Input):
                canvas.draw(event)
        for input_id, count in canvas.not_drawn.items():
            log.warning("input `%s`: %d messages were not shown", input_id, count)
        trouble = sink.finish(recording)
        if trouble:
            log.warning("the last messages may be missing: %s", trouble)
    if trouble:
        # Rerun would try to reach the viewer for another ten seconds.
        sys.stdout.flush()
        os._exit(0)
