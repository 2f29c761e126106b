"""``dora topic info``: the form of the messages that came."""

from __future__ import annotations

from array import array
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dora.observe.describe_topic import TopicDescription
from dora.transport.board import WORDS
from dora.wire.daemon_protocol import LinkView, OutputView
from dora.wire.encode import as_message
from dora.wire.output_rules import LatchRule, SafeState


@pytest.mark.parametrize(
    ("sent", "lines"),
    [
        (np.zeros((240, 320, 3), np.uint8), ["Type         uint8", "Shape        240 × 320 × 3"]),
        (np.zeros((2, 2)), ["Type         double", "Shape        2 × 2"]),
        (np.zeros(4), ["Type         double"]),
    ],
)
def test_the_shape_of_a_numpy_array_is_shown_beside_its_type(sent: Any, lines: list[str]) -> None:
    inspection: Any = SimpleNamespace(
        nodes=[SimpleNamespace(id="camera", status="Running", machine="")], networks=[], machine=""
    )
    output = OutputView("image", slot=0)
    topic: Any = SimpleNamespace(node_id="camera", name="camera/image", links=(), output=output)
    described = TopicDescription(inspection, topic, memoryview(array("Q", [0] * WORDS)))
    described.add("camera/image", as_message(sent))
    described.add("camera/image", None)
    (result,) = described.last()
    shown: list[str] = result.text.splitlines()  # type: ignore[union-attr]
    assert [line for line in shown if line.startswith(("Type", "Shape"))] == lines


@pytest.mark.parametrize(
    ("priority", "machine", "line"),
    [
        (None, "robot", []),
        (None, "desk", ["Priority     control up to 8 KiB, normal above"]),
        ("bulk", "desk", ["Priority     bulk"]),
    ],
)
def test_the_priority_of_an_output_is_shown_where_it_matters(
    priority: Any, machine: str, line: list[str]
) -> None:
    nodes = [
        SimpleNamespace(id="camera", status="Running", machine="robot"),
        SimpleNamespace(id="plot", status="Running", machine=machine),
    ]
    inspection: Any = SimpleNamespace(nodes=nodes, networks=[], machine="robot")
    output = OutputView("image", slot=0, priority=priority)
    links = (LinkView(1, 0, "camera/image", "plot/image", kind="text"),)
    topic: Any = SimpleNamespace(node_id="camera", name="camera/image", links=links, output=output)
    described = TopicDescription(inspection, topic, memoryview(array("Q", [0] * 2 * WORDS)))
    (result,) = described.last()
    shown: list[str] = result.text.splitlines()  # type: ignore[union-attr]
    assert [each for each in shown if each.startswith("Priority")] == line


def test_the_rules_of_an_output_are_shown_in_words() -> None:
    inspection: Any = SimpleNamespace(
        nodes=[SimpleNamespace(id="arm", status="Running", machine="")], networks=[], machine=""
    )
    safe = SafeState((0, 0.5), "float32", ("failed", "silent"), silence_ns=100_000_000)
    output = OutputView("pose", slot=0, latched=LatchRule(3, survive_restart=True), safe_state=safe)
    topic: Any = SimpleNamespace(node_id="arm", name="arm/pose", links=(), output=output)
    described = TopicDescription(inspection, topic, memoryview(array("Q", [0] * WORDS)))
    (result,) = described.last()
    shown: list[str] = result.text.splitlines()  # type: ignore[union-attr]
    assert "Latched      the newest 3 messages, also after a restart" in shown
    assert "Safe state   [0, 0.5] (float32) when failed, silent for 100ms" in shown
