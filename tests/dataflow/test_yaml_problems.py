"""Bad documents: which sentence, at which place, with which mend.

In the tables, ``«`` and ``»`` stand around what the caret line has to underline.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import dora.dataflow
from dora.dataflow.model import Deploy
from dora.errors import DataflowError, Problem


def problems(text: str) -> tuple[Problem, ...]:
    with pytest.raises(DataflowError) as caught:
        dora.dataflow.parse(text, file="/w/flow.yml", working_dir="/w", environ={}, shown_file="flow.yml")
    return caught.value.problems


def check(marked: str, message: str, hint: str) -> None:
    """Expect exactly one error, under the marked characters."""
    (problem,) = problems(marked.replace("«", "").replace("»", ""))
    before, _, rest = marked.partition("«")
    underlined = rest.partition("»")[0]
    assert problem.severity == "error"
    assert message in problem.message
    assert hint in problem.hint if hint else not problem.hint
    assert (problem.line, problem.column) == (before.count("\n") + 1, len(before) - before.rfind("\n"))
    assert problem.source[problem.column - 1 :][: problem.width] == underlined


NODE = "nodes:\n  - id: a\n    path: a.py\n    outputs: [x]\n"


@pytest.mark.parametrize(
    ("marked", "message", "hint"),
    [
        ("«»", "the file is empty", "`nodes:`"),
        ("«#» no", "the file is empty", "`nodes:`"),
        ("«-» a\n- b\n", "a dataflow is a mapping", "`nodes:`"),
        ("«hello»", "a dataflow is a mapping", "`nodes:`"),
        ("«env»: {}\n", "the field `nodes` of a dataflow is missing", "processes"),
        ("«nodes»:\n", "the field `nodes` of a dataflow has no value", "processes"),
        ("nodes: «{a: b}»", "expected a list of nodes, found a mapping", "`- id:`"),
        ("nodes: [«a»]", "expected a mapping for a node, found the text `a`", "{id: camera, path"),
        ("«nods»: []", "a dataflow has no field `nods`", "did you mean `nodes`?"),
        ("nodes: []\n«path»: a.py", "a dataflow has no field `path`", "`path` is a field of a node"),
        ("nodes: []\n«zzz»: a.py", "a dataflow has no field `zzz`", "its fields are `nodes`"),
        ("nodes: []\ndeploy: {machine: «b c»}", "the machine id `b c` has to be", "for example `robot-1`"),
        ("nodes: []\ndeploy: {«machin»: b}", "`deploy` has no field `machin`", "did you mean `machine`?"),
        ("nodes: []\ndeploy: {labels: «[gpu]»}", "expected a mapping of labels, found a list", "gpu"),
        ("nodes: []\ndeploy: {labels: {«g pu»: 1}}", "`g pu` cannot be a label", "letters"),
        (
            "nodes: []\ndeploy: {on_machine_lost: «restart»}",
            "`restart` is not one of `keep` and `stop`",
            "",
        ),
        ("nodes: []\nstrict_types: «1»", "expected `true` or `false`", "write `true`"),
        ("nodes: []\ntype_rules: «{from: a, to: b}»", "expected a list of type rules", ""),
        ("nodes: []\ntype_rules: [{«form»: a, to: b}]", "a type rule has no field `form`", "`from`?"),
        ("nodes: []\nexit_when_nodes_finish: «yes»", "expected `true` or `false`", "write `true`"),
        ("nodes: []\nexit_when_nodes_finish: «0»", "expected `true` or `false`", "write `false`"),
        ("nodes: []\nexit_when_nodes_finish: «[]»", "expected `true` or `false`, found a list", ""),
        ("nodes: []\nhealth_check_interval: «0»", "greater than zero", ""),
        ("nodes: []\nhealth_check_interval: «.nan»", "greater than zero", ""),
        ("nodes: []\nhealth_check_interval: «1e12»", "at most 1000000000", ""),
        ("nodes: []\nhealth_check_interval: «500ms»", "number of seconds", "`0.5`"),
        ('nodes: []\nhealth_check_interval: «"5"»', "number of seconds", "remove the quotes"),
        ("nodes: []\nenv: «[A=1]»", "expected a mapping of names to values", "{WIDTH: 640}"),
        ("nodes: []\nenv: {A: «[1]»}", "for `A`, found a list", ""),
        ("nodes: []\nenv: {«A»: }", "for `A`, found nothing", '`A: ""`'),
        ("nodes: []\nenv: {A: x-$«NOPE»}", "`NOPE` is not set", "`${NOPE:-...}`"),
    ],
)
def test_dataflow(marked: str, message: str, hint: str) -> None:
    check(marked, message, hint)


@pytest.mark.lengthy
@pytest.mark.parametrize(
    ("fields", "message", "hint"),
    [
        ("  - «path»: b.py\n", "the field `id` of a node is missing", "unique"),
        ("  - {id: «my node», path: b}\n", "the character ` `", "for example `my_node`"),
        ("  - {id: «dora», path: b}\n", "is reserved", "another id"),
        ("  - {id: «''», path: b}\n", "is empty", "another id"),
        ("  - {id: «[]», path: b}\n", "expected the id of a node, found a list", ""),
        ("  - {id: «a», path: b}\n", "two nodes with the id `a`; the first one is on line 2", "its own"),
        ("  - {id: «a.1», path: b}\n", "the name of a rotated log file of `a`", "another id"),
        ("  - {id: «dora.1», path: b}\n", "the name of a rotated log file of `dora`", "another id"),
        ("  - {id: «b»}\n", "the node `b` does not say what to run", "`path:`"),
        ("  - {id: b, path: b, «operator»: {python: b.py}}\n", "has both `path` and `operator`", "one of"),
        ("  - {id: b, path: «''»}\n", "expected a path, found an empty text", ""),
        ("  - {id: b, «pth»: b}\n", "a node has no field `pth`", "did you mean `path`?"),
        ("  - {id: b, path: b, «Inputs»: {}}\n", "no field `Inputs`", "did you mean `inputs`?"),
        ("  - {id: b, path: b, «queue_size»: 1}\n", "no field `queue_size`", "is a field of an input"),
        (
            "  - {id: b, path: b, python: «b.py»}\n",
            "the file of a node is its `path`",
            "write `path: b.py`",
        ),
        ("  - {id: b, path: b, python: {version: «3.10»}}\n", "dora needs Python 3.11 or newer", ""),
        ("  - {id: b, path: b, python: {version: «new»}}\n", "is not a version of Python", '"3.12"'),
        ("  - {id: b, path: b, python: {requirements: [«-r x»]}}\n", "an option of pip", "for example"),
        ("  - {id: b, path: «shell»}\n", "no command", 'args: "..."'),
        ("  - {id: b, «git»: https://x.y/z}\n", "has `git`, but nothing to run", "add `path:`"),
        ("  - {id: b, path: b, «branch»: x}\n", "`branch` of the node `b` has no effect without `git`", ""),
        ("  - {id: b, path: b, git: x, tag: a, «rev»: b}\n", "has both `tag` and `rev`", "keep one"),
        ("  - {id: b, path: b, git: x, tag: «-a»}\n", "a tag cannot begin with a dash", ""),
        ("  - {id: b, hub: «x@1»}\n", "does not support packages of the node hub", "pip"),
        ("  - {id: b, module: «x.yml»}\n", "there is no file `x.yml`", ""),
        ("  - {id: b, ros2: «{}»}\n", "`ros2` of node `b` does not say what it connects", "`topic`"),
        ("  - {id: b, path: b, input_types: «[x]»}\n", "expected a mapping of inputs", ""),
        ("  - {id: b, path: b, output_types: {x: «[]»}}\n", "expected the name of a type", ""),
        ("  - {id: b, path: https://x.y/z, path_sha256: «abc»}\n", "is not a SHA-256", "64 hexadecimal"),
        ("  - {id: b, path: b, «path_sha256»: " + "a" * 64 + "}\n", "its `path` is no URL", ""),
        ('  - {id: b, path: «"https://["»}\n', "no address of a file on the web: Invalid IPv6 URL", ""),
        ("  - {id: b, path: «https://℀.x/y»}\n", "no address of a file on the web: netloc", ""),
        ("  - {id: b, path: «https://x:99999/y»}\n", "no address of a file on the web: Port out", ""),
        ("  - {id: b, path: «https:///y»}\n", "no address of a file on the web: it names no host", ""),
        ("  - {id: b, path: «https://x.y/z», git: x}\n", "from `git` as well as from a URL", "keep one"),
        ('  - {id: b, path: b, args: «"it\'s"»}\n', "is not closed", "close it"),
        ("  - {id: b, path: b, args: [a, «[b]»]}\n", "expected an argument, found a list", ""),
        ("  - {id: b, path: b, args: «{a: b}»}\n", "a text or a list, found a mapping", ""),
        ('  - {id: b, path: b, build: «"a \'b"»}\n', "is not closed", "close it"),
        ("  - {id: b, path: b, outputs: «x»}\n", "expected a list of output ids", "write `[x]`"),
        ("  - {id: b, path: b, outputs: [«/x»]}\n", "starts or ends with a slash", "for example `x`"),
        ("  - {id: b, path: b, restart_policy: «on_failure»}\n", "is not one of", "`on-failure`?"),
        ("  - {id: b, path: b, restart_policy: «[]»}\n", "expected one of", ""),
        ("  - {id: b, path: b, max_restarts: «-1»}\n", "from 0 to 4294967295, found `-1`", ""),
        ("  - {id: b, path: b, max_restarts: «1.5»}\n", "expected a whole number, found `1.5`", ""),
        ("  - {id: b, path: b, max_restarts: «true»}\n", "expected a whole number, found `true`", ""),
        ('  - {id: b, path: b, max_restarts: «"3"»}\n', "found the text `3`", "remove the quotes"),
        ("  - {id: b, path: b, restart_delay: «-1»}\n", "that is not negative", ""),
        ("  - {id: b, path: b, restart_delay: «2m»}\n", "number of seconds", "`120`"),
        ("  - {id: b, path: b, cpu_affinity: «3»}\n", "expected a list of core numbers", "write `[3]`"),
        ("  - {id: b, path: b, cpu_affinity: [«-1»]}\n", "from 0 to 4095", ""),
        ("  - {id: b, path: b, «cpu»: [3]}\n", "a node has no field `cpu`", "`cpu_affinity`?"),
        ("  - {id: b, path: b, scheduler: «fifo»}\n", "a priority from 1 to 99", "write `fifo 50`"),
        ("  - {id: b, path: b, scheduler: «rr 100»}\n", "a priority from 1 to 99", "write `rr 50`"),
        ("  - {id: b, path: b, scheduler: «batch 5»}\n", "`batch` has no priority", "write `batch`"),
        ("  - {id: b, path: b, scheduler: «realtime»}\n", "not a scheduling policy", "policies are"),
        ("  - {id: b, path: b, scheduler: «[]»}\n", "a scheduling policy", "`fifo 50`"),
        ("  - {id: b, path: b, nice: «20»}\n", "a whole number from -20 to 19", ""),
        ("  - {id: b, path: b, preload: «torch»}\n", "`false` or a list of packages", "write `[torch]`"),
        ("  - {id: b, path: b, preload: «no»}\n", "`false` or a list of packages", "write `false`"),
        ("  - {id: b, path: b, preload: [«opencv-python»]}\n", "`opencv-python` cannot be", "`cv2`"),
        ("  - {id: b, path: b, preload: [«a b»]}\n", "`a b` cannot be the name", "that programs import"),
        ("  - {id: b, path: b, preload: [a, «1»]}\n", "`1` cannot be the name", "that programs import"),
        ("  - {id: b, path: b, preload: [«lib/a.py»]}\n", "`lib/a.py` is a file", "imports its own files"),
        ("  - {id: b, path: b, preload: [«helper.py»]}\n", "`helper.py` is a file", "its own files"),
        ("  - {id: b, path: b, preload: [«.a»]}\n", "`.a` is a relative name", "`package.module`"),
        ("  - {id: b, path: b, preload: [«[a]»]}\n", "expected the name of a package", ""),
        ("  - {id: b, path: b, preload: «{a: b}»}\n", "`false` or a list of packages", ""),
        ("  - {id: b, path: b}\npreload: [«a-b»]\n", "`a-b` cannot be the name", "`cv2`"),
        ("  - {id: b, path: b, min_log_level: «warning»}\n", "is not one of", "did you mean `warn`?"),
        ("  - {id: b, path: b, max_log_size: «many»}\n", "expected a size in bytes", '"50MB"'),
        ("  - {id: b, path: b, max_log_size: «0.5»}\n", "at least one byte", ""),
        ("  - {id: b, path: b, max_rotated_files: «101»}\n", "from 0 to 100", ""),
        ("  - {id: b, path: b, send_stdout_as: «log»}\n", "is not an output of node `b`", "[log]"),
        (
            "  - {id: b, path: b, outputs: [x], send_logs_as: «log»}\n",
            "is not an output of node `b`",
            "[x, log]",
        ),
        (
            "  - {id: b, path: b, outputs: [y], output_framing: {y: «json»}}\n",
            "is not one of `raw` and `arrow-ipc`",
            "",
        ),
    ],
)
def test_node(fields: str, message: str, hint: str) -> None:
    check(NODE + fields, message, hint)


@pytest.mark.parametrize(
    ("inputs", "message", "hint"),
    [
        ("«[a/x]»", "expected a mapping of inputs, found a list", "`inputs: {image: camera/image}`"),
        ("{i: «[]»}", "expected the source of an input, found a list", "camera/image"),
        ("{i: «5»}", "names no output", "write `<node>/<output>`"),
        ("{«i j»: a/x}", "the character ` `", "i_j"),
        ("{i: «b»/x}", "there is no node `b`, which the input `i` of node `n` refers to", "the nodes are"),
        ("{i: «camra»/image}", "there is no node `camra`", "did you mean `camera/image`?"),
        ("{i: «camra»/imge}", "there is no node `camra`", "did you mean `camera/image`?"),
        ("{i: camera/«imag»}", "the node `camera` has no output `imag`", "did you mean `camera/image`?"),
        ("{i: a/«a»}", "the node `a` has no output `a`", "the outputs of `a` are `x`"),
        ("{i: n/«o»}", "the node `n` has no output `o`", "add `outputs: [o]`"),
        ("{i: rt/«three»/box}", "no operator `three`", "the operators are `one` and `two`"),
        ("{i: rt/«tow»/box}", "no operator `tow`", "did you mean `rt/two/box`?"),
        ("{i: rt/«two/bix»}", "has no output `two/bix`", "did you mean `rt/two/box`?"),
        ("{i: «rt/mask»}", "does not say which operator is meant", "write `rt/one/mask`"),
        ("{i: «rt/box»}", "does not say which operator is meant", "`rt/<operator>/box`"),
        ("{i: det/«bx»}", "has no output `bx`", "did you mean `det/box`?"),
        ("{i: {source: a/x, «phase»: 5ms}}", "is not fed by a timer, and `phase` is", "leave it out"),
        ("{i: {source: a/x, «missed_ticks»: burst}}", "not fed by a timer", "leave it out"),
        ("{i: {source: dora/timer/50ms, phase: «50ms»}}", "not shorter than the timer's 50ms", "left over"),
        ("{i: {source: dora/timer/50ms, phase: «5»}}", "a duration with its unit", "write `5ms`"),
        ("{i: {source: dora/timer/50ms, missed_ticks: «all»}}", "is not one of", ""),
        ("{i: dora/timer/«milis»/5}", "`milis` is not a unit", "did you mean `millis`?"),
        ("{i: dora/timer/millis/«1.5»}", "not a whole number of millis", "dora/timer/micros/1500"),
        ("{i: dora/timer/millis/«0»}", "cannot be zero", ""),
        ("{i: «dora/timer/hz»}", "has no interval", "dora/timer/hz/10"),
        ("{i: dora/«timr»/secs/1}", "is not a source that dora has", "did you mean `timer`?"),
        ("{i: dora/logs/«loud»}", "`loud` is not a log level", "levels are"),
        ("{i: «{queue_size: 1}»}", "the field `source` of an input is missing", "`node/output`"),
        ("{i: {source: a/x, «qeue_size»: 1}}", "an input has no field `qeue_size`", "`queue_size`?"),
        ("{i: {source: a/x, queue_size: «-1»}}", "from 0 to 10000000", ""),
        ('{i: {source: a/x, queue_size: «"5"»}}', "whole number", "remove the quotes"),
        ("{i: {source: a/x, queue_policy: «backpresure»}}", "is not one of", "`backpressure`?"),
        ("{i: {source: a/x, deadline: «50»}}", "expected a duration with its unit", "write `50ms`"),
        ("{i: {source: a/x, max_age: «1.5»}}", "expected a duration with its unit", "write `1.5ms`"),
        ("{i: {source: a/x, rate: «10»}}", "expected a rate with its unit", "write `10hz`"),
        ("{i: {source: a/x, keep: «stop»}}", "expected a list of metadata keys", "write `[stop]`"),
        (
            "{i: {source: dora/timer/hz/5, «deadline»: 1s}}",
            "the input `i` of node `n` is a timer, whose ticks the node makes itself",
            "leave it out",
        ),
        ("{i: {source: dora/timer/hz/5, «rate»: 2hz}}", "`rate` means nothing there", "timer's interval"),
        ("{i: {source: dora/timer/hz/5, queue_policy: «latest»}}", "a timer, which has no queue", "leave"),
        ("{i: {source: dora/logs, «keep»: [stop]}}", "log entries, which have no metadata", "leave `keep`"),
        (
            "{i: {source: a/x, queue_policy: latest, queue_size: «5»}}",
            "has `queue_policy: latest`, which has one place",
            "leave `queue_size` out",
        ),
        (
            "{i: {source: a/x, queue_policy: backpressure, «max_age»: 1s}}",
            "`max_age` leaves out messages that are too old, and with `queue_policy: backpressure`",
            "remove `max_age`, or write `queue_policy: drop_oldest`",
        ),
        (
            "{i: {source: a/x, queue_policy: backpressure, «rate»: 5hz}}",
            "gets every message",
            "remove `rate`",
        ),
        (
            "{i: {source: a/x, queue_policy: backpressure, «keep»: [k]}}",
            "is for queues that push messages out",
            "remove `keep`",
        ),
        (
            "{i: {source: a/x, input_timeout: 2, deadline: «2s»}}",
            "is never missed, because `input_timeout: 2` closes the input before",
            "a shorter deadline",
        ),
        (
            "{i: {source: a/x, rate: 10hz, deadline: «100ms»}}",
            "always misses the deadline of 100ms, because with `rate: 10hz` its messages are 100ms apart",
            "a longer deadline",
        ),
        ("{i: 'camera/«imag»'}", "has no output `imag`", "did you mean `camera/image`?"),
        ("{i: &s camera/«imag»}", "has no output `imag`", "did you mean `camera/image`?"),
    ],
)
def test_inputs(inputs: str, message: str, hint: str) -> None:
    check(
        NODE
        + """  - {id: camera, path: c.py, outputs: [image]}
  - id: rt
    operators:
      - {id: one, python: 1.py, outputs: [box, mask]}
      - {id: two, python: 2.py, outputs: [box]}
  - {id: det, operator: {python: d.py, outputs: [box]}}
  - id: n
    path: n.py
    inputs: """
        + inputs
        + "\n",
        message,
        hint,
    )


@pytest.mark.parametrize(
    ("node", "message", "hint"),
    [
        ("operator: «o.py»", "expected a mapping for an operator", "{id: detect, python: detect.py}"),
        ("operator: «{inputs: {}}»", "the operator of the node `o` does not say", "`python:`"),
        ("operator: {«python»: }", "the operator of the node `o` does not say", "`python:`"),
        ("operator: {python: «[]»}", "expected the path of a Python file", ""),
        ("operator: {python: «{conda_env: x}»}", "the field `source` of the operator's `python`", "file"),
        ("operator: {«pyton»: o.py}", "an operator has no field `pyton`", "`python`?"),
        ("operator: {wasm: «o.wasm»}", "does not support operators in WebAssembly", "Python"),
        ("operator: {shared-library: «o»}", "does not support operators in shared libraries", "Python"),
        (
            "operator: {python: o.py, send_logs_as: «l»}",
            "not an output of the operator of node `o`",
            "[l]",
        ),
        ("operators: «{id: p, python: o.py}»", "expected a list of operators", "`operator:`"),
        ("operators: «[]»", "this list of operators is empty", ""),
        (
            "operators: [«{python: o.py}»]",
            "an operator of the node `o` has no id",
            "`id:`",
        ),
        (
            "operators: [{id: p, python: o.py}, {id: «p», python: o.py}]",
            "two operators with the id `p`",
            "",
        ),
        ("«args»: x\n    operator: {python: o.py}", "cannot have the field `args`", "move `args`"),
        (
            "«build»: make\n    operators: [{id: p, python: o.py}]",
            "cannot have the field `build` itself",
            "the operator that it concerns",
        ),
        (
            "operators: [{id: p, python: o.py, min_log_level: info},"
            " {id: q, python: o.py, «min_log_level»: info}]",
            "`min_log_level` is set twice",
            "keep one",
        ),
        (
            "operators: [{id: p, python: {source: o.py, conda_env: x}}, {id: q, python: «o.py»}]",
            "different conda environments",
            "two nodes",
        ),
    ],
)
def test_operators(node: str, message: str, hint: str) -> None:
    check(f"nodes:\n  - id: o\n    {node}\n", message, hint)


@pytest.mark.parametrize(
    ("marked", "message", "hint"),
    [
        ("nodes:\n«\t»- id: a", "a tab is used for indentation", "spaces only"),
        ("nodes: a«:» b", "a `:` is not expected here", "in quotes"),
        ("nodes: «[a»\n", "this list is never closed", "`]`"),
        ("nodes: [a,\n«»", "the file ends here", "close the quote, list or mapping above"),
        ("nodes: []\nenv: «{A:» 1\n", "this mapping is never closed", "`}`"),
        ("nodes: []\nenv: {A: «'x}»\n", "this quoted text is never closed", "closing quote"),
        ("nodes: []\nenv: {A: «@x}»", "a plain text cannot start with `@`", "in quotes"),
        ('nodes: []\nenv: {A: "«\\q"}»', "this escape is unknown", ""),
        ("nodes:\n  - id: a\n   «path:» b\n", "the indentation of this line fits nothing", "line it up"),
        ('nodes: []\nenv:\n  A: "x" «y»\n', "is not expected here", "whole value in quotes"),
        ("nodes:\n  - id: a\n    «path» b\n    args: c\n", "a `:` is missing", "a space follows it"),
        ("nodes:\n  - id: a\n    «path:b»\n", "a `:` is missing", "a space follows it"),
        ("nodes: []\n«---»\nnodes: []\n", "a second YAML document starts here", "`---`"),
        (
            "env: {}\nnodes: []\n«env»: {A: 1}\n",
            "the key `env` is there twice; the first one is on line 1",
            "one",
        ),
        ("nodes: []\nenv: «*e»\n", "the alias `*e` refers to an anchor that does not exist", "`&e`"),
        ("nodes: &n [«*n»]\n", "refers to a value that contains it", ""),
        ("nodes: []\nenv: {«<<»: 1}\n", "`<<` merges mappings only", "`<<: *anchor`"),
        ("nodes: []\n? «[a]»\n: b\n", "a key has to be a single word or text", ""),
        (
            "nodes: []\nenv: {A: «!include x»}\n",
            "the tag `!include` is not supported",
            "remove the tag",
        ),
        ("nodes: []\nenv: {A: «!!int x»}\n", "`x` does not fit its tag `!!int`", ""),
        ('nodes: []\nenv: {A: «"a\\0b"»}\n', "a character that no program can be given", ""),
        ("nodes: " + "[" * 63 + "«[»" + "[" * 9, "more than 64 levels deep", ""),
    ],
)
def test_syntax(marked: str, message: str, hint: str) -> None:
    check(marked, message, hint)


def test_control_characters_are_named_and_not_printed() -> None:
    (problem,) = problems("nodes: []\n# \x1b[31m é")
    assert (problem.line, problem.column) == (2, 3)
    assert "U+001B" in problem.message
    assert "\x1b" not in str(problem)


def test_lone_surrogates_are_named() -> None:
    (problem,) = problems("nodes: [] # \ud800")
    assert "U+D800" in problem.message and problem.column == 13


def test_exponential_aliases_are_refused() -> None:
    lines = ["x-a: &x0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"x-{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 10)}]" for i in range(1, 10)]
    (problem,) = problems("\n".join([*lines, "nodes: []"]))
    assert "grows too large" in problem.message


def warned(text: str) -> tuple[dora.dataflow.model.Dataflow, list[str]]:
    """Read a dataflow; return it with its warnings: line, column, message."""
    dataflow = dora.dataflow.parse(text, working_dir="/w", environ={})
    return dataflow, [f"{each.line}:{each.column}: {each.message}" for each in dataflow.warnings]


def test_files_that_are_there_need_not_be_distributed() -> None:
    dataflow, warnings = warned("deploy: {working_dir: /srv, distribute: scp}\nnodes: [{id: a, path: a}]")
    assert warnings == [
        "1:41: `distribute: scp` has no effect beside `working_dir`, which says that the files are there"
    ]
    assert dataflow.nodes[0].deploy == Deploy(working_dir="/srv")


def test_what_happens_when_a_machine_is_lost_can_be_said_for_all_nodes() -> None:
    dataflow, _ = warned(
        "deploy: {on_machine_lost: stop}\n"
        "nodes: [{id: a, path: a}, {id: b, path: b, deploy: {machine: robot}}, "
        "{id: c, path: c, deploy: {machine: desk, on_machine_lost: keep}}]"
    )
    assert [node.deploy for node in dataflow.nodes] == [
        Deploy(on_machine_lost="stop"),
        Deploy("robot", on_machine_lost="stop"),
        Deploy("desk"),
    ]
    assert [node.deploy.names_place for node in dataflow.nodes] == [False, True, True]


def test_a_relative_working_directory_is_below_that_of_the_dataflow() -> None:
    dataflow, warnings = warned(
        "deploy: {working_dir: ../up}\n"
        "nodes: [{id: a, path: a, deploy: {working_dir: b/}}, {id: c, path: c}]"
    )
    assert [dataflow.home_of(node) for node in dataflow.nodes] == ["/w/b", "/up"]
    assert [warning.partition(" is relative")[0] for warning in warnings] == [
        "1:23: the folder `../up`",
        "2:48: the folder `b/`",
    ]


def test_queue_size_may_be_spelt_with_a_dash() -> None:
    dataflow, warnings = warned("""nodes:
  - id: a
    path: a
    outputs: [x]
    inputs: {i: {source: a/x, queue-size: 3}}
  - id: o
    operator: {python: o.py, inputs: {i: {source: a/x, queue-size: 4}}}
  - id: p
    operators: [{id: q, python: o.py, inputs: {i: {source: a/x, queue-size: 5}}}]
""")
    assert [node.inputs[0].queue_size for node in dataflow.nodes] == [3, 4, 5]
    written = dataflow.descriptor["nodes"][0]["inputs"]
    assert written == {"i": {"source": "a/x", "queue_size": 3}}
    places = ["5:31", "7:56", "9:65"]
    assert warnings == [f"{place}: `queue-size` is read as `queue_size`" for place in places]
    check(
        "nodes: [{id: a, path: a, outputs: [x], "
        "inputs: {i: {source: a/x, queue_size: 1, «queue-size»: 2}}}]",
        "`queue-size` means the same as `queue_size` on line 1",
        "remove one",
    )


def test_metadata_of_an_input_has_no_effect() -> None:
    dataflow, warnings = warned("""nodes:
  - id: a
    path: a
    outputs: [x]
    inputs: {i: {source: a/x, metadata: {primitive: image}}}
""")
    assert warnings == ["5:31: `metadata` of an input has no effect"]
    assert dataflow.descriptor["nodes"][0]["inputs"] == {"i": {"source": "a/x"}}


@pytest.mark.parametrize("field", ["restart_window", "health_check_timeout", "startup_timeout"])
def test_a_limit_of_zero_seconds_is_none(field: str) -> None:
    dataflow, warnings = warned(f"nodes: [{{id: a, path: a, {field}: 0}}]")
    assert dataflow.nodes == warned("nodes: [{id: a, path: a}]")[0].nodes
    assert warnings == [f"1:{28 + len(field)}: a limit of zero seconds counts as no limit"]


@pytest.mark.parametrize("size", ["0", "0KB"])
def test_a_limit_of_zero_bytes_is_none(size: str) -> None:
    dataflow, warnings = warned(
        f"nodes: [{{id: a, path: a, max_log_size: {size}, "
        "shared_memory_pool_size: 0, max_rotated_files: 0}]"
    )
    assert dataflow.nodes == warned("nodes: [{id: a, path: a}]")[0].nodes
    assert [warning.partition(": ")[2] for warning in warnings] == [
        "a limit of zero bytes counts as no limit"
    ] * 2


def test_an_input_timeout_of_zero_is_none() -> None:
    text = "nodes: [{id: a, path: a, outputs: [x], inputs: {i: {source: a/x, input_timeout: 0.0}}}]"
    dataflow, warnings = warned(text)
    assert dataflow.nodes[0].inputs[0].input_timeout is None
    assert warnings == ["1:81: a limit of zero seconds counts as no limit"]


def test_outputs_that_could_not_be_read_do_not_also_seem_missing() -> None:
    (problem,) = problems(
        "nodes: [{id: a, path: a, outputs: [x, 'y z']}, {id: b, path: b, inputs: {i: a/w}}]"
    )
    assert "`y z`" in problem.message


@pytest.mark.parametrize(
    "node",
    ["path: a.py, «outputss»: [x]", "operator: {python: a.py, «outputss»: [x]}"],
    ids=["node", "operator"],
)
def test_outputs_with_a_misspelt_key_do_not_also_seem_missing(node: str) -> None:
    receiver = "  - {id: b, path: b.py, inputs: {i: a/x}}\n"
    check(
        f"nodes:\n  - {{id: a, {node}}}\n{receiver}", "has no field `outputss`", "did you mean `outputs`?"
    )


def test_all_problems_come_at_once_in_the_order_of_the_file() -> None:
    text = """nodes:
  - id: camera
    path: camera.py
    outputs: [image]
    restart_delay: fast
  - id: plot
    pth: plot.py
    path: plot.py
    inputs:
      image: camra/image
env: {"a b": x}
"""
    with pytest.raises(DataflowError) as caught:
        dora.dataflow.parse(text, working_dir="/w", environ={}, shown_file="flow.yml")
    assert (
        str(caught.value)
        == """\
flow.yml:5:20: error: expected a number of seconds, found the text `fast`
  5 |     restart_delay: fast
    |                    ^^^^

flow.yml:7:5: error: a node has no field `pth`
  7 |     pth: plot.py
    |     ^^^
    help: did you mean `path`?

flow.yml:10:14: error: there is no node `camra`, which the input `image` of node `plot` refers to
  10 |       image: camra/image
     |              ^^^^^
    help: did you mean `camera/image`?

flow.yml:11:7: warning: `a b` cannot name an environment variable; it is left out
  11 | env: {"a b": x}
     |       ^^^^^"""
    )


def test_carets_line_up_under_wide_characters_and_tabs() -> None:
    (problem,) = problems("nodes: []\nenv:\t{日本: [x]}")
    text, carets = str(problem).splitlines()[1:3]
    assert text == "  2 | env:\t{日本: [x]}"
    assert carets == "    |     \t       ^^^"


def test_a_very_long_line_is_cut_around_the_place() -> None:
    nodes = ", ".join(f"{{id: n{number}, path: a.py}}" for number in range(500))
    (problem,) = problems(f"nodes: [{nodes.replace('n250', 'n249')}]")
    text, carets = str(problem).splitlines()[1:3]
    assert 150 < len(text) < 200
    assert text[carets.index("^") :].startswith("n249, ")
    assert carets.count("^") == len("n249")
    assert "…" in text[:8] and text.endswith("…")
    (problem,) = problems("nodes: " + "x" * 1000)
    assert [len(line) < 200 for line in str(problem).splitlines()] == [True] * 4


def test_many_problems_are_cut_short_in_the_text_only() -> None:
    with pytest.raises(DataflowError) as caught:
        dora.dataflow.parse("nodes:\n" + "  - {id: a b, path: c}\n" * 60, working_dir="/w", environ={})
    assert len(caught.value.problems) == 60
    assert str(caught.value).endswith("... and 10 more")


def test_an_empty_id_is_not_suggested() -> None:
    text = 'nodes: [{id: a, path: a, inputs: {i: x/y}}, {id: b, path: b}, {id: "", path: c}]'
    assert [problem.hint for problem in problems(text)] == [
        "the nodes are `a` and `b`",
        "choose another id",
    ]


def test_an_alias_used_twice_is_reported_once() -> None:
    found = problems("nodes: [{id: a, path: a, env: &e {A: [1]}}, {id: b, path: b, env: *e}]")
    assert len(found) == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("flw.yml", None, "there is no file `flw.yml`; did you mean `flow.yml`?"),
        ("folder", None, "`folder` is a folder"),
        ("latin.yml", b"nodes: []\n# \xe9", "`latin.yml` is not a text file in UTF-8 (line 2)"),
        ("a\0b", None, "cannot read"),
    ],
)
def test_files_that_cannot_be_read(
    name: str, content: bytes | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flow.yml").write_text("nodes: []")
    (tmp_path / "folder").mkdir()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataflowError) as caught:
        dora.dataflow.load(name)
    assert message in str(caught.value)
    assert caught.value.problems[0].message in str(caught.value)


PATHS = """nodes:
  - {id: a, path: a.py, outputs: [x]}
  - {id: b, path: b.py, inputs: {i: a/x, tick: dora/timer/hz/1}, outputs: [y]}
  - {id: c, path: c.py, outputs: [z]}
paths:
  - """


@pytest.mark.parametrize(
    ("marked", "message", "hint"),
    [
        (
            "{from: «d/x», to: b/i, budget: 1ms}",
            "the dataflow has no node `d`, where a path begins",
            "its nodes are `a`, `b` and `c`",
        ),
        ("{from: «a/z», to: b/i, budget: 1ms}", "node `a` has no output `z`", "its outputs are `x`"),
        (
            "{from: a/x, to: «b/j», budget: 1ms}",
            "node `b` has no input `j`",
            "its inputs are `i` and `tick`",
        ),
        ("{from: «a», to: b/i, budget: 1ms}", "`a` is no output", "write `<node>/<output>`"),
        (
            "{from: c/z, to: «b/i», budget: 1ms}",
            "no path from `c/z` to `b/i`",
            "data gets there from `a/x`",
        ),
        (
            "{from: b/y, to: «b/i», budget: 1ms}",
            "no path from `b/y` to `b/i`",
            "data gets there from `a/x`",
        ),
        (
            "{from: a/x, to: «b/tick», budget: 1ms}",
            "no data gets to `b/tick`: a timer feeds it",
            "name an input",
        ),
        ("{from: a/x, to: b/i, budget: «40»}", "expected a duration with its unit", "40ms"),
        ("«{from: a/x, to: b/i}»", "the field `budget` of a path is missing", "How long data may take"),
        ("{from: a/x, to: b/i, budget: 1ms, on_miss: «panic»}", "`panic` is not one of `warn`", ""),
        (
            "{from: a/x, to: b/i, budget: 1ms}\n  - «{from: a/x, to: b/i, budget: 2ms}»",
            "there are two budgets from `a/x` to `b/i`",
            "keep the one that is meant",
        ),
    ],
)
def test_bad_paths(marked: str, message: str, hint: str) -> None:
    check(PATHS + marked, message, hint)


ON_THE_WAY = """nodes:
  - {id: a, path: a.py, outputs: [x]}
  - {id: b, path: b.py, inputs: {i: a/x, other: a/x}, outputs: [y], sync: [GROUP]}
  - {id: c, path: c.py, inputs: {i: b/y, back: d/y}, outputs: [y]}
  - {id: d, path: d.py, inputs: {i: c/y}, outputs: [y]}
  - {id: e, path: e.py, inputs: {i: {source: d/y, max_age: 30ms}}}
paths:
  - {from: a/x, to: e/i, budget: 40ms}
  - PART
"""


@pytest.mark.parametrize(
    ("group", "part", "warning"),
    [
        ("{inputs: [i, other], by: arrival}", "{from: b/y, to: d/i, budget: 40ms}", None),
        (
            "{inputs: [i, other], by: arrival}",
            "{from: c/y, to: d/i, budget: 41ms}",
            "8:34: the budget of 40ms from `a/x` to `e/i` may be missed although nothing is late on the "
            "way: 41ms from `c/y` to `d/i` are allowed",
        ),
        (
            "{inputs: [i, other], tolerance: 1ms, timeout: 20ms}",
            "{from: b/y, to: d/i, budget: 15ms}\n  - {from: d/y, to: e/i, budget: 6ms}",
            "8:34: the budget of 40ms from `a/x` to `e/i` may be missed although nothing is late on the "
            "way: 20ms for a set of `b/i`, 15ms from `b/y` to `d/i`, 6ms from `d/y` to `e/i` add up "
            "to 41ms",
        ),
        (
            "{inputs: [i, other], by: arrival}",
            "{from: d/y, to: e/i, budget: 30ms}",
            "9:34: the budget of 30ms from `d/y` to `e/i` is never missed, because the input has "
            "`max_age: 30ms`, and gets no older messages",
        ),
    ],
)
def test_a_budget_fits_the_other_times_on_its_path(group: str, part: str, warning: str | None) -> None:
    text = ON_THE_WAY.replace("GROUP", group).replace("PART", part)
    assert warned(text)[1] == ([] if warning is None else [warning])


def test_a_budget_may_be_missed_by_messages_that_never_grow_too_old() -> None:
    text = ON_THE_WAY.replace("GROUP", "{inputs: [i, other], by: arrival}")
    text = text.replace("PART", "{from: d/y, to: e/i, budget: 30ms}")
    assert warned(text.replace("max_age: 30ms", "max_age: 30ms, keep: [stop]"))[1] == []


SETS = """nodes:
  - {id: a, path: a.py, outputs: [x]}
  - {id: z, path: z.py, outputs: [x]}
  - id: b
    path: b.py
    inputs: {i: a/x, j: a/x, k: LEAD, l: z/x}
    outputs: [y]
    sync: [{inputs: [k, l], tolerance: 1ms, timeout: 50ms}, {inputs: [i, j], tolerance: 1ms, timeout: 20ms}]
  - {id: c, path: c.py, inputs: {i: b/y}}
paths:
  - {from: a/x, to: c/i, budget: 40ms}
"""


def test_the_longest_wait_for_a_set_that_the_path_leads_counts() -> None:
    assert warned(SETS.replace("LEAD", "z/x"))[1] == []
    (warning,) = warned(SETS.replace("LEAD", "a/x"))[1]
    assert warning.endswith("50ms for a set of `b/k` are allowed")


TIMED = """nodes:
  - id: source
    path: s.py
    inputs: {tick: dora/timer/millis/100MORE}
    outputs: [x]
  - id: rt
    operators:
      - id: op
        python: op.py
        inputs: {tick: dora/timer/hz/5}
        outputs: [x]
  - id: n
    path: n.py
    inputs:
      fast: {source: source/x, deadline: 100ms}
      slow: {source: source/x, deadline: 101ms}
      other: {source: rt/op/x, deadline: 150ms}
"""


def test_a_deadline_that_is_too_short_for_the_timer_behind_its_source_is_suspicious() -> None:
    dataflow, _ = warned(TIMED.replace("MORE", ""))
    fast, other = dataflow.warnings
    assert (fast.line, fast.column) == (15, 42)
    assert (
        "the input `fast` of node `n` may always miss its deadline of 100ms: nothing but the timer "
        "`dora/timer/millis/100` makes `source/x` send, every 100ms" in fast.message
    )
    assert fast.hint == "choose a longer deadline, or a faster timer"
    assert "the input `other`" in other.message and "every 200ms" in other.message


def test_a_silence_that_is_too_short_for_the_timer_of_the_node_is_suspicious() -> None:
    text = (
        "nodes:\n"
        "  - id: a\n"
        "    path: a.py\n"
        "    inputs: {tick: dora/timer/10hz}\n"
        "    outputs: [{x: {safe_state: {value: 0, silence: 100ms}}}]\n"
        "  - {id: b, path: b.py, inputs: {i: a/x}}\n"
    )
    (warning,) = warned(text)[0].warnings
    assert (warning.line, warning.column) == (5, 52)
    assert "the output `x` of node `a` may come between any two messages" in warning.message
    assert "every 100ms, and `silence` is 100ms" in warning.message
    assert not warned(text.replace("silence: 100ms", "silence: 150ms"))[0].warnings


def test_a_source_that_gets_other_messages_too_may_send_more_often_than_its_timer() -> None:
    dataflow, _ = warned(TIMED.replace("MORE", ", more: rt/op/x"))
    assert [problem.message[:17] for problem in dataflow.warnings] == ["the input `other`"]
