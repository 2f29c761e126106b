"""The shape and dtype of NumPy arrays, in the metadata of their messages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dora.wire.array_shape import restore_described, shape_of
from dora.wire.decode import as_arrow, decode_arrow, decode_numpy
from dora.wire.encode import as_message, encode
from dora.wire.metadata import decode_metadata, encode_metadata

FRAME = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
RECORDS = np.array([(1.5, 2), (2.5, 3)], [("x", "<f4"), ("n", "<i2")])


def sent(array: np.ndarray, metadata: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the metadata that receivers of an array get."""
    return dict(as_arrow(array, metadata)[1] or {})


@pytest.mark.parametrize(
    "array",
    [
        FRAME,
        FRAME[:, :, 0],
        FRAME[:, ::2, ::-1],
        np.arange(6.0).reshape(3, 2),
        np.asfortranarray(np.arange(6, dtype=np.int16).reshape(3, 2)),
        np.array([[True, False], [False, True]]),
        np.zeros((0, 4), np.float32),
        np.array(7.5),
        np.ones((1, 1, 1, 1), np.float16),
        np.array([["a", "bcd"]]),
        np.array([b"a", b"bcd"]),
        np.array([[1 + 2j], [3 - 1j]], np.complex64),
        np.array([1 + 2j, 3]),
        np.array(["2026-01-01", "2026-01-02"], "datetime64[D]").reshape(2, 1),
        RECORDS,
        RECORDS.reshape(2, 1),
    ],
    ids=lambda array: f"{array.dtype.str}{list(array.shape)}",
)
def test_an_array_arrives_with_its_shape_and_dtype(array: np.ndarray) -> None:
    message = as_message(array)
    received = decode_numpy(message)
    assert (received.shape, received.dtype) == (array.shape, array.dtype)
    assert received.tolist() == array.tolist()
    again = restore_described(
        decode_arrow(message).to_numpy(zero_copy_only=False), decode_metadata(message.metadata)
    )
    assert (again.shape, again.dtype) == (array.shape, array.dtype)


def test_existing_receivers_see_a_flat_value() -> None:
    assert decode_arrow(as_message(FRAME)).to_pylist() == list(range(24))


def test_a_received_picture_is_a_view_of_the_memory() -> None:
    message = as_message(np.zeros((480, 640, 3), np.uint8))
    received = decode_numpy(message)
    assert not received.flags.owndata and not received.flags.writeable


@pytest.mark.parametrize(
    "array", [np.arange(3), np.zeros(3, bool), np.zeros(2, ">f4"), np.array(["2026"], "datetime64[s]")]
)
def test_a_flat_array_gets_no_metadata(array: np.ndarray) -> None:
    assert sent(array) == {}


def test_pictures_have_the_metadata_that_published_nodes_read() -> None:
    size = {"width": 4, "height": 2}
    assert sent(FRAME) == {"shape": [2, 4, 3], **size, "encoding": "bgr8"}
    assert sent(FRAME[:, :, 0]) == {"shape": [2, 4], **size, "encoding": "mono8"}
    assert sent(FRAME[:, :, :1]) == {"shape": [2, 4, 1], **size, "encoding": "mono8"}
    assert sent(FRAME, {"encoding": "rgb8"})["encoding"] == "rgb8"
    assert sent(FRAME.astype(np.float32)) == {"shape": [2, 4, 3]}
    assert sent(FRAME[:, :, :2]) == {"shape": [2, 4, 2]}
    assert sent(FRAME[:, :, 0], {"primitive": "masks"}) == {"shape": [2, 4], "primitive": "masks"}


def test_what_a_sender_says_of_its_pixels_stays() -> None:
    rows = {"width": 4, "height": 2, "encoding": "rgb8"}
    assert sent(FRAME.reshape(-1, 3), rows) == {"shape": [8, 3], **rows}
    assert sent(FRAME.reshape(-1, 3), {"width": 4, "height": 2}) == {
        "shape": [8, 3],
        "width": 4,
        "height": 2,
    }
    compressed = np.zeros((100, 1), np.uint8)
    assert sent(compressed, {"encoding": "jpeg"}) == {"shape": [100, 1], "encoding": "jpeg"}
    assert sent(FRAME, {"shape": "a rectangle"}) == {"shape": "a rectangle"}


def test_metadata_that_is_passed_on_describes_the_new_picture() -> None:
    received = sent(FRAME)
    assert sent(FRAME[:1, :2], received) == {
        "shape": [1, 2, 3],
        "width": 2,
        "height": 1,
        "encoding": "bgr8",
    }
    grey = sent(FRAME[:, :, 0], received)
    assert (grey["shape"], grey["encoding"]) == ([2, 4], "mono8")
    assert sent(FRAME[:1], received | {"encoding": "rgb8"})["encoding"] == "rgb8"


PICTURE_SIZE = {"width": 4, "height": 2, "encoding": "bgr8"}


@pytest.mark.parametrize(
    ("array", "left"),
    [
        (np.arange(24, dtype=np.float32), {}),
        (np.arange(24, dtype=np.float32).reshape(2, 4, 3), {"shape": [2, 4, 3]}),
        (np.zeros((2, 4), bool), {"shape": [2, 4]}),
        (np.zeros((5, 6), np.float32), {"shape": [5, 6]}),
        (np.arange(23, dtype=np.uint8), {}),
        (FRAME.reshape(-1), PICTURE_SIZE),  # the pixels of such a picture, as dora-rs sends them
        (np.array(["text"]), {"dtype": "<U4"}),
    ],
    ids=lambda item: f"{item.dtype.str}{list(item.shape)}" if isinstance(item, np.ndarray) else "",
)
def test_the_description_of_a_received_picture_does_not_stay_on_another_array(
    array: np.ndarray, left: dict[str, Any]
) -> None:
    assert sent(array, sent(FRAME) | {"mine": 1}) == left | {"mine": 1}


@pytest.mark.parametrize(
    "received",
    [np.array([1 + 2j, 3], np.complex64), np.array(["12", "345"]), RECORDS, np.ones((1, 2), "c8")],
)
@pytest.mark.parametrize("array", [np.array([2.0, 3.0], np.float32), np.ones((2, 3)), np.array([2, 3])])
def test_the_dtype_of_a_received_array_does_not_stay_on_another_one(
    received: np.ndarray, array: np.ndarray
) -> None:
    metadata = sent(received)
    assert "dtype" in metadata
    flat, passed_on = as_arrow(array, metadata)
    again = restore_described(flat.to_numpy(zero_copy_only=False), passed_on or {})
    assert (again.dtype, again.tolist()) == (array.dtype, array.tolist())


def test_arrow_data_has_the_description_that_its_sender_gives() -> None:
    metadata = {"shape": [1, 2], "dtype": "<c8", **PICTURE_SIZE}
    assert as_arrow(pa.array([1.5, 2]), metadata)[1] == metadata
    assert as_arrow(b"ab", metadata)[1] == metadata


def test_a_word_of_the_sender_about_the_type_stays() -> None:
    assert sent(np.arange(3), {"dtype": "float16", "encoding": "jpeg", "width": 4}) == {
        "dtype": "float16",
        "encoding": "jpeg",
        "width": 4,
    }


def test_a_shape_that_does_not_fit_is_ignored() -> None:
    flat = np.arange(6)
    for shape in ([2, 2], [], [-2, -3], [2.0, 3.0], [True, 6], "3x2", None, [2**70]):
        assert restore_described(flat, {"shape": shape}) is flat
        assert shape_of({"shape": shape}, 6) is None
    assert restore_described(flat, {"shape": (3, 2)}).shape == (3, 2)
    for flat, shape in [(np.arange(0), [0, 2**70]), (np.arange(1), [1] * 65)]:
        assert restore_described(flat, {"shape": shape}) is flat


@pytest.mark.parametrize(
    "dtype",
    [
        *("O", "V8", "<f4", "<U99999999", "nonsense", "88),U", 5, {}),
        *([], [["x", "O"]], [["x", "88),U"]], [["x"]], [["y", "<f4"]]),
    ],
)
def test_a_foreign_dtype_is_ignored(dtype: Any) -> None:
    for flat in (np.array([1.5, 2]), np.array([{"x": 1}], object)):
        assert restore_described(flat, {"dtype": dtype}) is flat


def test_a_dtype_that_needs_much_more_memory_than_the_message_is_ignored() -> None:
    flat = np.array(["a"] * 4097, object)
    assert restore_described(flat, {"dtype": "<U16384"}) is flat
    assert restore_described(flat, {"dtype": [["x", "<U16384"]]}) is flat


def test_damaged_metadata_leaves_the_values_flat() -> None:
    from dora.wire.array_shape import restore

    flat = np.arange(6)
    section = encode_metadata({"shape": [2, 3]})
    assert restore(flat, section).shape == (2, 3)
    assert restore(flat, section[:-1]) is flat


def test_an_array_of_rows_in_a_structure_is_refused_in_words() -> None:
    with pytest.raises(TypeError, match="Arrow has no type for a NumPy array of dtype"):
        as_message(np.zeros(2, [("x", "<f4", 3)]))


def test_an_arrow_array_goes_as_it_is() -> None:
    assert encode(pa.array([[1, 2], [3, 4]])).array is None
