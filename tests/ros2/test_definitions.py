"""Texts of definitions: what they say, and what is told about one that is wrong."""

from __future__ import annotations

import pytest

from dora.ros2 import DefinitionError
from dora.ros2.types.definition import (
    Constant,
    MessageField,
    MessageFieldType,
    dds_name,
    full_name,
)
from dora.ros2.types.idl_text import read_idl
from dora.ros2.types.msg_text import read_interface, read_message

TEXT = """
# A comment, and a # in it
uint8 DEBUG=10       # a byte
string WORDS = 'a # and a \\' quote'   # a comment
string PLAIN=more than  one word
float32 HALF=.5
bool YES=True
int32 HEX=-0x1F

std_msgs/Header header
Other other
my_msgs/msg/Third[] third
byte[3] three
char letter
int8[<=4] few [1, -2,3]
string<=5[] names ["a,b", 'c']
wstring wide "ö"
float64 x 1.5
bool on true
"""


def test_a_text_of_a_message_says_fields_constants_and_defaults() -> None:
    found = read_message(TEXT, "my_msgs/msg/Sample")
    assert found.constants == (
        Constant("DEBUG", "uint8", 10),
        Constant("WORDS", "string", "a # and a ' quote"),
        Constant("PLAIN", "string", "more than  one word"),
        Constant("HALF", "float32", 0.5),
        Constant("YES", "bool", True),
        Constant("HEX", "int32", -31),
    )
    assert found.fields == (
        MessageField("header", MessageFieldType("message", "std_msgs/msg/Header")),
        MessageField("other", MessageFieldType("message", "my_msgs/msg/Other")),
        MessageField("third", MessageFieldType("message", "my_msgs/msg/Third", shape="sequence")),
        MessageField("three", MessageFieldType("byte", shape="array", size=3)),
        MessageField("letter", MessageFieldType("uint8")),  # as ROS 2 sends it
        MessageField("few", MessageFieldType("int8", shape="sequence", size=4), (1, -2, 3)),
        MessageField("names", MessageFieldType("string", bound=5, shape="sequence"), ("a,b", "c")),
        MessageField("wide", MessageFieldType("wstring"), "ö"),
        MessageField("x", MessageFieldType("float64"), 1.5),
        MessageField("on", MessageFieldType("bool"), True),
    )


def test_the_parts_of_services_and_actions_become_messages() -> None:
    request, response = read_interface("bool data\n---\nbool success\nstring message\n", "a/srv/SetBool")
    assert (request.name, response.name) == ("a/srv/SetBool_Request", "a/srv/SetBool_Response")
    assert [field.name for field in response.fields] == ["success", "message"]
    names = [one.name for one in read_interface("int32 order\n---\n---\n", "a/action/Count")]
    assert names == ["a/action/Count_Goal", "a/action/Count_Result", "a/action/Count_Feedback"]


def test_numbers_may_begin_with_zeros_or_have_a_base() -> None:
    found = read_message("uint8 A=07\nint32 B=-010\nbyte C=0x1f\nuint8[2] few [01, 0b10]", "a/msg/B")
    assert [constant.value for constant in found.constants] == [7, -10, 31]
    assert found.fields[0].default == (1, 2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("int32", "line 1: neither a field nor a constant: 'int32'"),
        ("int32 a\nint33- b", "line 2: 'int33-' is no type"),
        ("int32 a 1.5", "line 1: invalid literal for int() with base 0: '1.5'"),
        ("uint8 a 256", "line 1: 256 does not fit into uint8"),
        ("bool a maybe", "line 1: 'maybe' is neither true nor false"),
        ("string<=2 a 'abc'", "line 1: the string is longer than 2"),
        ("int32<=2 a", "line 1: only a string can have a limit, of at least one character"),
        ("int32[0] a", "line 1: an array needs at least one element"),
        ("int32[2] a [1]", "line 1: the default has 1 values, but the type is int32[2]"),
        ("int32[<=1] a [1, 2]", "line 1: the default has 2 values, but the type is int32[<=1]"),
        ("int32[] a 1", "line 1: the default of an array or a sequence is a list in brackets"),
        ("Other a 1", "line 1: a field of a message type cannot have a default"),
        ("Other A=1", "line 1: only a number, a bool or a string can be a constant"),
        ("int32 a\nint8 a", "has two fields with the name 'a'"),
    ],
)
def test_a_wrong_line_is_told_with_its_number(text: str, said: str) -> None:
    with pytest.raises(DefinitionError) as error:
        read_message(text, "a/msg/B")
    assert said in str(error.value)


def test_a_service_needs_one_dividing_line() -> None:
    with pytest.raises(DefinitionError, match=r"a/srv/B has 2 lines '---', but a \.srv has 1"):
        read_interface("---\n---\n", "a/srv/B")


IDL = """
// generated from something
#include "std_msgs/msg/Header.idl"

module my_msgs {
  module msg {
    /* Two lines
       of comment */
    typedef double double__9[9];
    const long SIZE = 3;
    module Sample_Constants {
      const uint8 DEBUG = 10;
      const string WORDS = "a \\"word\\"";
      const boolean YES = TRUE;
    };
    @verbatim (language="comment", text=
      "One line." "\\n"
      "Another.")
    struct Sample {
      std_msgs::msg::Header header;
      Other other;
      sequence<my_msgs::msg::Third> third;
      octet three[SIZE];
      char letter;
      @default (value="(1, -2, 3)")
      sequence<int8, 4> few;
      sequence<string<5>> names;
      @default (value="ö")
      wstring wide;
      @key @default (value=1.5)
      double x;
      @default (value=TRUE)
      boolean on;
      double__9 covariance;
      unsigned long long big, bigger;
    };
    struct Empty {
      uint8 structure_needs_at_least_one_member;
    };
  };
};
"""


def test_an_idl_says_the_same() -> None:
    found, empty = read_idl(IDL, "Sample.idl")
    assert found.name == "my_msgs/msg/Sample"
    assert found.constants == (
        Constant("DEBUG", "uint8", 10),
        Constant("WORDS", "string", 'a "word"'),
        Constant("YES", "bool", True),
    )
    assert found.fields == (
        MessageField("header", MessageFieldType("message", "std_msgs/msg/Header")),
        MessageField("other", MessageFieldType("message", "my_msgs/msg/Other")),
        MessageField("third", MessageFieldType("message", "my_msgs/msg/Third", shape="sequence")),
        MessageField("three", MessageFieldType("byte", shape="array", size=3)),
        MessageField("letter", MessageFieldType("char")),
        MessageField("few", MessageFieldType("int8", shape="sequence", size=4), (1, -2, 3)),
        MessageField("names", MessageFieldType("string", bound=5, shape="sequence")),
        MessageField("wide", MessageFieldType("wstring"), "ö"),
        MessageField("x", MessageFieldType("float64"), 1.5),
        MessageField("on", MessageFieldType("bool"), True),
        MessageField("covariance", MessageFieldType("float64", shape="array", size=9)),
        MessageField("big", MessageFieldType("uint64")),
        MessageField("bigger", MessageFieldType("uint64")),
    )
    assert empty.fields == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("module a { struct B { long x; }; }", "line 1: expected ';', got 'the end'"),
        ("struct B {\n long 5; };", "line 2: expected a name, got '5'"),
        ("struct B { wchar x; };", "ROS has no messages with the type 'wchar' for Python"),
        ("struct B { long double x; };", "ROS has no messages with the type 'long double' for Python"),
        ("struct B { sequence<sequence<long>> x; };", "a sequence of single values"),
        ("struct B { long x[2][3]; };", "one dimension: ROS has no arrays of arrays"),
        ("struct B { long x[0]; };", "expected a size of at least 1"),
        ("struct B { long x ? };", "line 1: '?' is not expected"),
        ("enum B { A };", "expected a module, struct, const or typedef, got 'enum'"),
        ("const long A = B;", "expected a value, got 'B'"),
        ("module " * 9000, "B.idl cannot be read"),
        ('struct B { @default(value="{[]:1}") sequence<long> x; };', "unhashable"),
        (f"module B_Constants {{ const double X = 1{'0' * 400}; }};", "too large"),
        (f'struct B {{ @default(value="{"(" * 5000}") sequence<long> x; }};', "B.idl cannot be read"),
    ],
)
def test_a_wrong_idl_is_told_with_its_line(text: str, said: str) -> None:
    with pytest.raises(DefinitionError) as error:
        read_idl(text, "B.idl")
    assert said in str(error.value)
    assert str(error.value).startswith("B.idl cannot be read: ")


def test_names_have_a_form_for_users_and_one_on_the_wire() -> None:
    assert full_name("a/B", "srv") == "a/srv/B"
    assert full_name("a/action/B", "action") == "a/action/B"
    assert full_name("a::msg::B", "msg") == "a/msg/B"
    for name in ("B", "a/b/c/D", "a/", "", "a b/C", "../etc/passwd"):
        with pytest.raises(DefinitionError):
            full_name(name, "msg")
    with pytest.raises(DefinitionError, match="has the kind 'msg', but 'srv' is needed"):
        full_name("a/msg/B", "srv")
    assert dds_name("a/srv/B_Request") == "a::srv::dds_::B_Request_"
