"""An episode of a data set as a node: messages at the times at which they were captured."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from dora.dataflow.problems import did_you_mean, listed
from dora.errors import DoraError
from dora.node.events import Stop
from dora.node.node import Node
from dora.nodes.images import message_of
from dora.nodes.lerobot.episode import Episode, Item
from dora.nodes.lerobot.layout import feature_name
from dora.nodes.parameters import WrongParameter, read_parameters

Positive = Annotated[float, Meta(gt=0)]


class ReplaySettings(msgspec.Struct, frozen=True):
    """``features`` names the feature of an output, as for the recorder. ``speed`` 2.0 is twice as fast."""

    dataset: str = "out/dataset"
    episode: Annotated[int, Meta(ge=0)] = 0
    speed: Positive = 1.0
    encoding: Literal["bgr8", "rgb8", "jpeg"] = "bgr8"
    features: dict[str, str] = {}


def run(node: Node) -> None:
    """Send the episode. Raises `DoraError`."""
    settings = read_parameters(ReplaySettings, node.parameters)
    episode = Episode(Path(settings.dataset), settings.episode)
    chosen = _features(settings, node.node_config()["outputs"], episode)
    sender = _Sender(node, settings)
    items = heapq.merge(*(_of_output(output, episode, name) for output, name in chosen.items()))
    for at, output, item in items:
        if not sender.send(at, output, item):
            break


def _of_output(output: str, episode: Episode, name: str) -> Iterator[tuple[float, str, Item]]:
    return ((item.time, output, item) for item in episode.items(name))


def _features(settings: ReplaySettings, outputs: list[str], episode: Episode) -> dict[str, str]:
    """Return the feature of each output."""
    chosen = {}
    for output in outputs:
        names = [settings.features.get(output, "")]
        if not names[0]:
            names = [feature_name(output, image=image) for image in (True, False)]
        found = [name for name in names if name in episode.sources]
        if not found:
            hint = did_you_mean(names[-1], episode.sources) or f"it has {listed(episode.sources)}"
            raise WrongParameter(
                f"output `{output}`: the data set {settings.dataset} has no `{names[-1]}`; {hint}"
            )
        chosen[output] = found[0]
    if not chosen:
        raise DoraError("the node has no output to send on; the episode has " + listed(episode.sources))
    return chosen


class _Sender:
    """Sends each item when it is due. The stamps have the distances of the recording, divided by the
    speed.
    """

    def __init__(self, node: Node, settings: ReplaySettings) -> None:
        self._node, self._speed, self._encoding = node, settings.speed, settings.encoding
        self._first: float | None = None

    def send(self, at: float, output: str, item: Item) -> bool:
        """Send an item; return False if the node has to stop."""
        data: Any = item.numbers
        metadata: dict[str, Any] = {}
        if item.frame is not None:
            data, metadata = message_of(item.frame, self._encoding)
        if self._first is None:
            self._first, self._begin, self._stamp = at, time.monotonic(), datetime.now(UTC)
        after = (at - self._first) / self._speed
        if not self._wait(self._begin + after):
            return False
        metadata["timestamp"] = self._stamp + timedelta(seconds=after)
        self._node.send_output(output, data, metadata)
        return True

    def _wait(self, due: float) -> bool:
        while True:
            event = self._node.next(max(0.0, due - time.monotonic()))
            if event is None or isinstance(event, Stop):
                return False
            if time.monotonic() >= due:
                return True
