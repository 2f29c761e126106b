"""Durations and variables as they are written on the command line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dora.cli.argument_values import parse_duration, parse_environment


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 30),
        ("0", 0),
        ("1.5", 1.5),
        ("10s", 10),
        ("5m", 300),
        ("1h30m", 5400),
        ("1h 30m", 5400),
        ("500ms", 0.5),
        ("1m500ms", 60.5),
        ("2D", 172800),
    ],
)
def test_durations(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "-1", "10 parsecs", "1h30x", "nan", "inf", "1e3", "10s!", "٣"])
def test_texts_that_are_not_durations_are_refused(text):
    with pytest.raises(ValueError, match="1h30m"):
        parse_duration(text)


def test_variables():
    pairs = ["A=1", "B=", "C=x=y", "D=two words", "A=2", "E=1.5", "F=-3", "G=a1", "H=true"]
    assert parse_environment(pairs) == {
        "A": "2",
        "B": "",
        "C": "x=y",
        "D": "two words",
        "E": "1.5",
        "F": "-3",
        "G": "a1",
        "H": "true",
    }


@pytest.mark.parametrize("pair", ["A", "=1", ""])
def test_texts_that_are_not_variables_are_refused(pair):
    with pytest.raises(ValueError, match="KEY=VALUE"):
        parse_environment([pair])


@pytest.mark.parametrize(
    ("pair", "says"),
    [
        ("A=$HOME", "let your shell expand it"),
        ("A=007", 'in quotes \\(A: "007"\\)'),
        ("A=1e3", "the number 1000.0"),
        ("A=1.10", "the number 1.1"),
        ("A=+1", "the number 1"),
        ("A=.5", "the number 0.5"),
    ],
)
def test_values_that_a_dataflow_file_would_read_differently(pair, says):
    with pytest.raises(ValueError, match=says):
        parse_environment([pair])


@pytest.mark.lengthy
@given(st.text("0123456789.eE+-xms h"))
def test_any_text_is_a_value_or_refused(text):
    for parse in (parse_duration, lambda value: parse_environment([f"A={value}"])):
        try:
            parse(text)
        except ValueError as error:
            assert "`" in str(error)
