"""`MockNode`, as code written for dora-rs uses it."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import dora
from dora import Input, Stop, Synced
from dora.testing import MockNode


def test_inputs_become_plain_events_and_a_stop_follows() -> None:
    value = pa.array([1])
    node = MockNode([("a", value), ("b", [1, 2])], metadata={"k": 1})
    assert node.next() == {"type": "INPUT", "id": "a", "value": value, "metadata": {"k": 1}}
    assert not node.is_empty()
    assert node.try_recv() == {"type": "INPUT", "id": "b", "value": [1, 2], "metadata": {"k": 1}}
    assert node.next(timeout=1) == {"type": "STOP", "id": "ALL_INPUTS_CLOSED"}
    assert (node.next(), node.try_recv(), node.is_empty(), node.drain()) == (None, None, True, [])


def test_an_input_may_have_metadata_of_its_own_as_with_run_node() -> None:
    node = MockNode([("a", 1, {"n": 7}), ("b", 2)], metadata={"n": 1, "k": 2})
    assert [event["metadata"] for event in node.drain()[:2]] == [{"n": 7, "k": 2}, {"n": 1, "k": 2}]


def test_events_are_typed_as_real_ones_are() -> None:
    node = MockNode([("image", pa.array([1, 2], pa.uint8()))])
    match node.next():
        case Input(id="image") as event:
            assert event.value.to_pylist() == [1, 2]
            assert event.data == b"\x01\x02"
            np.testing.assert_array_equal(event.numpy(), [1, 2])
            assert event["kind"] == "dora"
        case other:
            raise AssertionError(other)
    assert isinstance(node.next(), Stop)


def test_given_arrays_keep_their_shape() -> None:
    frame = np.zeros((2, 4, 3), np.uint8)
    flat = {"type": "INPUT", "id": "flat", "value": frame.reshape(-1), "metadata": {"shape": [2, 4, 3]}}
    for event in MockNode([("image", frame), flat]):
        if isinstance(event, Input):
            assert event.numpy().shape == (2, 4, 3)


def test_inputs_have_the_metadata_of_their_arrays() -> None:
    frame = np.zeros((4, 6, 3), np.uint8)
    picture = {"shape": [4, 6, 3], "width": 6, "height": 4, "encoding": "bgr8"}
    whole = {"type": "INPUT", "id": "whole", "value": frame, "metadata": {}}
    both = {"type": "SYNC", "inputs": {"left": frame, "right": whole}}
    node = MockNode([("image", frame), both, whole], {"mine": 1}, service_responses={"ask": [frame]})
    request_id = node.send_service_request("ask", 1)
    image, pair, unchanged, answer, _ = node
    assert image["metadata"] == picture | {"mine": 1}
    assert pair.message("left")["metadata"] == picture
    assert pair.message("right") == unchanged == whole
    assert answer["metadata"] == picture | {"request_id": request_id}


def test_entries_of_an_event_can_be_removed() -> None:
    first, second, _ = MockNode([("a", 1), ("b", pa.array([2], pa.uint8()))])
    assert first.pop("value") == 1 and first == {"type": "INPUT", "id": "a", "metadata": {}}
    del second["id"]
    assert "id" not in second and second["kind"] == "dora" and second.data == b"\2"
    assert isinstance(second, Input)


def test_given_events_are_returned_unchanged() -> None:
    events: list[Any] = [
        {"type": "INPUT", "id": "x", "value": 1, "metadata": {}},
        {"type": "STOP", "id": "MANUAL"},
        {"type": "SOMETHING", "id": "y"},
    ]
    assert list(MockNode(events)) == events


def test_sent_messages_and_logs_are_recorded() -> None:
    node = MockNode([])
    node.send_output("o", 1, {"q": 2})
    node.send_output("o", b"x")
    node.log("info", "m", "t", {"a": "b"})
    node.log_warn("w")
    assert node.outputs == {"o": [1, b"x"]}
    assert node.logs == [
        {"level": "info", "message": "m", "target": "t", "fields": {"a": "b"}},
        {"level": "warn", "message": "w", "target": None, "fields": {}},
    ]


def test_services_are_answered_before_the_stop() -> None:
    node = MockNode([("a", 1)], service_responses={"req": ["first", "second"]})
    ids = [node.send_service_request("req", number, {"z": 1}) for number in range(3)]
    assert len(set(ids)) == 3
    assert node.service_requests[0] == {
        "output_id": "req",
        "data": 0,
        "metadata": {"z": 1},
        "request_id": ids[0],
    }
    events = node.drain()
    assert [event["type"] for event in events] == ["INPUT", "INPUT", "INPUT", "STOP"]
    assert events[1] == {
        "type": "INPUT",
        "id": "req",
        "value": "first",
        "metadata": {"request_id": ids[0]},
    }
    node.send_service_response("s", 1, {"request_id": "x"})
    assert node.service_responses_sent == [
        {"output_id": "s", "data": 1, "metadata": {"request_id": "x"}, "request_id": "x"}
    ]


def test_a_mock_node_returns_the_given_information() -> None:
    node = MockNode(
        [],
        dataflow_descriptor={"nodes": []},
        dataflow_id="id",
        node_config={"inputs": {}},
        is_restart=True,
        restart_count=2,
    )
    assert node.dataflow_descriptor() == {"nodes": []}
    assert node.dataflow_id() == "id"
    assert node.node_config() == {"inputs": {}}
    assert node.is_restart()
    assert node.restart_count() == 2
    assert node.timestamp().tzinfo is not None


def test_asyncio() -> None:
    async def main() -> list[str]:
        node = MockNode([("a", 1), ("b", 2)])
        first = await node.recv_async(timeout=1)
        return [first["id"]] + [event["id"] async for event in node]

    assert asyncio.run(main()) == ["a", "b", "ALL_INPUTS_CLOSED"]


def test_a_mock_node_refuses_methods_that_need_a_dataflow() -> None:
    with pytest.raises(NotImplementedError):
        MockNode([]).send_output_raw("o", 3)
    with pytest.raises(NotImplementedError):
        MockNode([]).merge_external_events(None)


def test_a_missing_response_is_named() -> None:
    with pytest.raises(AttributeError, match="no `loan`, which needs a dataflow; use"):
        MockNode([]).loan("image", 3)
    with pytest.raises(AttributeError, match="a node has no `sendd`"):
        MockNode([]).sendd("o", 1)


def test_a_mock_node_has_the_signatures_of_a_node() -> None:
    for name, method in inspect.getmembers(MockNode, inspect.isfunction):
        real = getattr(dora.Node, name, None)
        if real is not None and not name.startswith("__"):
            assert list(inspect.signature(method).parameters) == list(inspect.signature(real).parameters)


def test_the_module_is_an_attribute_like_in_dora_rs() -> None:
    assert dora.testing.MockNode is MockNode


def test_a_set_is_given_as_events_or_as_values() -> None:
    node = MockNode(
        [
            {"type": "SYNC", "inputs": {"left": 1, "arm": [2, {"value": 3, "metadata": {"a": 1}}]}},
            {"type": "SYNC", "inputs": {"left": 1, "arm": []}},
        ]
    )
    first, second, stop = node.drain()
    assert isinstance(first, Synced)
    assert (first["id"], first["complete"], first["missing"]) == ("left", True, [])
    assert first.message("left")["value"] == 1
    assert isinstance(first["inputs"]["left"], Input)
    assert [item["value"] for item in first.history("arm")] == [2, 3]
    assert first.message("arm")["metadata"] == {"a": 1}
    assert (second["complete"], second["missing"]) == (False, ["arm"])
    assert stop["type"] == "STOP"
