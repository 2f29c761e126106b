"""The small languages inside a dataflow file: scalars, sources, variables, ids."""

from __future__ import annotations

import doctest
import math
from typing import Any

import pytest

import dora.dataflow.addresses
import dora.dataflow.durations
import dora.dataflow.names
import dora.dataflow.parser.sources
import dora.dataflow.problems
import dora.dataflow.yaml.tree
from dora.dataflow.model import LogSource, NodeOutput, TimerSource
from dora.dataflow.names import data_id_fault, node_id_fault
from dora.dataflow.parser.sources import SourceFault, expand, expand_path, parse_source
from dora.dataflow.problems import ProblemReport, TextSpan
from dora.dataflow.yaml.compose import MAX_DEPTH, compose
from dora.dataflow.yaml.field_types import FieldType, ListType, MapType, Reader
from dora.dataflow.yaml.number_types import IntegerType
from dora.dataflow.yaml.tree import MappingNode, resolve, to_yaml, tree_of


@pytest.mark.parametrize(
    "module",
    [
        dora.dataflow.addresses,
        dora.dataflow.durations,
        dora.dataflow.names,
        dora.dataflow.problems,
        dora.dataflow.yaml.tree,
        dora.dataflow.parser.sources,
    ],
)
def test_docstring_examples(module: object) -> None:
    result = doctest.testmod(module)  # type: ignore[arg-type]  # any module
    assert result.attempted and not result.failed


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("Null", None),
        ("TRUE", True),
        ("False", False),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("nULL", "nULL"),
        ("0", 0),
        ("-12", -12),
        ("+7", 7),
        ("017", 17),
        ("0o17", 15),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("1.", 1.0),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("-.inf", -math.inf),
        (".", "."),
        ("-", "-"),
        ("1.2.3", "1.2.3"),
        ("0b11", "0b11"),
        (str(2**64), float(2**64)),
        ("9" * 5000, math.inf),
        ("0x" + "f" * 400, math.inf),
    ],
)
def test_plain_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    found = resolve(text)
    assert found == value
    assert type(found) is type(value)


def test_not_a_number() -> None:
    assert math.isnan(resolve(".NaN"))  # type: ignore[arg-type]  # a float


def test_a_scalar_may_have_an_anchor_and_its_last_one_counts() -> None:
    report = ProblemReport("[&a 5, *a, &a [6], *a, &a '7', *a]", "x.yml")
    tree = compose(report.origin.text, report)
    assert tree is not None and tree.plain() == [5, 5, [6], [6], "7", "7"]


def test_a_merge_key_in_quotes_is_a_name() -> None:
    report = ProblemReport("{\"<<\": {a: 1}, '<<b': 2}", "x.yml")
    tree = compose(report.origin.text, report)
    assert tree is not None and tree.plain() == {"<<": {"a": 1}, "<<b": 2}


@pytest.mark.parametrize("text", ["<<", "", "null", "0x1F", "1.0", "\x07", "a\n\x07", "a\x85", " a\nb "])
def test_a_text_is_written_so_that_it_is_read_again_as_a_key_and_as_a_value(text: str) -> None:
    root = tree_of({text: text}, TextSpan(0, 0, 0, 0))
    assert isinstance(root, MappingNode)
    written = to_yaml(root)
    again = compose(written, ProblemReport(written, "x.yml"))
    assert again is not None and again.plain() == {text: text}


@pytest.mark.parametrize("more", [0, 1])
def test_aliases_may_make_a_tree_as_deep_as_brackets_may(more: int) -> None:
    inner, outer = MAX_DEPTH // 2, MAX_DEPTH // 2 - 1 + more
    report = ProblemReport(f"[&a {'[' * inner}{']' * inner}, {'[' * outer}*a{']' * outer}]", "x.yml")
    tree = compose(report.origin.text, report)
    assert (None if tree is None else tree.depth) == (None if more else MAX_DEPTH)
    assert report.failed == bool(more)


@pytest.mark.parametrize("keeps_rest", [False, True])
def test_a_list_or_mapping_with_a_bad_item_has_no_value_unless_it_keeps_the_rest(keeps_rest: bool) -> None:
    def read(field_type: FieldType[Any], text: str) -> Any:
        report = ProblemReport(text, "x.yml")
        tree = compose(text, report)
        assert tree is not None
        found = field_type.read(tree, Reader(report, {}))
        assert len(report.problems) == 1
        return found

    number = IntegerType(0, 9)
    items = read(ListType(number, "numbers", keeps_rest=keeps_rest), "[1, x, 3]")
    values = read(MapType(number, "numbers", keeps_rest=keeps_rest), "{a: 1, b: x, c: 3}")
    assert (items, values) == (((1, 3), {"a": 1, "c": 3}) if keeps_rest else (None, None))


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("a/b", NodeOutput("a", "b")),
        ("a/op/b", NodeOutput("a", "op/b")),
        ("dora/timer/secs/2", TimerSource(2_000_000_000, "dora/timer/secs/2")),
        ("dora/timer/millis/50", TimerSource(50_000_000, "dora/timer/millis/50")),
        ("dora/timer/micros/+5", TimerSource(5_000, "dora/timer/micros/+5")),
        ("dora/timer/nanos/007", TimerSource(7, "dora/timer/nanos/007")),
        ("dora/timer/30hz", TimerSource(33_333_333, "dora/timer/30hz")),
        ("dora/timer/1.5kHz", TimerSource(666_667, "dora/timer/1.5kHz")),
        ("dora/timer/50ms", TimerSource(50_000_000, "dora/timer/50ms")),
        ("dora/timer/2min", TimerSource(120_000_000_000, "dora/timer/2min")),
        ("dora/timer/hz/30", TimerSource(33_333_333, "dora/timer/hz/30")),
        ("dora/timer/hz/0.5", TimerSource(2_000_000_000, "dora/timer/hz/0.5")),
        ("dora/timer/hz/1e3", TimerSource(1_000_000, "dora/timer/hz/1e3")),
        ("dora/logs", LogSource("stdout", None, "dora/logs")),
        ("dora/logs/WARN", LogSource("warn", None, "dora/logs/WARN")),
        ("dora/logs/info/cam.1", LogSource("info", "cam.1", "dora/logs/info/cam.1")),
    ],
)
def test_sources(text: str, source: object) -> None:
    assert parse_source(text) == source
    assert str(parse_source(text)) == text


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "the source is empty", "camera/image"),
        ("camera", "names no output", "write `<node>/<output>`, for example `camera/image`"),
        ("camera/", "names no output", "`camera/image`"),
        ("a//b", "starts or ends with a slash", ""),
        ("a/b//c", "two slashes in a row", ""),
        ("a b/c", "the node id `a b` holds the character ` `", ""),
        ("/a", "the node id `` is empty", ""),
        ("timer/millis/5", "is not a source", "did you mean `dora/timer/millis/5`?"),
        ("millis", "is not a source", "dora/timer/millis/100"),
        ("dora/tmer/millis/5", "is not a source that dora has", "did you mean `timer`?"),
        ("dora/", "is not a source that dora has", "`dora/logs`"),
        ("dora/timer", "has no unit", "`dora/timer/30hz`"),
        ("dora/timer/0hz", "cannot be zero", ""),
        ("dora/timer/0ms", "cannot be zero", ""),
        ("dora/timer/30", "`30` is not a unit", "for example `dora/timer/50ms` or `dora/timer/30hz`"),
        ("dora/timer/ms/5", "`ms` is not a unit", "`dora/timer/50ms`"),
        ("dora/timer/seconds/5", "`seconds` is not a unit", "did you mean `secs`?"),
        ("dora/timer/millis", "has no interval", "dora/timer/millis/10"),
        ("dora/timer/millis/1.5", "`1.5` is not a whole number of millis", "dora/timer/micros/1500"),
        ("dora/timer/secs/x", "`x` is not a whole number of secs", "digits only"),
        ("dora/timer/secs/-1", "`-1` is not a whole number of secs", "greater than zero"),
        ("dora/timer/secs/0", "cannot be zero", ""),
        ("dora/timer/secs/" + "9" * 25, "longer than a century", ""),
        ("dora/timer/9999999999999999h", "longer than a century", ""),
        ("dora/timer/hz/0", "`0` is not a frequency", "greater than zero"),
        ("dora/timer/hz/-5", "`-5` is not a frequency", ""),
        ("dora/timer/hz/inf", "`inf` is not a frequency", ""),
        ("dora/timer/hz/nan", "`nan` is not a frequency", ""),
        ("dora/timer/hz/1e12", "higher than a timer can tick", ""),
        ("dora/timer/hz/1e-12", "longer than a century", ""),
        ("dora/timer/hz/5e-324", "longer than a century", ""),
        ("dora/logs/warning", "`warning` is not a log level", "did you mean `warn`?"),
        ("dora/logs/", "`` is not a log level", "error, warn, info, debug, trace, stdout"),
        ("dora/logs/warn/", "the node id `` is empty", ""),
    ],
)
def test_sources_that_cannot_be(text: str, message: str, hint: str) -> None:
    with pytest.raises(SourceFault) as caught:
        parse_source(text)
    assert message in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("text", "expanded", "unset"),
    [
        ("plain", "plain", []),
        ("$A/${A}", "1/1", []),
        ("${A:-2}${B:-2}${C:-}", "12", []),
        ("$B-$A", "$B-1", ["B"]),
        ("${A", "${A", []),
        ("cost: 5$, $5, $$A", "cost: 5$, $5, $A", []),
        ("~/x", "~/x", []),
        ("${B:-${C:-cpu}}", "cpu", []),
        ("${A:-${B}} ${A:-${C:-x}}", "1 1", []),
        ("${B:-${C}-$A}", "${C}-1", ["C"]),
        ("${B:-5$$}", "5$", []),
        ("${B:-${C:-$A", "${B:-${C:-1", []),
        ("a}b", "a}b", []),
    ],
)
def test_variables(text: str, expanded: str, unset: list[str]) -> None:
    assert expand(text, {"A": "1"}) == (expanded, unset)


def test_path_knows_a_few_variables_only() -> None:
    environ = {"HOME": "/home/me", "SECRET": "x"}
    assert expand_path("$HOME/a.py", environ) == ("/home/me/a.py", [])
    assert expand_path("$SECRET/$USER", environ) == ("$SECRET/$USER", ["SECRET", "USER"])
    assert expand_path("${SECRET:-a}/${USER:-b}", environ) == ("${SECRET:-a}/b", ["SECRET"])
    assert expand_path("${SECRET:-${HOME}}/$$", environ) == ("${SECRET:-${HOME}}/$", ["SECRET"])


@pytest.mark.parametrize("text", ["a", "camera_2", "a.b-c", "-x", "9"])
def test_node_ids(text: str) -> None:
    assert node_id_fault(text) == ""


@pytest.mark.parametrize(
    ("text", "fault"),
    [("", "is empty"), (".a", "dot"), ("dora", "reserved"), ("a/b", "`/`"), ("é", "`é`"), ("a\n", "`\n`")],
)
def test_node_ids_that_cannot_be(text: str, fault: str) -> None:
    assert fault in node_id_fault(text)


@pytest.mark.parametrize("text", ["a", "a/b", ".a", "x.y-z_1/2", "dora"])
def test_data_ids(text: str) -> None:
    assert data_id_fault(text) == ""


@pytest.mark.parametrize(
    ("text", "fault"),
    [("", "is empty"), ("/a", "slash"), ("a/", "slash"), ("a//b", "two slashes"), ("a b", "` `")],
)
def test_data_ids_that_cannot_be(text: str, fault: str) -> None:
    assert fault in data_id_fault(text)
