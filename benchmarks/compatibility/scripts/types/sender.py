"""Send an array of every kind."""

import datetime
import decimal

import pyarrow as pa
from notes import attempt

from dora import Node

DAY = datetime.date(2024, 2, 29)
MOMENT = datetime.datetime(2024, 2, 29, 12, 30, 1, 500)
NUMBERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64")
ARRAYS = {name: pa.array([0, 1, 2], getattr(pa, name)()) for name in NUMBERS}
ARRAYS |= {f"{name} with null": pa.array([0, None], getattr(pa, name)()) for name in NUMBERS}
ARRAYS |= {
    "bytes": b"some bytes",
    "no bytes": b"",
    "float16": pa.array([0.5], pa.float16()),
    "null": pa.nulls(3),
    "empty null": pa.nulls(0),
    "bool": pa.array([True, False, None]),
    "text": pa.array(["a", "ä", "", None]),
    "large text": pa.array(["a"], pa.large_string()),
    "binary": pa.array([b"a", None]),
    "large binary": pa.array([b"a"], pa.large_binary()),
    "fixed binary": pa.array([b"abc"], pa.binary(3)),
    "date32": pa.array([DAY]),
    "date64": pa.array([DAY], pa.date64()),
    "time32": pa.array([datetime.time(1, 2, 3)], pa.time32("s")),
    "time64": pa.array([datetime.time(1, 2, 3)], pa.time64("us")),
    "timestamp": pa.array([MOMENT], pa.timestamp("ns")),
    "timestamp with zone": pa.array([MOMENT], pa.timestamp("ms", tz="Europe/Berlin")),
    "duration": pa.array([datetime.timedelta(seconds=3)]),
    "decimal": pa.array([decimal.Decimal("1.25")]),
    "list": pa.array([[1, 2], [], None]),
    "large list": pa.array([[1]], pa.large_list(pa.int8())),
    "fixed list": pa.array([[1, 2], [3, 4]], pa.list_(pa.float32(), 2)),
    "nested list": pa.array([[[1], []], None]),
    "struct": pa.array([{"x": 1, "y": "a"}, None]),
    "struct in struct": pa.array([{"p": {"x": 1.5, "l": [1, 2]}}]),
    "map": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
    "dictionary": pa.array(["a", "b", "a"]).dictionary_encode(),
    "record batch": pa.record_batch({"a": [1, 2], "b": ["x", None]}),
    "slice": pa.array(range(100)).slice(10, 5),
    "slice of text": pa.array(["a", "bb", "ccc"]).slice(1, 1),
    "slice of list": pa.array([[1], [2, 3], [4]]).slice(1),
    "slice of bool": pa.array([True, False] * 10).slice(3, 9),
    "slice of struct": pa.array([{"x": 1}, {"x": 2}]).slice(1),
    "empty": pa.array([], pa.int64()),
    "large": pa.array(range(100_000)),
    "tensor": pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.int8(), [2, 2]), pa.array([[1, 2, 3, 4]], pa.list_(pa.int8(), 4))
    ),
    "run-end encoded": pa.RunEndEncodedArray.from_arrays(pa.array([2, 3], pa.int32()), pa.array([1, 2])),
    "dense union": pa.UnionArray.from_dense(
        pa.array([0, 1], pa.int8()), pa.array([0, 0], pa.int32()), [pa.array([1]), pa.array(["a"])]
    ),
    "view": pa.array(["short", "a text that is longer than twelve"], pa.string_view()),
}

node = Node()
for name, array in ARRAYS.items():
    attempt(f"send {name}", node.send_output, "value", array, {"name": name})
