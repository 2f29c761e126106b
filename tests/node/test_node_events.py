"""Events are dictionaries for existing programs and typed objects for new ones."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dora import Error, Event, Input, InputClosed, InputRecovered, NodeFailed, NodeRestarted, Stop, Unknown
from dora.node.events import Reference, Text, Tick
from dora.wire.encode import encode
from dora.wire.message import Message, pack_head
from dora.wire.metadata import encode_metadata

KEYS = ["kind", "type", "id", "value", "metadata"]


def message(
    data: Any = b"\1\2\3", metadata: dict[str, Any] | None = None, time_ns: int = 10**18
) -> Message:
    payload = encode(data)
    section = encode_metadata(metadata) if metadata else b""
    head = pack_head(payload.encoding, payload.schema, section, payload.size, 7, time_ns)
    return Message(head + payload.to_bytes())


def an_input(data: Any = b"\1\2\3", metadata: dict[str, Any] | None = None) -> Input:
    return Input.make("image", message(data, metadata))


# ------------------------------------------------------------------ extension types

UUIDS = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0" * 16], pa.binary(16)))


@pytest.mark.parametrize(
    ("array", "storage"),
    [
        (
            pa.FixedShapeTensorArray.from_numpy_ndarray(np.zeros((2, 3), "float32")),
            pa.list_(pa.float32(), 3),
        ),
        (UUIDS, pa.binary(16)),
    ],
    ids=["tensor", "uuid"],
)
def test_the_value_of_an_extension_type_is_its_storage(array: Any, storage: pa.DataType) -> None:
    for event in (an_input(array), Input.make("image", Reference(array, {}, 1))):
        assert event["value"].type == storage
        assert event["value"].equals(array.storage)
        assert event.extension().type == array.type
        assert event.extension().equals(array)


def test_an_extension_type_inside_another_type_is_kept() -> None:
    array = pa.StructArray.from_arrays([UUIDS], ["id"])
    assert an_input(array)["value"].equals(array)


def test_a_value_without_an_extension_type_is_itself() -> None:
    event = an_input()
    assert event.extension() is event["value"]


# ------------------------------------------------------------------ a dictionary


def test_an_input_has_the_keys_that_existing_programs_use() -> None:
    event = an_input(metadata={"width": 3})
    assert event["kind"] == "dora"
    assert event["type"] == "INPUT"
    assert event["id"] == "image"
    assert event["value"].equals(pa.array([1, 2, 3], pa.uint8()))
    assert event["metadata"] == {"width": 3, "timestamp": datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC)}
    assert event["data"] == b"\1\2\3"


def test_a_missing_key_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="error"):
        an_input()["error"]
    with pytest.raises(KeyError, match="value"):
        Stop("MANUAL")["value"]


def test_get_finds_keys_that_are_made_on_demand() -> None:
    event = an_input()
    assert event.get("value") is event["value"]
    assert event.get("metadata") is event["metadata"]
    assert event.get("error") is None
    assert event.get("error", 5) == 5


def test_contains_knows_keys_that_are_made_on_demand() -> None:
    event = an_input()
    for key in (*KEYS, "data"):
        assert key in event
    assert "error" not in event


@pytest.mark.parametrize(
    "read",
    [
        lambda event: list(event),
        lambda event: list(event.keys()),
        lambda event: [key for key, _ in event.items()],
        lambda event: list(dict(event)),
        lambda event: list({**event}),
        lambda event: list((lambda **fields: fields)(**event)),
        lambda event: list(event.copy()),
        lambda event: list(event | {}),
        lambda event: list({} | event),
        lambda event: list(copy.copy(event)),
        lambda event: list(reversed(list(reversed(event)))),
        lambda event: list({}.__class__(event.items())),
    ],
)
def test_iteration_shows_the_keys_that_are_made_on_demand(read: Any) -> None:
    event = an_input()
    assert read(event) == KEYS


@pytest.mark.parametrize(
    "convert", [dict, lambda event: event.copy(), lambda event: {**event}, lambda event: event | {}]
)
def test_a_copy_has_the_values(convert: Any) -> None:
    event = an_input(metadata={"a": 1})
    converted = convert(event)
    assert converted["value"].to_pylist() == [1, 2, 3]
    assert converted["metadata"]["a"] == 1


def test_length_and_values_agree_with_the_keys() -> None:
    event = an_input()
    assert len(event) == len(KEYS)
    assert list(event.values()) == [event[key] for key in KEYS]


def test_update_setdefault_pop_and_deletion_work_as_on_a_dictionary() -> None:
    event = an_input(metadata={"a": 1})
    assert event.setdefault("value", None).to_pylist() == [1, 2, 3]
    assert event.setdefault("mine", 4) == 4
    event.update(id="renamed")
    assert event["id"] == event.id == "renamed"
    assert event.pop("mine") == 4
    assert event.pop("mine", None) is None
    assert event.pop("metadata")["a"] == 1
    del event["value"]
    event |= {"extra": 1}
    assert event["extra"] == 1


@pytest.mark.parametrize("key", ["value", "metadata"])
def test_a_removed_entry_is_gone(key: str) -> None:
    popped, deleted, cleared, taken = an_input(), an_input(), an_input(), an_input()
    popped.pop(key)
    del deleted[key]
    cleared.clear()
    while len(taken):
        taken.popitem()
    for event in (popped, deleted, cleared, taken):
        assert key not in event and key not in list(event)
        assert event.get(key) is None and event.pop(key, "nothing") == "nothing"
        with pytest.raises(KeyError):
            event[key]
        assert isinstance(event, Input) and event.type == "INPUT"
        assert event.send_time.tzinfo is not None
        assert event.numpy().tolist() == [1, 2, 3]
    assert len(popped) == len(deleted) == len(KEYS) - 1 and not cleared and not taken
    assert popped["id"] == "image"


class OwnInput(Input):
    """An input of a program, with attributes of its own."""


class SlottedInput(Input):
    __slots__ = ("own",)
    own: str


@pytest.mark.parametrize("kind", [OwnInput, SlottedInput])
def test_an_entry_of_a_programs_own_input_can_be_removed(kind: type[OwnInput] | type[SlottedInput]) -> None:
    event = kind.make("image", message())
    event.own = "kept"  # type: ignore[union-attr]
    assert event.pop("value").to_pylist() == [1, 2, 3]
    del event["metadata"]
    assert "value" not in event and list(event) == ["kind", "type", "id"]
    assert isinstance(event, kind) and event.own == "kept"
    assert event.data == b"\1\2\3" and event.numpy().tolist() == [1, 2, 3]
    given = kind({"id": "image", "value": 1})
    del given["id"]
    assert given == {"value": 1}


def test_a_value_that_was_replaced_stays_replaced() -> None:
    event = an_input()
    event["value"] = "decoded by the program"
    assert event["value"] == event.value == "decoded by the program"
    assert dict(event)["value"] == "decoded by the program"


def test_an_event_is_a_mapping() -> None:
    assert isinstance(an_input(), Mapping)
    assert isinstance(an_input(), dict)


def test_an_event_is_equal_to_the_dictionary_of_its_keys() -> None:
    event = an_input(metadata={"a": 1})
    assert event == an_input(metadata={"a": 1})
    assert event == dict(event)
    assert dict(event) == event
    assert (event != dict(event)) is False
    assert event != {**event, "id": "other"}
    assert event != "image"


def test_events_with_equal_contents_are_equal() -> None:
    event, other = an_input(metadata={"timestamp": 1}), an_input(metadata={"timestamp": 1})
    assert event == other
    other["metadata"]["timestamp"] = 2
    assert event != other


def test_a_converted_event_can_be_json() -> None:
    event = an_input(metadata={"timestamp": "2024-01-01", "nested": {"a": [1, 2.5, None]}})
    plain = {**event, "value": event["value"].to_pylist()}
    assert json.loads(json.dumps(plain)) == {
        "kind": "dora",
        "type": "INPUT",
        "id": "image",
        "value": [1, 2, 3],
        "metadata": {"timestamp": "2024-01-01", "nested": {"a": [1, 2.5, None]}},
    }
    event["value"] = event["value"].to_pylist()
    assert json.loads(json.dumps(event)) == plain


@pytest.mark.parametrize(
    "event",
    [
        InputClosed("x"),
        InputRecovered("x"),
        Stop("MANUAL"),
        Error("why"),
        NodeFailed("a", "died", ["x"]),
        NodeRestarted("a"),
        Unknown(),
    ],
)
def test_other_events_are_complete_dictionaries(event: Event) -> None:
    assert event["kind"] == "dora"
    assert json.loads(json.dumps(event)) == dict(event)
    for again in (pickle.loads(pickle.dumps(event)), copy.copy(event), copy.deepcopy(event)):
        assert again == event
        assert type(again) is type(event)


def test_the_fields_of_other_events() -> None:
    assert dict(InputClosed("x")) == {"kind": "dora", "type": "INPUT_CLOSED", "id": "x"}
    assert dict(InputRecovered("x")) == {"kind": "dora", "type": "INPUT_RECOVERED", "id": "x"}
    assert dict(Stop("MANUAL")) == {"kind": "dora", "type": "STOP", "id": "MANUAL"}
    assert dict(Error("why")) == {"kind": "dora", "type": "ERROR", "error": "why"}
    assert dict(NodeRestarted("a")) == {"kind": "dora", "type": "NODE_RESTARTED", "id": "a"}
    assert dict(Unknown()) == {"kind": "dora", "type": "UNKNOWN"}
    assert dict(NodeFailed("a", "died", ["x"])) == {
        "kind": "dora",
        "type": "NODE_FAILED",
        "id": "a",
        "value": {"source_node_id": "a", "error": "died", "affected_input_ids": ["x"]},
    }


def test_a_pickled_input_is_the_plain_dictionary() -> None:
    event = an_input(metadata={"a": 1})
    again = pickle.loads(pickle.dumps(event))
    assert type(again) is dict
    assert list(again) == KEYS
    assert again["value"].to_pylist() == [1, 2, 3]
    assert again["metadata"] == event["metadata"]


def test_a_timeout_survives_pickling() -> None:
    assert pickle.loads(pickle.dumps(Error("late", is_timeout=True))).is_timeout


# ------------------------------------------------------------------ a typed object


def test_matching_by_mapping() -> None:
    match an_input(metadata={"a": 1}):
        case {"type": "INPUT", "id": "image", "value": value, "metadata": {"a": a}, **rest}:
            assert value.to_pylist() == [1, 2, 3]
            assert a == 1
            assert rest == {"kind": "dora"}
        case _:
            pytest.fail("did not match")


def test_matching_by_class() -> None:
    match an_input(metadata={"a": 1}):
        case Input(id="other"):
            pytest.fail("matched another input")
        case Input("image", value, {"a": 1}):
            assert value.to_pylist() == [1, 2, 3]
        case _:
            pytest.fail("did not match")


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (InputClosed("x"), "closed x"),
        (InputRecovered("x"), "recovered x"),
        (Stop("MANUAL"), "stop MANUAL"),
        (Error("why"), "error why"),
        (NodeFailed("a", "died", []), "failed a: died"),
        (NodeRestarted("a"), "restarted a"),
        (Unknown(), "unknown"),
    ],
)
def test_matching_other_events_by_class(event: Event, expected: str) -> None:
    match event:
        case InputClosed(name):
            text = f"closed {name}"
        case InputRecovered(name):
            text = f"recovered {name}"
        case Stop(reason):
            text = f"stop {reason}"
        case Error(error):
            text = f"error {error}"
        case NodeFailed(name, {"error": error}):
            text = f"failed {name}: {error}"
        case NodeRestarted(name):
            text = f"restarted {name}"
        case _:
            text = "unknown"
    assert text == expected


def test_attributes() -> None:
    event = an_input(metadata={"a": 1})
    assert event.id == "image"
    assert event.type == "INPUT"
    assert event.kind == "dora"
    assert event.value is event["value"]
    assert event.metadata is event["metadata"]
    assert event.data == b"\1\2\3"
    assert event.sequence == 7
    assert event.send_time == datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC)
    assert Error("why").error == "why"
    assert not Error("why").is_timeout


def test_a_missing_attribute_is_named_in_the_error() -> None:
    with pytest.raises(AttributeError, match="an event of type STOP has no `value`"):
        Stop("MANUAL").value  # noqa: B018
    assert not hasattr(an_input(), "error")


def test_repr_shows_the_fields_of_an_event() -> None:
    assert repr(Stop("MANUAL")) == "Stop(id='MANUAL')"
    assert repr(InputClosed("x")) == "InputClosed(id='x')"
    assert repr(an_input()).startswith("Input(id='image', value=<pyarrow")


def test_a_program_can_make_inputs_for_its_own_tests() -> None:
    event = Input(kind="dora", type="INPUT", id="image", value=pa.array([1]), metadata={})
    assert event.id == "image"
    assert event["value"].to_pylist() == [1]
    assert "error" not in event
    assert event.get("error") is None
    assert event.get("data") is None
    assert len(event) == 5
    assert dict(event)["id"] == "image"
    with pytest.raises(KeyError):
        Input(id="image")["value"]
    with pytest.raises(AttributeError):
        Input(id="image").value  # noqa: B018


# ------------------------------------------------------------------ made on demand


def test_values_are_decoded_on_first_access(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise AssertionError("decoded although nobody asked")

    for name in ("decode_arrow", "decode_metadata", "decode_bytes"):
        monkeypatch.setattr(f"dora.node.events.{name}", fail)
    event = an_input(metadata={"a": 1})
    assert event["type"] == "INPUT"
    assert event["id"] == event.id == "image"
    assert "value" in event
    match event:
        case Input(id="image") | {"id": "image"}:
            pass
    event.send_time  # noqa: B018


def test_value_and_metadata_are_made_once() -> None:
    event = an_input()
    assert event["value"] is event["value"]
    event["metadata"]["added"] = 1
    assert event["metadata"]["added"] == event.metadata["added"] == 1
    assert dict(event)["metadata"]["added"] == 1


def test_the_senders_timestamp_wins() -> None:
    assert an_input(metadata={"timestamp": 12.5})["metadata"]["timestamp"] == 12.5


def test_numpy_without_a_detour_by_arrow() -> None:
    event = an_input(np.arange(4, dtype=np.float32))
    array = event.numpy()
    assert array.dtype == np.float32
    assert array.tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    assert an_input(pa.array([1, None, 3]))["value"].null_count == 1
    assert an_input(pa.array(["a", "b"])).numpy().tolist() == ["a", "b"]


def test_data_is_exactly_the_values() -> None:
    assert an_input(np.array([1, 2], dtype=np.int16)).data == b"\1\0\2\0"
    assert an_input(b"").data == b""


def test_a_timers_event() -> None:
    event = Input.make("tick", Tick(10**18))
    assert event["value"].type == pa.null()
    assert len(event["value"]) == 0
    assert list(event["metadata"]) == ["timestamp"]
    assert event["metadata"]["timestamp"].utcoffset().total_seconds() == 0
    assert event.data == b""
    assert event.sequence == 0


def test_a_text_event() -> None:
    event = Input.make("line", Text("größer", 10**18))
    assert event["value"].equals(pa.array(["größer"]))
    assert event.data == "größer".encode()


def test_each_consumer_of_a_reference_has_its_own_metadata() -> None:
    array = pa.array([1, 2], pa.uint8())
    content = Reference(array, {"a": 1}, 10**18)
    first, second = Input.make("x", content), Input.make("y", content)
    assert first["value"] is second["value"] is array
    first["metadata"]["a"] = 2
    assert second["metadata"]["a"] == 1
    assert first.data == b"\1\2"


def test_data_of_a_sliced_reference_is_the_slice() -> None:
    array = pa.array([1, 2, 3, 4], pa.uint8()).slice(1, 2)
    assert Input.make("x", Reference(array, {}, 0)).data == b"\2\3"
