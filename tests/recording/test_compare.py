"""Comparing messages: numbers within a tolerance, NaN, types, nested values, metadata."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from recorded_files import message_of

from dora.recording.compare import Tolerance, difference, of_arrays, parse_tolerance

NAN = float("nan")


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (pa.array([1, 2]), pa.array([1, 2]), ""),
        (pa.array([1.0, NAN]), pa.array([1.0, NAN]), ""),
        (pa.array([1, None]), pa.array([1, None]), ""),
        (pa.array([1, 2]), pa.array([1, 3]), "[1] is 2 and 3"),
        (pa.array([1, 2, 3]), pa.array([0, 3, 3]), "[0] is 1 and 0, and 1 more"),
        (pa.array([1, 2]), pa.array([1]), "there are 2 and 1 values"),
        (pa.array([1], pa.int32()), pa.array([1], pa.int64()), "the type is int32 and int64"),
        (pa.array([1, None]), pa.array([1, 2]), "[1] is None and 2"),
        (pa.array(["cat"]), pa.array(["dog"]), "[0] is 'cat' and 'dog'"),
        (pa.array([{"x": [1.0, NAN]}]), pa.array([{"x": [1.0, NAN]}]), ""),
        (pa.array([{"x": [1.0, 2.0]}]), pa.array([{"x": [1.0, 3.0]}]), "[0].x[1] is 2.0 and 3.0"),
        (pa.array([[1], [2, 3]]), pa.array([[1], [2]]), "[1] has 2 and 1 values"),
        (pa.array([True]), pa.array([False]), "[0] is True and False"),
        (pa.nulls(0), pa.nulls(0), ""),
    ],
)
def test_the_first_difference_is_reported(a: pa.Array, b: pa.Array, expected: str) -> None:
    assert of_arrays(a, b) == expected


@pytest.mark.parametrize(
    ("a", "b", "tolerance", "same"),
    [
        ([1.0], [1.0009], Tolerance(absolute=0.001), True),
        ([1.0], [1.0011], Tolerance(absolute=0.001), False),
        ([100.0], [100.9], Tolerance(relative=0.01), True),
        ([100.0], [101.1], Tolerance(relative=0.01), False),
        ([0.0], [1e-9], Tolerance(absolute=1e-6, relative=0.1), True),
        ([float("inf")], [float("inf")], Tolerance(absolute=1.0), True),
        ([float("inf")], [1.0], Tolerance(absolute=1.0), False),
        ([NAN], [1.0], Tolerance(absolute=9.0), False),
        ([float("inf")], [1.0], Tolerance(relative=0.01), False),
        ([1.0], [float("inf")], Tolerance(relative=0.01), False),
        ([float("inf")], [float("-inf")], Tolerance(relative=0.01), False),
        ([float("-inf")], [float("-inf")], Tolerance(relative=0.01), True),
    ],
)
def test_numbers_may_be_apart(a: list[float], b: list[float], tolerance: Tolerance, same: bool) -> None:
    assert (of_arrays(pa.array(a), pa.array(b), tolerance) == "") is same
    assert (of_arrays(pa.array([{"x": a}]), pa.array([{"x": b}]), tolerance) == "") is same


def test_integers_may_be_apart_too() -> None:
    assert of_arrays(pa.array([100], pa.uint8()), pa.array([101], pa.uint8()), Tolerance(absolute=1)) == ""


def test_numbers_in_maps_may_be_apart_too_and_nan_equals_nan() -> None:
    kind = pa.map_(pa.string(), pa.float64())
    first, second = (pa.array([[("left", number), ("right", NAN)]], kind) for number in (1.0, 1.001))
    assert of_arrays(first, second, Tolerance(absolute=0.01)) == ""
    assert of_arrays(first, second) == "[0][0] is ('left', 1.0) and ('left', 1.001)"


def test_keys_of_maps_may_not_be_apart() -> None:
    kind = pa.map_(pa.int32(), pa.float64())
    first, second = (pa.array([[(key, 1.0)]], kind) for key in (1, 2))
    assert of_arrays(first, second, Tolerance(absolute=9.0)) == "[0][0] is (1, 1.0) and (2, 1.0)"


@pytest.mark.parametrize("text", ["", "x", "-1", "1..2", "1%%", "nan"])
def test_an_invalid_tolerance_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a tolerance"):
        parse_tolerance(text)


def test_metadata_counts_when_asked_but_time_stamps_never() -> None:
    a = message_of(np.arange(3), {"width": 1, "timestamp": "then"}, 1, 5)
    b = message_of(np.arange(3), {"width": 2, "timestamp": "now"}, 9, 7)
    assert difference(a, b) == ""
    assert difference(a, b, metadata=True) == "metadata.width is 1 and 2"
    assert difference(a, message_of(np.arange(3), {"width": 1}, 1, 5), metadata=True) == ""


def test_nan_of_the_same_bytes_is_equal() -> None:
    a = message_of(np.array([NAN, 1.0]), {}, 1, 5)
    assert difference(a, message_of(np.array([NAN, 1.0]), {}, 2, 6)) == ""


WIDTHS = {pa.decimal32: 4, pa.decimal64: 8, pa.decimal128: 16, pa.decimal256: 32}


def decimals(make: Callable[[int, int], pa.DataType], *digits: int) -> pa.Array:
    """Return decimals of a scale that Python has no form for."""
    raw = b"".join(number.to_bytes(WIDTHS[make], "little") for number in digits)
    return pa.Array.from_buffers(make(5, -100), len(digits), [None, pa.py_buffer(raw)])


def lists(values: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array([0, 1, 3], pa.int32()), values)


@pytest.mark.parametrize("make", WIDTHS)
@pytest.mark.parametrize(
    ("around", "where"),
    [
        (lambda values: values, "[2]"),
        (lists, "[1][1]"),
        (lambda values: lists(values)[1:], "[0][1]"),
        (lambda values: pa.LargeListArray.from_arrays(pa.array([0, 1, 3]), values), "[1][1]"),
        (lambda values: pa.FixedSizeListArray.from_arrays(values, 3), "[0][2]"),
        (lambda values: pa.ListViewArray.from_arrays([1], [2], values), "[0][1]"),
        (lambda values: pa.StructArray.from_arrays([lists(values)], ["x"]), "[1].x[1]"),
        (lambda values: pa.DictionaryArray.from_arrays(pa.array([0, 2]), values), "[1]"),
        (lambda values: pa.ExtensionArray.from_storage(Money(values.type), values), "[2]"),
    ],
    ids=["plain", "list", "slice", "large list", "array", "list view", "struct", "dictionary", "extension"],
)
def test_decimals_of_a_scale_that_python_has_no_form_for_are_compared_by_their_digits(
    make: Callable[[int, int], pa.DataType], around: Callable[[pa.Array], pa.Array], where: str
) -> None:
    first, second = around(decimals(make, 1, 2, 7)), around(decimals(make, 1, 2, 8))
    assert of_arrays(first, first) == ""
    assert of_arrays(first, second) == f"{where} is Decimal('7') and Decimal('8')"


class Money(pa.ExtensionType):
    def __init__(self, storage: pa.DataType) -> None:
        super().__init__(storage, "money")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""


def test_entries_of_maps_with_such_decimals_are_compared() -> None:
    first, second = (
        pa.MapArray.from_arrays(
            pa.array([0, 2], pa.int32()), pa.array(["a", "b"]), decimals(pa.decimal32, 1, x)
        )
        for x in (7, 8)
    )
    assert of_arrays(first, first) == ""
    assert of_arrays(first, second) == "[0][1] is ('b', Decimal('7')) and ('b', Decimal('8'))"


@pytest.mark.parametrize(
    "kind", [pa.timestamp("s"), pa.timestamp("s", "UTC"), pa.duration("s"), pa.date64()], ids=str
)
def test_times_that_python_has_no_form_for_are_compared_by_their_numbers(kind: pa.DataType) -> None:
    first, second = (pa.array([5, time]).view(kind) for time in (2**60, 2**60 + 1))
    difference = f"Decimal('{2**60}') and Decimal('{2**60 + 1}')"
    assert of_arrays(first, first) == ""
    assert of_arrays(first, second, Tolerance(relative=0.1)) == f"[1] is {difference}"
    inner = [pa.StructArray.from_arrays([times], ["at"]) for times in (first, second)]
    assert of_arrays(inner[0], inner[0]) == ""
    assert of_arrays(*inner) == f"[1].at is {difference}"


def test_structs_with_two_fields_of_one_name_are_compared_as_a_whole() -> None:
    first, second = (
        pa.StructArray.from_arrays([pa.array([1, 2]), pa.array([1, x])], ["x", "x"]) for x in (2, 3)
    )
    assert of_arrays(first, first) == ""
    assert of_arrays(first, second) == "[1] differs, and Python has no form for it"
