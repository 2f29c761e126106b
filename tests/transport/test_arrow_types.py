"""Every Arrow type goes from `encode` through every engine to `decode_arrow` and is what it was."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from linking import Bench

from dora.wire.decode import decode_arrow
from dora.wire.encode import encode
from dora.wire.message import Encoding

MOMENT = datetime.datetime(2024, 2, 29, 12, 30, 15, 123456)
DAY = datetime.date(2024, 2, 29)


class Celsius(pa.ExtensionType):  # type: ignore[misc]
    """A registered extension type with a parameter."""

    def __init__(self, unit: str = "C") -> None:
        self.unit = unit
        super().__init__(pa.float32(), "dora.test.celsius")

    def __arrow_ext_serialize__(self) -> bytes:
        return self.unit.encode()

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> Celsius:
        return cls(serialized.decode())


@pytest.fixture(autouse=True, scope="module")
def _registered() -> Any:
    pa.register_extension_type(Celsius())
    yield
    pa.unregister_extension_type("dora.test.celsius")


def _many(values: list[Any], type_: pa.DataType) -> pa.Array:
    return pa.array((values * 2000)[:5000], type_)


INTEGERS = [
    pa.int8(),
    pa.uint8(),
    pa.int16(),
    pa.uint16(),
    pa.int32(),
    pa.uint32(),
    pa.int64(),
    pa.uint64(),
]
FLOATS = [pa.float16(), pa.float32(), pa.float64()]

ARRAYS: dict[str, Callable[[], pa.Array]] = {
    **{str(type_): lambda type_=type_: pa.array([0, 1, 127], type_) for type_ in INTEGERS},
    **{str(type_): lambda type_=type_: pa.array(np.arange(3), type_) for type_ in FLOATS},
    **{f"{type_} with nulls": lambda type_=type_: pa.array([1, None, 3], type_) for type_ in INTEGERS},
    "null": lambda: pa.nulls(3),
    "no nulls at all": lambda: pa.nulls(0),
    "bool": lambda: pa.array([True, False, True] * 7),
    "bool with nulls": lambda: pa.array([True, None, False]),
    "string": lambda: pa.array(["", "a", "žluťoučký kůň 🐎"]),
    "string with nulls": lambda: pa.array(["a", None, "b"]),
    "large_string": lambda: pa.array(["a", "bc"], pa.large_string()),
    "string_view": lambda: pa.array(["a", "longer than twelve bytes", None], pa.string_view()),
    "binary": lambda: pa.array([b"", b"\x00\xff", None]),
    "large_binary": lambda: pa.array([b"abc"], pa.large_binary()),
    "fixed_size_binary": lambda: pa.array([b"abcd", None, b"efgh"], pa.binary(4)),
    "date32": lambda: pa.array([DAY, None]),
    "date64": lambda: pa.array([DAY], pa.date64()),
    "time32": lambda: pa.array([MOMENT.time().replace(microsecond=0)], pa.time32("s")),
    "time64": lambda: pa.array([MOMENT.time()], pa.time64("us")),
    **{
        f"timestamp {unit}": lambda unit=unit: pa.array([1000, 2000, None], pa.timestamp(unit))
        for unit in ("s", "ms", "us", "ns")
    },
    "timestamp with a zone": lambda: pa.array([1, None], pa.timestamp("us", "Europe/Prague")),
    "duration": lambda: pa.array([datetime.timedelta(seconds=5)], pa.duration("ns")),
    "interval": lambda: pa.array([pa.MonthDayNano([1, 2, 3]), None]),
    "decimal128": lambda: pa.array([decimal.Decimal("123.45"), None], pa.decimal128(10, 2)),
    "decimal256": lambda: pa.array([decimal.Decimal("1" * 50)], pa.decimal256(60, 0)),
    "list": lambda: pa.array([[1, 2], [], None, [3]], pa.list_(pa.int16())),
    "large_list": lambda: pa.array([[1.5], None], pa.large_list(pa.float32())),
    "fixed_size_list": lambda: pa.array([[1, 2, 3], [4, 5, 6]], pa.list_(pa.uint8(), 3)),
    "list of lists": lambda: pa.array([[["a"], []], None, [[None, "b"]]]),
    "struct": lambda: pa.array([{"x": 1, "y": "a"}, {"x": None, "y": "b"}, None]),
    "struct without fields": lambda: pa.array([{}, {}], pa.struct([])),
    "struct of structs": lambda: pa.array([{"box": {"corner": [1.0, 2.0]}, "label": "cat"}]),
    "map": lambda: pa.array([[("a", 1)], [], None], pa.map_(pa.string(), pa.int64())),
    "dense union": lambda: pa.UnionArray.from_dense(
        pa.array([0, 1, 0], pa.int8()),
        pa.array([0, 0, 1], pa.int32()),
        [pa.array([1, 2]), pa.array(["a"])],
    ),
    "sparse union": lambda: pa.UnionArray.from_sparse(
        pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array(["a", "b"])]
    ),
    "dictionary": lambda: pa.array(["a", "b", "a", None]).dictionary_encode(),
    "ordered dictionary": lambda: pa.DictionaryArray.from_arrays(
        pa.array([1, 0], pa.int8()), pa.array(["low", "high"]), ordered=True
    ),
    "list of dictionaries": lambda: pa.ListArray.from_arrays(
        [0, 2, 3], pa.array(["a", "b", "a"]).dictionary_encode()
    ),
    "run_end_encoded": lambda: pa.RunEndEncodedArray.from_arrays([2, 5], ["a", "b"]),
    "extension": lambda: pa.ExtensionArray.from_storage(
        Celsius("K"), pa.array([273.15, 0.0], pa.float32())
    ),
    "extension with nulls": lambda: pa.ExtensionArray.from_storage(
        Celsius(), pa.array([1.0, None], pa.float32())
    ),
    "struct of extensions": lambda: pa.StructArray.from_arrays(
        [pa.ExtensionArray.from_storage(Celsius(), pa.array([1.0], pa.float32()))], ["t"]
    ),
    "field metadata": lambda: pa.array(
        [{"x": 1}], pa.struct([pa.field("x", pa.int8(), metadata={"unit": "m"})])
    ),
    "other field metadata": lambda: pa.array(
        [{"x": 1}], pa.struct([pa.field("x", pa.int8(), metadata={"unit": "km"})])
    ),
    "empty int64": lambda: pa.array([], pa.int64()),
    "empty string": lambda: pa.array([], pa.string()),
    "empty list": lambda: pa.array([], pa.list_(pa.struct([("x", pa.int8())]))),
    "empty dictionary": lambda: pa.array([], pa.dictionary(pa.int8(), pa.string())),
    "only nulls": lambda: pa.array([None, None], pa.float64()),
    "sliced": lambda: pa.array(range(100), pa.int32()).slice(13, 7),
    "sliced with nulls": lambda: pa.array([1, None] * 50).slice(13, 7),
    "sliced past the nulls": lambda: pa.array([None, 1, 2, 3]).slice(1),
    "sliced bool": lambda: pa.array([True, False, False] * 20).slice(5, 11),
    "sliced string": lambda: pa.array(["one", "two", None, "four"]).slice(1, 2),
    "sliced list": lambda: pa.array([[1], [2, 3], [4, 5, 6]]).slice(1),
    "sliced struct": lambda: pa.array([{"x": i, "y": [i]} for i in range(20)]).slice(3, 5),
    "sliced fixed_size_list": lambda: pa.array([[i, i] for i in range(9)], pa.list_(pa.int8(), 2)).slice(4),
    "sliced dictionary": lambda: pa.array(["a", "b", "c"] * 5).dictionary_encode().slice(4, 6),
    "sliced to nothing": lambda: pa.array([1, 2, 3]).slice(1, 0),
    "long string": lambda: _many(["a" * 400, "b" * 500, None], pa.string()),
    "long list": lambda: _many([list(range(100)), [], [3]], pa.list_(pa.int64())),
    "long dictionary": lambda: _many(["a", "b"], pa.string()).dictionary_encode(),
    "long struct": lambda: _many([{"x": 1, "y": "a"}], pa.struct([("x", pa.int8()), ("y", pa.string())])),
    "long, with nulls": lambda: _many([1, None, 3], pa.int64()),
    "long and sliced": lambda: _many(["a", "bcd", None], pa.string()).slice(4001, 900),
    "a schema too long for its section": lambda: pa.array(
        [{f"{'very ' * 20}long name {index}": index for index in range(1000)}]
    ),
}


@pytest.mark.lengthy
@pytest.mark.parametrize("name", ARRAYS)
def test_every_type_comes_back_as_it_was(name: str) -> None:
    from dora.wire.message import Message, pack_head

    array = ARRAYS[name]()
    payload = encode(array)
    head = pack_head(payload.encoding, payload.schema, b"", payload.size, 1, 0)
    _check(decode_arrow(Message(head + payload.to_bytes())), array)


def test_every_type_passes_every_engine(bench: Bench) -> None:
    output_port, (port,) = bench.link(10)
    received = []
    for make in ARRAYS.values():
        output_port.send(make())
        received.append(decode_arrow(port.take()))
    for array, make in zip(received, ARRAYS.values(), strict=True):
        _check(array, make())


def _check(received: pa.Array, sent: pa.Array) -> None:
    received.validate(full=True)
    assert received.type.equals(sent.type, check_metadata=True)
    if isinstance(sent.type, Celsius):
        assert received.type.unit == sent.type.unit
    assert received.to_pylist() == sent.to_pylist()
    assert len(received) == len(sent)
    assert received.null_count == sent.null_count
    if not sent.null_count and not isinstance(sent, pa.NullArray):
        assert received.buffers()[0] is None, "a validity bitmap without nulls"


def test_plain_arrays_need_no_arrow_on_the_way() -> None:
    for type_ in INTEGERS + FLOATS:
        payload = encode(pa.array([1, 2], type_))
        assert payload.encoding == Encoding.PLAIN
        assert payload.size == 2 * type_.bit_width // 8


def test_nested_types_are_one_message_whose_schema_stands_apart() -> None:
    first = encode(pa.array([{"x": 1}]))
    second = encode(pa.array([{"x": 2}, {"x": 3}]))
    assert first.encoding == second.encoding == Encoding.BATCH
    assert first.schema == second.schema != b""


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"abc", pa.array([97, 98, 99], pa.uint8())),
        (bytearray(b"abc"), pa.array([97, 98, 99], pa.uint8())),
        (memoryview(b"xabc")[1:], pa.array([97, 98, 99], pa.uint8())),
        (memoryview(b"a.b.c")[::2], pa.array([97, 98, 99], pa.uint8())),
        (np.array([1, 2], np.int16), pa.array([1, 2], pa.int16())),
        (np.array([[1, 2], [3, 4]], np.float32), pa.array([1, 2, 3, 4], pa.float32())),
        (np.array([[1, 2], [3, 4]], np.uint8).T, pa.array([1, 3, 2, 4], pa.uint8())),
        (np.arange(10)[::3], pa.array([0, 3, 6, 9])),
        (np.array(5.0), pa.array([5.0])),
        (np.array([1, 2], ">i4"), pa.array([1, 2], pa.int32())),
        (np.array([True, False]), pa.array([True, False])),
        (np.array(["a", "bc"]), pa.array(["a", "bc"])),
        (np.array(["2024-02-29"], "M8[s]"), pa.array([1709164800], pa.timestamp("s"))),
        (np.array([(1, 2.0)], [("x", "i4"), ("y", "f8")]), pa.array([{"x": 1, "y": 2.0}])),
        (np.array([], np.uint8), pa.array([], pa.uint8())),
        (pa.chunked_array([[1, 2], [3]]), pa.array([1, 2, 3])),
        (pa.chunked_array([], pa.int8()), pa.array([], pa.int8())),
        (pa.chunked_array([["a"], [None]]), pa.array(["a", None])),
        (
            pa.record_batch({"x": [1, 2], "y": ["a", "b"]}),
            pa.array([{"x": 1, "y": "a"}, {"x": 2, "y": "b"}]),
        ),
        (pa.table({"x": pa.chunked_array([[1], [2]])}), pa.array([{"x": 1}, {"x": 2}])),
        (pa.py_buffer(b"abc"), pa.array([97, 98, 99], pa.uint8())),
    ],
    ids=lambda value: type(value).__name__,
)
def test_sequences_and_buffers_arrive_as_arrays(bench: Bench, data: Any, expected: pa.Array) -> None:
    output_port, (port,) = bench.link(10)
    output_port.send(data)
    received = decode_arrow(port.take())
    assert received.to_pylist() == expected.to_pylist()
    if not pa.types.is_struct(expected.type):
        assert received.type == expected.type
