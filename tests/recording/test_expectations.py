"""The language of `dora shrink --expect`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from recorded_files import message_of

from dora.errors import DoraError
from dora.recording.alone.expectation import Expectation
from dora.recording.alone.host import SentMessage
from dora.recording.alone.run import Violated


def check(text: str, *sent: tuple[str, Any], metadata: dict[str, Any] | None = None) -> Expectation:
    expectation = Expectation(text)
    for output, data in sent:
        expectation.check(SentMessage(1, output, message_of(data, metadata or {}, 1, 1)))
    return expectation


@pytest.mark.parametrize(
    "text",
    [
        "output.box[0] < 640",
        "output.box[-1] == 3 and not output.box[0] > 10",
        "len(output.box) == 3",
        "0 <= output.box[0] <= 2 or False",
        "sum(output.box) / len(output.box) == 2",
        "all(output.box > 0)",
        "output['box'][0] in [1, 2]",
        "max(output.box[1:]) == 3",
        "isfinite(output.box[0])",
    ],
)
def test_what_is_true_of_a_message(text: str) -> None:
    assert check(text, ("box", np.array([1.0, 2.0, 3.0]))).checked == 1


def test_a_message_of_which_it_is_false() -> None:
    with pytest.raises(Violated, match=r"output.box\[0\] < 640 is false for box = \[700, 3\]"):
        check("output.box[0] < 640", ("box", np.array([700, 3])))


def test_two_outputs_are_compared_by_their_newest_messages() -> None:
    expectation = check("output.a[0] == output.b[0]", ("a", np.array([1])), ("c", np.array([2])))
    assert expectation.checked == 0
    assert check("output.a[0] == output.b[0]", ("a", np.array([1])), ("b", np.array([1]))).checked == 1
    with pytest.raises(Violated):
        check("output.a[0] == output.b[0]", ("a", np.array([1])), ("b", np.array([2])))


@pytest.mark.parametrize(
    "text", ["output.a[0] < 0 and output.b[0] < 0", "output.a[0] > 0 or output.b[0] > 0"]
)
def test_nothing_is_said_before_each_output_has_a_message(text: str) -> None:
    assert check(text, ("a", np.array([1]))).checked == 0


def test_texts_structs_shapes_and_metadata() -> None:
    check("output.words[0] == 'left'", ("words", pa.array(["left"])))
    check("output.poses[0]['x'] == 1", ("poses", pa.array([{"x": 1}])))
    check("output.image[1, 0] == 3", ("image", np.array([[1, 2], [3, 4]])))
    assert check(
        "metadata['width'] == 2 and len(output.x) == 1", ("x", pa.array([1])), metadata={"width": 2}
    ).checked


@pytest.mark.parametrize("text", ["output.x[5] > 0", "output.x[0] / output.x[0] > 0", "output.x > 'a'"])
def test_an_expression_without_a_value_says_nothing(text: str) -> None:
    assert check(text, ("x", pa.array([0]))).checked == 0


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("output.box[0] <", "is no expression: invalid syntax"),
        ("1 < 2", "names no output"),
        ("open('/etc/passwd')", "`open` is no function; they are abs, all"),
        ("output.box.tofile('x')", "`output.box.tofile` is no function"),
        ("output.box.__class__", "only `output` has names after a point"),
        ("().__class__", "only `output` has names after a point"),
        ("box[0] < 640", "the name `box` is unknown; an output is written `output.box`"),
        ("[x for x in output.box]", "is not allowed here"),
        ("(lambda: output.box)()", "is no function"),
        ("output.box[0] ** 99999", "`Pow` is not allowed here"),
        ("f'{output.box}'", "is not allowed here"),
        ("max(output.box, key=len)", "is no function"),
    ],
)
def test_what_the_language_does_not_have_is_refused_in_a_sentence(text: str, why: str) -> None:
    with pytest.raises(DoraError) as raised:
        Expectation(text)
    assert why in str(raised.value)
    assert "\n" not in str(raised.value)
