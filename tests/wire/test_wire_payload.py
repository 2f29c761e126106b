"""Payloads: what cannot be sent, what cannot be decoded; the types that can are tested with the engines."""

from __future__ import annotations

import ctypes
import gc
import struct
import subprocess
import sys
import weakref
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dora.errors import UnsupportedData
from dora.wire.arrow_formats import plain_format
from dora.wire.decode import (
    PayloadError,
    as_arrow,
    decode_arrow,
    decode_bytes,
    decode_numpy,
    prepare,
    to_numpy,
)
from dora.wire.encode import as_message, encode, last_received
from dora.wire.message import Encoding, Message, MessageError, pack_head

DECODERS = [decode_arrow, decode_bytes, decode_numpy]


def laid_out(encoding: int, schema: bytes, body: bytes) -> bytes:
    return pack_head(encoding, schema, b"", len(body), 1, 0) + body


def sent(data: Any) -> bytes:
    payload = encode(data)
    body = payload.to_bytes()
    assert len(body) == payload.size
    return laid_out(payload.encoding, payload.schema, body)


# --------------------------------------------------------------------------- sending


class Opaque:
    pass


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (None, "cannot send None: pass bytes"),
        (
            "text",
            r"cannot send an object of type str: .*for one str: pyarrow\.array\(\[value\]\)",
        ),
        (5, r"cannot send an object of type int: .*for one int: pyarrow\.array\(\[value\]\)"),
        (1.5, r"of type float"),
        ([1, 2], r"of type list: .*for a list: pyarrow\.array\(value\)"),
        ({"x": 1}, r"of type dict"),
        (Opaque(), r"test_wire_payload\.Opaque"),
        (pa.scalar(1), r"pyarrow\.lib\.Int64Scalar"),
    ],
)
def test_unsupported_data_is_a_type_error_with_the_supported_types(data: Any, what: str) -> None:
    with pytest.raises(TypeError, match=what) as caught:
        encode(data)
    assert "\n" not in str(caught.value)
    with pytest.raises(TypeError, match=what):  # also the second time
        encode(data)


@pytest.mark.parametrize("data", [np.array([object()]), np.array([1], np.longdouble)])
def test_arrays_that_arrow_has_no_type_for_are_a_type_error(data: Any) -> None:
    with pytest.raises(TypeError, match=f"Arrow has no type for a NumPy array of dtype {data.dtype}"):
        encode(data)


@pytest.mark.lengthy
@pytest.mark.parametrize("depth", [70, 900])
def test_lists_that_nest_too_deep_for_arrow_are_a_type_error(depth: int) -> None:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    with pytest.raises(TypeError, match="Arrow cannot write an array of its type: "):
        encode(pa.array(value))


@pytest.mark.processes
def test_bytes_and_numpy_need_no_pyarrow() -> None:
    script = (
        "import sys, numpy\n"
        "from dora.wire.decode import decode_bytes, decode_numpy\n"
        "from dora.wire.encode import encode\n"
        "from dora.wire.message import Message, pack_head\n"
        "for data in (b'abc', bytearray(b'abc'), numpy.arange(3)):\n"
        "    payload = encode(data)\n"
        "    head = pack_head(payload.encoding, payload.schema, b'', payload.size, 1, 0)\n"
        "    decode_bytes(Message(head + payload.to_bytes()))\n"
        "    decode_numpy(Message(head + payload.to_bytes()))\n"
        "assert 'pyarrow' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("uint8", (b"C", "|u1", 1)),
        (np.float32, (b"f", "<f4", 4)),
        (float, (b"g", "<f8", 8)),
        ("int64", (b"l", "<i8", 8)),
    ],
)
def test_loans_are_for_plain_numbers(dtype: Any, expected: tuple[bytes, str, int]) -> None:
    assert plain_format(dtype) == expected


@pytest.mark.parametrize("dtype", [bool, "U5", "M8[s]", object, ">i4", complex])
def test_loans_of_other_types_are_refused(dtype: Any) -> None:
    with pytest.raises(TypeError, match="a loan needs a plain number type"):
        plain_format(dtype)


def test_immutable_arrays_stay_uncopied_inside_a_process() -> None:
    array = pa.array([1, 2])
    assert as_arrow(array, {"a": 1}) == (array, {"a": 1})
    assert as_arrow(array)[0] is array
    buffer = bytearray(b"abc")
    passed, _ = as_arrow(buffer)
    buffer[0] = 0
    assert passed.to_pylist() == [97, 98, 99]
    with pytest.raises(TypeError, match="cannot send None"):
        as_arrow(None)


# --------------------------------------------------------------------------- receiving


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (pa.array([1, 2], pa.int16()), b"\x01\x00\x02\x00"),
        (pa.array([1, 2, 3, 4], pa.int16()).slice(1, 2), b"\x02\x00\x03\x00"),
        (pa.array([1, None, 3], pa.uint8()), b"\x01\x00\x03"),
        (pa.array([b"abcd", b"efgh"], pa.binary(4)), b"abcdefgh"),
        (pa.array([], pa.int8()), b""),
        (pa.array([True, False, True] * 3), b"\x6d\x01"),
    ],
)
def test_the_bytes_of_a_fixed_width_array_are_its_values(array: pa.Array, expected: bytes) -> None:
    assert decode_bytes(Message(sent(array))) == expected


@pytest.mark.parametrize(
    "array",
    [
        pa.array([{"x": 1}]),
        pa.array(["text"]),
        pa.array(["text"], pa.string_view()),
        pa.nulls(2),
        pa.array([[1]]),
    ],
)
def test_the_bytes_of_other_arrays_are_their_arrow_message(array: pa.Array) -> None:
    body = decode_bytes(Message(sent(array)))
    batch = pa.ipc.read_record_batch(pa.py_buffer(body), pa.schema([("", array.type)]))
    assert batch.column(0).equals(array)


def test_numpy_gets_other_types_by_way_of_arrow() -> None:
    assert decode_numpy(Message(sent(pa.array(["a", None])))).tolist() == ["a", None]
    assert decode_numpy(Message(sent(pa.array([True, False])))).tolist() == [True, False]


INTERVALS = pa.array([(1, 2, 3), None], pa.month_day_nano_interval())


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        (np.array([b"\x01\0\x02", b"\0\xaa"]), [b"\x01\0\x02", b"\0\xaa"]),
        (np.array(["a\0b", ""]), ["a\0b", ""]),
        (np.array([(b"\0\1\2", 7)], [("id", "S3"), ("n", "i4")]), [{"id": b"\0\1\2", "n": 7}]),
    ],
    ids=["bytes", "text", "a_field"],
)
def test_zeros_in_texts_and_bytes_of_numpy_arrive(sent: Any, received: list[Any]) -> None:
    message = as_message(sent)
    assert decode_arrow(message).to_pylist() == received
    assert decode_numpy(message).tolist() == sent.tolist()


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        (np.ma.masked_array([1, 2, 3], [0, 1, 0]), [1, None, 3]),
        (np.ma.masked_array([[1, 2], [3, 4]], [[0, 1], [0, 0]]), [1, None, 3, 4]),
        (np.ma.masked_array([True, False], [1, 0]), [None, False]),
        (np.ma.masked_array(["a", "b"], [1, 0]), [None, "b"]),
        (np.ma.masked_array([1, 2], [1, 0], ">i4"), [None, 2]),
        (np.ma.masked_array([1, 2, 3]), [1, 2, 3]),
    ],
    ids=["integers", "a_matrix", "booleans", "text", "big_endian", "nothing_hidden"],
)
def test_what_a_mask_of_numpy_hides_is_null(sent: Any, received: list[Any]) -> None:
    message = as_message(sent)
    assert decode_arrow(message).to_pylist() == received
    shown = decode_numpy(message)
    assert shown.shape == sent.shape
    assert [None if value != value else value for value in shown.ravel().tolist()] == received


def test_complex_numbers_with_a_mask_are_refused() -> None:
    with pytest.raises(UnsupportedData, match="dtype complex128 with a mask"):
        encode(np.ma.masked_array([1 + 1j, 2], [1, 0]))


@pytest.mark.parametrize("value", [2**70, "\udcff"])
def test_objects_of_numpy_that_arrow_cannot_hold_are_refused(value: object) -> None:
    with pytest.raises(UnsupportedData, match="Arrow has no type for a NumPy array of dtype object"):
        encode(np.array([value], object))


@pytest.mark.parametrize("type_", [pa.uuid(), pa.sparse_union([pa.field("a", pa.int8())])], ids=str)
def test_tables_and_chunked_arrays_without_values_can_be_sent(type_: Any) -> None:
    table = pa.table({"column": pa.chunked_array([], type_)})
    assert decode_arrow(as_message(table)).type == pa.struct(table.schema)
    assert decode_arrow(as_message(table["column"])).type == type_


@pytest.mark.parametrize(
    "array",
    [
        INTERVALS,
        pa.ListArray.from_arrays([0, 1, 2], INTERVALS),
        pa.FixedSizeListArray.from_arrays(INTERVALS, 1),
        pa.StructArray.from_arrays([INTERVALS], ["interval"]),
        pa.ListArray.from_arrays([0, 2], pa.StructArray.from_arrays([INTERVALS], ["interval"])),
        pa.MapArray.from_arrays([0, 2], pa.array(["a", "b"]), INTERVALS),
        pa.DictionaryArray.from_arrays(pa.array([1, 0]), INTERVALS),
    ],
    ids=lambda array: str(array.type),
)
def test_intervals_are_python_objects_for_numpy(array: pa.Array) -> None:
    for values in (decode_numpy(Message(sent(array))), to_numpy(array)):
        assert values.dtype == object
        assert values.tolist() == array.to_pylist()


@pytest.mark.parametrize("schema", [b"", b"z", b"CC", b"\xff", b"tss:Europe/Prague"])
@pytest.mark.parametrize("decode", [decode_arrow, decode_numpy])
def test_an_unknown_format_is_a_payload_error(decode: Any, schema: bytes) -> None:
    with pytest.raises(PayloadError, match="unknown format"):
        decode(Message(laid_out(Encoding.PLAIN, schema, b"abcd")))


@pytest.mark.parametrize("decode", [decode_arrow, decode_numpy])
def test_a_body_that_is_not_whole_values_is_a_payload_error(decode: Any) -> None:
    with pytest.raises(PayloadError, match="7 bytes are not a whole number of int32 values"):
        decode(Message(laid_out(Encoding.PLAIN, b"i", bytes(7))))


@pytest.mark.parametrize("decode", DECODERS)
@pytest.mark.parametrize(
    "data",
    [
        laid_out(Encoding.BATCH, b"", b""),
        laid_out(Encoding.BATCH, b"no schema", bytes(100)),
        laid_out(Encoding.BATCH, pa.schema([]).serialize().to_pybytes(), b""),
        laid_out(Encoding.STREAM, b"", b""),
        laid_out(Encoding.STREAM, b"", bytes(100)),
        laid_out(Encoding.STREAM, b"", sent(pa.array(["a" * 1000] * 1100))[64:-5000]),
        laid_out(3, b"", b""),
        laid_out(255, b"C", b"abc"),
    ],
)
def test_a_body_that_is_not_arrow_is_a_payload_error(decode: Any, data: bytes) -> None:
    with pytest.raises(PayloadError):
        decode(Message(data))


def test_a_stream_without_columns_or_batches_is_a_payload_error() -> None:
    for batches in ([], [pa.record_batch([], schema=pa.schema([]))]):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, pa.schema([])) as writer:
            for batch in batches:
                writer.write_batch(batch)
        with pytest.raises(PayloadError):
            decode_arrow(Message(laid_out(Encoding.STREAM, b"", sink.getvalue().to_pybytes())))


SAMPLES = [
    sent(array)
    for array in (
        pa.array([1, 2, 3]),
        pa.array([1, None, 3]),
        pa.array([True, None]),
        pa.array(["a", "bcd", None]),
        pa.array(["more than twelve bytes"], pa.string_view()),
        pa.array([[1, 2], None, [3]]),
        pa.array([{"x": 1, "y": "a"}] * 5),
        pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64())),
        pa.array(["a", "b", "a"]).dictionary_encode(),
        pa.RunEndEncodedArray.from_arrays([2, 5], ["a", "b"]),
        pa.array([b"abcd"], pa.binary(4)),
        pa.nulls(3),
    )
]


@pytest.mark.slow
@pytest.mark.lengthy
@given(
    st.sampled_from(SAMPLES),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=4),
    st.integers(0, 300),
)
@settings(derandomize=True, deadline=None, max_examples=1000)
def test_a_damaged_message_is_decoded_or_refused(
    sample: bytes, changes: list[tuple[int, int]], cut: int
) -> None:
    """No decoder raises anything else, nor takes the interpreter down."""
    damaged = bytearray(sample)
    for position, value in changes:
        damaged[position % len(damaged)] = value
    if cut < 30:
        del damaged[len(damaged) - cut :]
    data = bytes(damaged)
    for decode in DECODERS:
        try:
            message = Message(data)
            message.validate(len(data))
            decode(message)
        except (MessageError, PayloadError):
            pass


@pytest.mark.lengthy
@given(st.integers(0, 3), st.binary(max_size=12), st.binary(max_size=200))
@settings(derandomize=True, deadline=None, max_examples=500)
def test_any_body_is_decoded_or_refused(encoding: int, schema: bytes, body: bytes) -> None:
    for decode in DECODERS:
        try:
            decode(Message(laid_out(encoding, schema, body)))
        except PayloadError:
            pass


# --------------------------------------------------------------------------- arrays made ahead


def test_arrays_made_ahead_are_filled_with_their_own_message() -> None:
    sent = [np.arange(start, start + 100, dtype=np.float32) for start in range(5)]
    received = []
    for values in sent:
        received.append(decode_arrow(as_message(values)))
        prepare()
    assert [array.to_pylist() for array in received] == [values.tolist() for values in sent]
    for array, values in zip(received, sent, strict=True):
        assert array.buffers()[1].to_pybytes() == values.tobytes()
        assert not array.buffers()[1].is_mutable


def test_a_prepared_array_waits_for_a_message_that_fits() -> None:
    first = decode_arrow(as_message(b"abcd"))
    prepare()
    other_size = decode_arrow(as_message(b"abc"))
    other_type = decode_arrow(as_message(np.array([7], np.int32)))
    same = decode_arrow(as_message(b"wxyz"))
    assert [array.to_pylist() for array in (first, other_size, other_type, same)] == [
        [*b"abcd"],
        [*b"abc"],
        [7],
        [*b"wxyz"],
    ]


def test_a_received_array_is_sent_on_without_encoding() -> None:
    for _ in range(3):
        array = decode_arrow(as_message(np.array([1.5, 2.5])))
        prepare()
        again = decode_arrow(as_message(array))
        assert again.equals(array)
        assert decode_arrow(as_message(array.slice(1))).to_pylist() == [2.5]


def poses(*names: str) -> list[pa.Array]:
    """Return structs of one row, each with a name and three numbers of its own."""
    places = [[float(index), 0.5, -1.0] for index in range(len(names))]
    return [
        pa.array([{"name": name, "position": place}]) for name, place in zip(names, places, strict=True)
    ]


def received_ahead(sent: list[pa.Array]) -> list[pa.Array]:
    """Return what a node gets that is idle before each message."""
    found = []
    for array in sent:
        found.append(decode_arrow(as_message(array)))
        prepare()
    return found


def test_structs_made_ahead_are_filled_with_their_own_message() -> None:
    sent = poses("left", "away", "home", "hand")
    received = received_ahead(sent)
    for array, values in zip(received, sent, strict=True):
        array.validate(full=True)
        assert array.equals(values)


def test_a_struct_made_ahead_waits_for_a_message_of_the_same_lengths() -> None:
    sent = poses("left", "away", "a longer name", "home", "", "hand")
    assert [array.to_pylist() for array in received_ahead(sent)] == [array.to_pylist() for array in sent]


def test_a_struct_made_ahead_is_sent_on_without_encoding() -> None:
    array = received_ahead(poses("left", "away", "home"))[-1]
    payload = encode(array)
    assert payload is last_received.payload
    assert decode_arrow(payload.to_message(b"")).equals(array)


class SharedMemory:
    """A message as it lies in shared memory."""

    def __init__(self, array: pa.Array) -> None:
        payload = encode(array)
        head = pack_head(payload.encoding, payload.schema, b"", payload.size, 1, 1)
        self.memory = bytearray(head + payload.to_bytes())
        self.begin = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self.message = Message(head, address=self.begin, owner=self)

    def has(self, array: pa.Array) -> bool:
        """Return whether the values of the list in a struct are here."""
        address = array.field("data").values.buffers()[1].address
        return self.begin <= address < self.begin + len(self.memory)


def image(name: str, value: int, size: int = 50_000) -> pa.Array:
    return pa.array([{"name": name, "data": np.full(size, value, np.uint8)}])


def test_a_batch_in_shared_memory_is_copied_by_a_node_that_was_idle() -> None:
    sent = [image("left", number) for number in range(5)]
    received = []
    for number, array in enumerate(sent):
        place = SharedMemory(array)
        found = decode_arrow(place.message)
        assert place.has(found) == (number < 2), "the second one shows that the description stays the same"
        received.append(found)
        prepare()
    for array, values in zip(received, sent, strict=True):
        array.validate(full=True)
        assert array.equals(values)
    payload = encode(received[-1])
    assert payload is last_received.payload
    assert decode_arrow(payload.to_message(b"")).equals(sent[-1])


def test_a_batch_in_shared_memory_is_read_where_it_lies_while_messages_come_faster() -> None:
    for number in range(5):
        place = SharedMemory(image("left", number))
        found = decode_arrow(place.message)
        assert place.has(found)
        assert found.equals(image("left", number))


def test_all_bytes_of_a_view_of_larger_values_are_sent() -> None:
    view = memoryview(np.arange(6, dtype=np.int32).reshape(2, 3))
    assert decode_bytes(as_message(view)) == view.tobytes()


class Colour(pa.ExtensionType):
    """A type of a program whose values have a dictionary."""

    def __init__(self) -> None:
        super().__init__(pa.dictionary(pa.int8(), pa.string()), "tests.colour")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: Any, serialized: bytes) -> Colour:
        return cls()


def test_an_extension_of_a_type_with_a_dictionary_arrives() -> None:
    names = pa.DictionaryArray.from_arrays(pa.array([0, 1, 0], pa.int8()), ["red", "blue"])
    sent = pa.ExtensionArray.from_storage(Colour(), names)
    found = decode_arrow(as_message(sent))
    storage = getattr(found, "storage", found)
    assert storage.to_pylist() == ["red", "blue", "red"]


@pytest.mark.parametrize("wrap", [np.asarray, pa.array])
def test_a_payload_keeps_the_values_of_an_array_that_is_gone(wrap: Any) -> None:
    values = np.arange(1000.0)
    expected, known = values.tobytes(), weakref.ref(values)
    payload = encode(wrap(values))
    del values
    assert known() is not None
    assert payload.to_bytes() == expected
    del payload
    assert known() is None


@pytest.mark.lengthy
@pytest.mark.parametrize("decode", [decode_arrow, decode_numpy])
def test_a_part_of_an_array_keeps_the_shared_memory_that_it_lies_in(decode: Any) -> None:
    place = SharedMemory(pa.array(range(100), pa.uint8()))
    known = weakref.ref(place)
    part = decode(place.message)[10:]
    del place
    gc.collect()
    assert known() is not None
    assert part.tolist() == list(range(10, 100))
    del part
    gc.collect()
    assert known() is None


def test_plain_values_in_shared_memory_are_not_looked_for_in_the_head() -> None:
    decode_arrow(as_message(bytes(100)))
    prepare()
    place = SharedMemory(pa.array(range(100), pa.uint8()))
    found = decode_arrow(place.message)
    assert found.to_pylist() == list(range(100))
    assert found.buffers()[1].address == place.begin + place.message.body_offset


@pytest.mark.parametrize("size", [200_000, 40_000])
def test_large_batches_and_batches_of_other_lengths_are_not_copied(size: int) -> None:
    names = ["left"] * 5 if size > 128 * 1024 else ["a", "bb", "ccc", "dddd", "eeeee"]
    for number, name in enumerate(names):
        place = SharedMemory(image(name, number, size))
        found = decode_arrow(place.message)
        assert place.has(found)
        assert found.equals(image(name, number, size))
        prepare()


def test_a_struct_made_ahead_refuses_offsets_beyond_its_text() -> None:
    received_ahead(poses("left", "away"))
    payload = encode(poses("home")[0])
    body = payload.to_bytes()
    place = body.index(struct.pack("=ii", 0, 4))
    body = body[:place] + struct.pack("=ii", 0, 4000) + body[place + 8 :]
    with pytest.raises(PayloadError, match="cannot be decoded"):
        decode_arrow(Message(laid_out(payload.encoding, payload.schema, body)))
