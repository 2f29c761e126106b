"""Types of inputs and outputs: which exist, which fit, and what is said of those that do not.

In the tables, ``«`` and ``»`` stand around what the caret line has to underline.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import dora.dataflow
from dora.dataflow.layout import RunContext
from dora.dataflow.model import Dataflow
from dora.dataflow.plan import plan
from dora.dataflow.problems import ProblemReport
from dora.dataflow.types.library import TYPES, TypeLibrary, accepts
from dora.dataflow.types.own_types import TypeFault, TypeName, parse_type
from dora.errors import DataflowError

FLOW = """nodes:
  - id: camera
    path: camera.py
    inputs: {tick: dora/timer/millis/50, log: dora/logs}
    outputs: [image, number, log]
    send_logs_as: log
    output_types:
      image: std/media/v1/Image
      number: std/core/v1/UInt8
  - id: reader
    path: reader.py
    inputs: {image: camera/image, number: camera/number, log: camera/log}
"""


def parse(text: str, folder: Path = Path("/w"), **more: Any) -> Dataflow:
    return dora.dataflow.parse(text, working_dir=str(folder), environ={}, shown_file="flow.yml", **more)


# --------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("std/core/v1/Float32", TypeName("std/core/v1/Float32")),
        (" std/core/v1/Float32 ", TypeName("std/core/v1/Float32")),
        ("A[b=c]", TypeName("A", (("b", "c"),))),
        ("a/A[z=1, b = x y ]", TypeName("a/A", (("b", "x y"), ("z", "1")))),
        ("A[]", TypeName("A")),
    ],
)
def test_names_are_read(text: str, name: TypeName) -> None:
    assert parse_type(text) == name
    assert parse_type(str(name)) == name


@pytest.mark.parametrize(
    "text", ["", "a b", "/A", "a//B", "A[", "A[b]", "A[b=]", "A[b=c", "A[b=c,]", "A[=c]"]
)
def test_an_invalid_type_name_is_refused(text: str) -> None:
    with pytest.raises(TypeFault):
        parse_type(text)


def test_parameters_agree_unless_both_sides_give_different_ones() -> None:
    mono, stereo, any_ = parse_type("A[channels=1,rate=8]"), parse_type("A[channels=2]"), parse_type("A")
    assert any_.agrees(mono) and mono.agrees(any_) and mono.agrees(parse_type("A[rate=8]"))
    assert not mono.agrees(stereo)
    assert not any_.agrees(parse_type("B"))


# --------------------------------------------------------------------------- the library


def test_every_standard_type_stands_for_an_arrow_type() -> None:
    library = TypeLibrary(ProblemReport("", ""), dict)
    for part, types in TYPES.items():
        for name in types:
            assert library.shape(TypeName(f"{part}/{name}")) is not None
    vector = {"struct": {"x": "Float64", "y": "Float64", "z": "Float64"}}
    assert library.shape(TypeName("std/control/v1/Twist")) == {
        "struct": {"linear": vector, "angular": vector}
    }
    assert library.shape(TypeName("std/core/v1/String")) == "Utf8"
    assert (
        library.shape(TypeName("std/vision/v1/Detection"))["struct"]["boxes"]["list"]["struct"]["label"]
        == "Utf8"
    )
    assert library.shape(TypeName("std/core/v1/Strng")) is None


def core(name: str) -> TypeName:
    return TypeName(f"std/core/v1/{name}")


@pytest.mark.parametrize(
    ("sent", "expected", "fits"),
    [
        ("UInt8", "UInt8", True),
        ("UInt8", "UInt32", True),
        ("UInt8", "UInt64", True),
        ("Int8", "Int64", True),
        ("Float32", "Float64", True),
        ("Image", "Bytes", True),
        ("Float64", "Float32", False),
        ("UInt8", "Int16", False),
        ("Int32", "Float64", False),
        ("Bytes", "UInt8", False),
    ],
)
def test_numbers_widen(sent: str, expected: str, fits: bool) -> None:
    assert accepts(core(expected), core(sent)) is fits


def test_rules_are_conversions_of_which_three_may_follow_each_other() -> None:
    rules = tuple((TypeName(a), TypeName(b)) for a, b in ("ab", "bc", "cd", "de"))
    assert accepts(TypeName("d"), TypeName("a"), rules)
    assert not accepts(TypeName("e"), TypeName("a"), rules)
    assert not accepts(TypeName("a"), TypeName("b"), rules)
    assert accepts(TypeName("std/core/v1/Float64"), TypeName("a"), ((TypeName("a"), core("Float32")),))


# --------------------------------------------------------------------------- checks


def test_dataflows_without_types_cause_no_warning() -> None:
    dataflow = parse("nodes: [{id: a, path: a, outputs: [x]}, {id: b, path: b, inputs: {i: a/x}}]")
    assert dataflow.type_warnings == dataflow.types.inferred == ()


def test_types_of_inputs_are_inferred() -> None:
    dataflow = parse(FLOW)
    assert dataflow.type_warnings == ()
    assert dataflow.types.inferred == (
        ("std/media/v1/Image", "reader/image", "camera/image"),
        ("std/core/v1/UInt8", "reader/number", "camera/number"),
        ("std/core/v1/String", "reader/log", "camera/log"),
    )


@pytest.mark.parametrize(
    "types",
    [
        "{image: std/media/v1/Image, number: std/core/v1/UInt8, log: std/core/v1/String}",
        "{image: 'std/media/v1/Image[encoding=rgb8]', number: std/core/v1/UInt64}",
        "{image: std/core/v1/Bytes, number: std/core/v1/Bytes, log: std/core/v1/Bytes}",
    ],
)
def test_types_that_fit(types: str) -> None:
    assert parse(f"{FLOW}    input_types: {types}\n", strict_types=True).type_warnings == ()


@pytest.mark.parametrize("name", ["Null", "UInt64", "Bytes"])
def test_a_timer_sends_nothing(name: str) -> None:
    typed = FLOW.replace("    outputs", f"    input_types: {{tick: std/core/v1/{name}}}\n    outputs", 1)
    assert parse(typed, strict_types=True).type_warnings == ()


@pytest.mark.parametrize(
    ("old", "new", "message", "hint"),
    [
        (
            "",
            "    input_types: {number: «std/core/v1/Int8»}\n",
            "expects `std/core/v1/Int8`, but",
            "type_rules",
        ),
        (
            "",
            "    input_types: {log: «std/core/v1/Bool»}\n",
            "`camera/log` sends `std/core/v1/String`",
            "from:",
        ),
        (
            "",
            "    input_types: {image: «std/media/v1/Imag»}\n",
            "there is no type",
            "`std/media/v1/Image`?",
        ),
        ("", "    input_types: {image: «Image»}\n", "there is no type `Image`", "`std/media/v1/Image`?"),
        ("", "    input_types: {image: «my/Image»}\n", "there is no type `my/Image`", "std/media/v1/Image"),
        (
            "",
            "    input_types: {image: «my/v1/Frame»}\n",
            "there is no type `my/v1/Frame`",
            "types/**/*.yml",
        ),
        (
            "",
            "    input_types: {image: «a b»}\n",
            "`a b` is not the name of a type, as the input",
            "look like",
        ),
        ("", "    input_types: {image: «'A[b]'»}\n", "`b` is not a parameter", "A[name=value]"),
        (
            "",
            "    input_types: {«imge»: std/core/v1/Bool}\n",
            "is not an input of node `reader`",
            "`image`?",
        ),
        ("      number: std", "      «nmber»: std", "is not an output of node `camera`", "`number`?"),
        (
            "v1/UInt8",
            "v1/UInt8\n      log: «std/core/v1/Int8»",
            "but carries lines of text",
            "std/core/v1/String",
        ),
        (
            "    outputs",
            "    input_types: {tick: «std/core/v1/Int8»}\n    outputs",
            "`dora/timer/millis/50`",
            "Null",
        ),
        ("", "    output_metadata: {«x»: [a]}\n", "`output_metadata` describes `x`", ""),
        ("", "    output_framing: {«x»: raw}\n", "`output_framing` describes `x`", ""),
        ("", "    pattern: «service-srver»\n", "is not one of", "`service-server`?"),
        (
            "nodes:",
            "type_rules: [{from: «std/core/v1/X», to: a/B}]\nnodes:",
            "which `type_rules` refers to",
            "",
        ),
    ],
)
def test_a_type_mismatch_is_a_warning_or_an_error(old: str, new: str, message: str, hint: str) -> None:
    marked = FLOW.replace(old, new, 1) if old else FLOW + new
    before, _, rest = marked.partition("«")
    underlined = rest.partition("»")[0]
    text = marked.replace("«", "").replace("»", "")
    warnings = parse(text).type_warnings
    (warning,) = [w for w in warnings if "a/B" not in w.message]
    assert warning.severity == "warning"
    assert message in warning.message
    assert hint in warning.hint
    assert (warning.line, warning.column) == (before.count("\n") + 1, len(before) - before.rfind("\n"))
    assert warning.source[warning.column - 1 :][: warning.width] == underlined
    for strict in ({"strict_types": True}, {}):
        with pytest.raises(DataflowError) as caught:
            parse(text if strict else f"strict_types: true\n{text}", **strict)
        assert {p.severity for p in caught.value.problems} == {"error"}
        assert message in str(caught.value)


def test_parameters_that_differ() -> None:
    text = FLOW.replace("v1/Image", "v1/Image[encoding=bgr8]")
    (warning,) = parse(
        f"{text}    input_types: {{image: 'std/media/v1/Image[encoding=rgb8]'}}\n"
    ).type_warnings
    assert "expects `std/media/v1/Image[encoding=rgb8]`, but" in warning.message
    assert warning.hint == "their parameters differ"


def test_rules_of_the_dataflow() -> None:
    text = f"{FLOW}    input_types: {{number: std/core/v1/Float32}}\n"
    assert len(parse(text).type_warnings) == 1
    rules = "type_rules: [{from: std/core/v1/UInt8, to: std/core/v1/Float32}]\n"
    assert parse(rules + text).type_warnings == ()


def test_operators_have_types_too() -> None:
    text = """nodes:
  - id: rt
    operators:
      - {id: a, python: a.py, outputs: [x], output_types: {x: std/core/v1/Float32}}
      - {id: b, python: b.py, inputs: {i: rt/a/x, j: rt/a/x}, input_types: {i: std/core/v1/Int8}}
"""
    dataflow = parse(text)
    (warning,) = dataflow.type_warnings
    assert "the input `i` of operator `b` of node `rt` expects" in warning.message
    assert dataflow.types.inferred == (("std/core/v1/Float32", "rt/b/j", "rt/a/x"),)


def test_modules_carry_their_types_along(tmp_path: Path) -> None:
    (tmp_path / "m.yml").write_text(
        "module: {name: m, inputs: [i]}\n"
        "nodes: [{id: a, path: a.py, inputs: {i: _mod/i}, input_types: {i: std/core/v1/Int8}}]\n"
    )
    (warning,) = parse(
        FLOW + "  - {id: m, module: m.yml, inputs: {i: camera/number}}\n", tmp_path
    ).type_warnings
    assert warning.file == "m.yml" and "the input `i` of node `a` expects" in warning.message
    assert "used by the node `m`" in warning.note


# --------------------------------------------------------------------------- types of one's own

SENSORS = """types:
  Reading:
    arrow: Struct
    description: What the sensor measures.
    params:
      - {name: unit, default: celsius}
    fields:
      - {name: value, type: Float32}
      - {name: where, type: Point, description: In the room.}
      - {name: pose, type: std/math/v1/Pose}
      - {name: tags, type: List<Utf8>}
  Point:
    arrow: Struct
    fields: [{name: at, type: Vector3}]
  Celsius: {arrow: Float64}
"""


def write_types(folder: Path, text: str = SENSORS, file: str = "my/v1.yml") -> None:
    path = folder / "types" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_own_types(tmp_path: Path) -> None:
    write_types(tmp_path)
    text = FLOW.replace("std/media/v1/Image", "my/v1/Reading").replace("std/core/v1/UInt8", "my/v1/Celsius")
    dataflow = parse(f"{text}    input_types: {{number: std/core/v1/Float64}}\n", tmp_path)
    (warning,) = dataflow.type_warnings  # a name of one's own is a type of its own
    assert "expects `std/core/v1/Float64`, but `camera/number` sends `my/v1/Celsius`" in warning.message
    (shape,) = dataflow.types.outputs["camera/image"].shapes
    fields = shape["struct"]
    assert fields["value"] == "Float32" and fields["tags"] == {"list": "Utf8"}
    assert fields["where"]["struct"]["at"]["struct"]["z"] == "Float64"
    assert fields["pose"]["struct"]["position"]["struct"]["x"] == "Float64"


def test_files_of_types_are_read_only_if_they_are_needed(tmp_path: Path) -> None:
    write_types(tmp_path, "no types: [")
    assert parse(FLOW, tmp_path).type_warnings == ()


@pytest.mark.parametrize(
    ("text", "line", "message", "hint"),
    [
        ("[]", 1, "a file of types is a mapping", "`types:`"),
        ("types: []", 1, "expected a mapping of types", "`arrow:`"),
        ("types:\n  A: {arow: Float32}", 2, "a type has no field `arow`", "`arrow`?"),
        ("types:\n  A: {arrow: Flot32}", 2, "there is no type `Flot32`", "`Float32`?"),
        ("types:\n  A: {arrow: List<Flot32>}", 2, "there is no type `Flot32`", "`Float32`?"),
        ("types:\n  A: {arrow: Float32, fields: [{name: a, type: Int8}]}", 2, "has no fields", "Struct"),
        ("types:\n  A:\n    arrow: Struct\n    fields: [{name: a, type: A}]", 3, "contains itself", ""),
        ("types:\n  A: {arrow: Struct, fields: [{name: a}]}", 2, "the field `type` of a field", "Arrow"),
        ("types:\n  A: [\n", 3, "the file ends here", "close"),
    ],
)
def test_problems_of_type_files_point_into_them(
    text: str, line: int, message: str, hint: str, tmp_path: Path
) -> None:
    write_types(tmp_path, text)
    warnings = parse(FLOW.replace("std/core/v1/UInt8", "my/v1/Point"), tmp_path).type_warnings
    warning = next(w for w in warnings if w.file == "types/my/v1.yml")
    assert warning.line == line
    assert message in warning.message and hint in warning.hint


def test_the_standard_library_cannot_be_changed(tmp_path: Path) -> None:
    write_types(tmp_path, SENSORS, "std/core/v1.yml")
    warnings = parse(FLOW.replace("std/core/v1/UInt8", "my/v1/Point"), tmp_path).type_warnings
    assert any("would be a part of the standard library" in w.message for w in warnings)


def test_types_are_nested_eight_deep_and_no_deeper(tmp_path: Path) -> None:
    chain = "".join(f"  T{n}: {{arrow: T{n + 1}}}\n" for n in range(1, 9))
    write_types(tmp_path, f"types:\n{chain}  T9: {{arrow: Int8}}\n")
    dataflow = parse(FLOW.replace("std/core/v1/UInt8", "my/v1/T2"), tmp_path)
    assert dataflow.types.outputs["camera/number"].shapes == ("Int8",)
    assert [w.message for w in dataflow.type_warnings] == ["the type `my/v1/T1` is nested more than 8 deep"]


@pytest.mark.lengthy
def test_types_that_multiply_are_refused(tmp_path: Path) -> None:
    def fields(n: int) -> str:
        return ", ".join(f"{{name: f{i}, type: T{n}}}" for i in range(20))

    chain = "".join(f"  T{n}: {{arrow: Struct, fields: [{fields(n + 1)}]}}\n" for n in range(1, 8))
    write_types(tmp_path, f"types:\n{chain}  T8: {{arrow: Int8}}\n")
    dataflow = parse(FLOW.replace("std/core/v1/UInt8", "my/v1/T1"), tmp_path)
    assert dataflow.types.outputs["camera/number"].shapes == ()
    assert any("`my/v1/T1` grows too large" in w.message for w in dataflow.type_warnings)


def test_several_large_types_are_no_larger_than_one(tmp_path: Path) -> None:
    def struct(name: str, of: str) -> str:
        fields = ", ".join(f"{{name: f{i}, type: {of}}}" for i in range(20))
        return f"  {name}: {{arrow: Struct, fields: [{fields}]}}\n"

    large = struct("A", "Row") + struct("B", "Row") + struct("Row", "Cell") + struct("Cell", "Int8")
    write_types(tmp_path, f"types:\n{large}")
    dataflow = parse(FLOW.replace("std/core/v1/UInt8", "my/v1/B"), tmp_path)
    assert dataflow.type_warnings == ()
    assert len(dataflow.types.outputs["camera/number"].shapes) == 1


# --------------------------------------------------------------------------- manifests

MANIFEST = """apiVersion: 1
namespace: me
name: reader
runtime: python
entrypoint: reader.py
inputs:
  image: {type: std/media/v1/CompressedImage, description: A picture.}
  number: {type: std/core/v1/UInt64}
  config: {type: std/core/v1/String, required: false}
outputs:
  boxes: {type: std/vision/v1/Detection}
  masks: {type: std/vision/v1/Segmentation}
env:
  MODEL: {type: string, default: small}
requirements: {hardware: [gpu]}
"""


def with_manifest(
    folder: Path, manifest: str = MANIFEST, fields: str = "    outputs: [boxes]\n"
) -> Dataflow:
    (folder / "nodes").mkdir()
    (folder / "nodes" / "dora-node.yml").write_text(manifest)
    return parse(FLOW.replace("path: reader.py", "path: ./nodes/reader.py") + fields, folder)


def test_a_manifest_beside_a_program_declares_its_types(tmp_path: Path) -> None:
    dataflow = with_manifest(tmp_path)
    (warning,) = dataflow.type_warnings
    assert (warning.file, warning.line, warning.column) == ("nodes/dora-node.yml", 7, 17)
    assert "the input `image` of node `reader` expects `std/media/v1/CompressedImage`" in warning.message
    assert dataflow.types.inputs["reader/number"].name == "std/core/v1/UInt64"
    assert dataflow.types.outputs["reader/boxes"].name == "std/vision/v1/Detection"
    assert "reader/masks" not in dataflow.types.outputs


def test_types_of_the_dataflow_win_over_the_manifest(tmp_path: Path) -> None:
    fields = "    input_types: {image: std/media/v1/Image}\n"
    assert with_manifest(tmp_path, fields=fields).type_warnings == ()


def test_inputs_that_a_manifest_requires(tmp_path: Path) -> None:
    (warning,) = with_manifest(tmp_path, MANIFEST.replace(", required: false", "")).type_warnings[:1]
    assert "the input `config` of node `reader`, which `nodes/dora-node.yml` requires" in warning.message
    assert (warning.file, warning.line) == ("flow.yml", 12)


def test_a_manifest_of_another_program_is_not_for_this_one(tmp_path: Path) -> None:
    dataflow = with_manifest(tmp_path, MANIFEST.replace("entrypoint: reader.py", "entrypoint: main.py"))
    assert dataflow.type_warnings == ()
    assert "reader/boxes" not in dataflow.types.outputs


def test_problems_of_manifests_are_warnings(tmp_path: Path) -> None:
    warnings = with_manifest(tmp_path, MANIFEST.replace("namespace", "nmespace")).type_warnings
    assert [(w.file, w.line, w.severity) for w in warnings] == [("nodes/dora-node.yml", 2, "warning")]
    assert warnings[0].hint == "did you mean `namespace`?"


# --------------------------------------------------------------------------- what nodes get to know


def test_the_plan_has_the_expected_types_of_each_input() -> None:
    text = f"{FLOW}    input_types: {{number: std/core/v1/UInt32, image: std/core/v1/Bytes}}\n"
    configs = plan(parse(text), RunContext("id", "/run", "p_", "/board")).configs
    image, number, log = configs["reader"].inputs
    assert (number.type, number.shapes) == ("std/core/v1/UInt32", ["UInt32", "UInt8"])
    assert image.shapes == []  # bytes can be anything
    same = plan(
        parse(text.replace("std/core/v1/UInt32", "std/core/v1/UInt8")), RunContext("id", "/run", "p_", "/b")
    )
    assert same.configs["reader"].inputs[1].shapes == ["UInt8"]
    assert (log.type, log.shapes) == ("", [])
    assert [output.type for output in configs["camera"].outputs] == [
        "std/media/v1/Image",
        "std/core/v1/UInt8",
        "std/core/v1/String",
    ]
