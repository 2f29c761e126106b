"""Arrays and metadata as JSON, in the form that dora-rs writes."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dora.node.json_format import (
    array_from_json,
    array_to_json,
    metadata_from_json,
    metadata_to_json,
    type_from_json,
    type_to_json,
)

UTC = dt.UTC
FIELD = {"nullable": True, "dict_id": 0, "dict_is_ordered": False, "metadata": {}}

# What dora-rs 1.1 writes for these arrays.
UPSTREAM = [
    (pa.array([1, 2, 3]), [1, 2, 3], "Int64"),
    (pa.array([1.5, None]), [1.5, None], "Float64"),
    (pa.array(["a", None]), ["a", None], "Utf8"),
    (pa.array([True, False]), [True, False], "Boolean"),
    (pa.array(list(b"bytes"), pa.uint8()), [98, 121, 116, 101, 115], "UInt8"),
    (pa.nulls(2), [None, None], "Null"),
    (
        pa.array([{"x": 1, "y": [1, 2]}]),
        [{"x": 1, "y": [1, 2]}],
        {
            "Struct": [
                {"name": "x", "data_type": "Int64", **FIELD},
                {
                    "name": "y",
                    "data_type": {"List": {"name": "item", "data_type": "Int64", **FIELD}},
                    **FIELD,
                },
            ]
        },
    ),
    (pa.array(["a", "b", "a"]).dictionary_encode(), ["a", "b", "a"], {"Dictionary": ["Int32", "Utf8"]}),
    (pa.array([dt.datetime(2024, 1, 1)]), ["2024-01-01T00:00:00"], {"Timestamp": ["Microsecond", None]}),
    (pa.array([b"xx"]), ["7878"], "Binary"),
    (
        pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2)),
        [[1.0, 2.0]],
        {"FixedSizeList": [{"name": "item", "data_type": "Float32", **FIELD}, 2]},
    ),
    (pa.array([dt.timedelta(seconds=1)]), ["PT1S"], {"Duration": "Microsecond"}),
    (pa.array([2**60], pa.uint64()), [2**60], "UInt64"),
    (pa.array([dt.date(2024, 1, 2)]), ["2024-01-02"], "Date32"),
    (pa.array(["x"], pa.large_string()), ["x"], "LargeUtf8"),
]


@pytest.mark.parametrize(("array", "data", "form"), UPSTREAM, ids=[str(row[0].type) for row in UPSTREAM])
def test_the_form_of_dora_rs(array: Any, data: Any, form: Any) -> None:
    assert array_to_json(array) == data
    assert type_to_json(array.type) == form
    back = array_from_json(json.loads(json.dumps(data)), form)
    assert back.type == array.type
    assert back.to_pylist() == array.to_pylist()


NESTED = pa.list_(pa.struct([("t", pa.timestamp("ns"))]))
OTHERS = [
    pa.array([dt.datetime(2024, 1, 1, 12, 30, 1, 250_000, UTC)], pa.timestamp("us", "UTC")),
    pa.array([1_704_067_200_123_456_000], pa.timestamp("ns")),
    pa.array([dt.time(1, 2, 3)], pa.time64("us")),
    pa.array([dt.timedelta(days=-20, microseconds=1)]),
    pa.array([dt.timedelta(seconds=-1.5)]),
    pa.array([b"abcd"], pa.binary(4)),
    pa.array([["a"], None, []], pa.large_list(pa.string())),
    pa.array([1.5], pa.float32()),
    pa.array(["1.25"]).cast(pa.decimal128(5, 2)),
    pa.array([{"a": None}, None], pa.struct([pa.field("a", pa.int8())])),
    pa.array([float("inf"), 1.0]),
    pa.array([[{"t": 1_704_067_200_123_456_000}, None]], NESTED),
]


@pytest.mark.parametrize("array", OTHERS, ids=str)
def test_recorded_arrays_are_read_back_unchanged(array: Any) -> None:
    form = json.loads(json.dumps([array_to_json(array), type_to_json(array.type)]))
    back = array_from_json(*form)
    assert back.type == array.type
    assert back.equals(array)


@pytest.mark.parametrize("inner", [pa.timestamp("ns"), pa.duration("ns"), pa.time64("ns")], ids=str)
def test_nanoseconds_are_cut_wherever_they_are(inner: Any) -> None:
    (expected,) = array_to_json(pa.array([1000], inner))
    array = pa.array([1001, None], inner)
    assert array_to_json(array) == array_to_json(array.dictionary_encode()) == [expected, None]
    for type_, value, seen in (
        (pa.struct([("t", inner)]), {"t": 1001}, {"t": expected}),
        (pa.list_(inner), [1001], [expected]),
        (pa.large_list(inner), [1001], [expected]),
        (pa.list_(inner, 1), [1001], [expected]),
    ):
        assert array_to_json(pa.array([value, None], type_)) == [seen, None]


def test_a_type_is_inferred_and_a_single_value_is_a_list_of_one() -> None:
    assert array_from_json([1, 2]).type == pa.int64()
    assert array_from_json("text").to_pylist() == ["text"]
    assert array_from_json({"x": 1, "y": [1.5]}).to_pylist() == [{"x": 1, "y": [1.5]}]
    assert array_from_json(None).type == pa.null()


@pytest.mark.parametrize(
    ("data", "form", "message"),
    [
        ([1], "Int65", "not the name of an Arrow type"),
        (["x"], "Int8", "does not fit"),
        ([1], {"Timestamp": ["Week", None]}, "does not fit"),
        ([1], {"Struct": [{}]}, "does not fit"),
        ([300], "UInt8", "does not fit"),
        (["a week"], {"Duration": "Second"}, "not a duration"),
        ([1], 7, "not an Arrow type"),
    ],
)
def test_malformed_recorded_data_is_an_error(data: Any, form: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        array_from_json(data, form)


def test_types_without_a_form_are_an_error() -> None:
    with pytest.raises(ValueError, match="has no form"):
        type_to_json(pa.month_day_nano_interval())
    assert type_from_json({"Time32": "Second"}) == pa.time32("s")


METADATA = st.dictionaries(
    st.text(),
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False),
        st.text(),
        st.binary(),
        st.lists(st.integers()),
        st.lists(st.floats(allow_nan=False)),
        st.lists(st.text()),
        st.lists(st.one_of(st.integers(), st.text(), st.booleans())),
        st.dictionaries(st.text(), st.integers()),
        st.datetimes(timezones=st.just(UTC)),
    ),
)


UUIDS = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([bytes(16)], pa.binary(16)))


def test_nested_metadata_is_read_back_unchanged() -> None:
    moment = dt.datetime(2024, 1, 1, tzinfo=UTC)
    metadata = {
        "raw": {"a": b"x", "b": [moment, {"c": float("inf")}, None, [1, 2]]},
        "mixed": [b"y", "z", 1],
    }
    form = json.loads(json.dumps(metadata_to_json(metadata), allow_nan=False))
    assert metadata_from_json(form) == metadata


@pytest.mark.parametrize(
    ("array", "storage"),
    [
        (pa.array([b"\x00\xff", None], pa.binary_view()), None),
        (pa.array([{"x": b"\x00\xff"}], pa.struct([("x", pa.dictionary(pa.int32(), pa.binary()))])), None),
        (pa.StructArray.from_arrays([UUIDS], ["x"]), pa.StructArray.from_arrays([UUIDS.storage], ["x"])),
        (pa.ListArray.from_arrays([0, 1], UUIDS), pa.ListArray.from_arrays([0, 1], UUIDS.storage)),
    ],
    ids=["binary_view", "dictionary_in_struct", "uuid_in_struct", "uuid_in_list"],
)
def test_bytes_are_read_back_wherever_they_are(array: Any, storage: Any) -> None:
    form = json.loads(json.dumps([array_to_json(array), type_to_json(array.type)]))
    assert array_from_json(*form).equals(array if storage is None else storage)


@pytest.mark.lengthy
@given(METADATA)
def test_metadata_is_read_back_unchanged(metadata: dict[str, Any]) -> None:
    form = json.loads(json.dumps(metadata_to_json(metadata), allow_nan=False))
    assert metadata_from_json(form) == metadata


def test_metadata_has_the_tags_of_dora_rs() -> None:
    moment = dt.datetime(2024, 1, 1, tzinfo=UTC)
    values = {"i": 3, "f": 1.5, "s": "x", "b": True, "l": [1], "lf": [1.0], "ls": ["q"], "t": moment}
    form = {
        "i": {"Integer": 3},
        "f": {"Float": 1.5},
        "s": {"String": "x"},
        "b": {"Bool": True},
        "l": {"ListInt": [1]},
        "lf": {"ListFloat": [1.0]},
        "ls": {"ListString": ["q"]},
        "t": {"Timestamp": "2024-01-01T00:00:00Z"},
    }
    assert metadata_to_json(values) == form
    assert metadata_from_json(form) == values
    with pytest.raises(ValueError, match="`i` has the unknown type `Bogus`"):
        metadata_from_json({"i": {"Bogus": 3}})
