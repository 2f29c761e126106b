"""Good documents: what the model says about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import dora.dataflow
from dora.dataflow.layout import RunContext
from dora.dataflow.model import (
    Dataflow,
    InputSpec,
    LogOptions,
    NodeOutput,
    NodeSpec,
    RestartOptions,
    Scheduling,
    SchedulingPolicy,
    TimerSource,
)
from dora.dataflow.plan import plan


def parse(text: str, **more: Any) -> Dataflow:
    arguments: dict[str, Any] = {"working_dir": "/w", "environ": {"HOME": "/home/me", "X": "1"}, **more}
    return dora.dataflow.parse(text, **arguments)


def node(fields: str) -> NodeSpec:
    """Parse one node, the fields given at their indentation."""
    return parse("nodes:\n  - id: a\n    path: a.py\n    outputs: [x, log]\n" + fields).nodes[0]


@pytest.mark.parametrize("path", ["/robot.git", ""])
def test_a_repository_is_shown_and_kept_without_its_password(path: str) -> None:
    address = f"https://me:TOKEN@example.org{path}"
    source = node(f"    git: {address}\n").git
    assert source is not None
    assert (source.secret_address, source.repository) == (address, f"https://example.org{path}")
    assert "TOKEN" not in source.folder


def test_first_example() -> None:
    dataflow = parse(
        """
nodes:
  - id: cam
    path: cam.py
    inputs: {tick: dora/timer/millis/50}
    outputs: [image]
  - id: det
    operator:
      python: det.py
      inputs: {image: {source: cam/image, queue_size: 1}}
      outputs: [bbox]
  - id: plot
    path: dynamic
    inputs: {image: cam/image, bbox: det/bbox}
"""
    )
    cam, det, plot = dataflow.nodes
    assert cam.inputs == (InputSpec("tick", TimerSource(50_000_000, "dora/timer/millis/50")),)
    assert cam.outputs == ("image",)
    assert cam.place == "<dataflow>:3:5"
    assert det.is_runtime and det.outputs == ("bbox",)
    assert det.inputs == (InputSpec("image", NodeOutput("cam", "image"), queue_size=1),)
    assert det.operators[0].inputs[0].id == "image"
    assert plot.is_dynamic
    assert plot.inputs[1].source == NodeOutput("det", "bbox")
    assert dataflow.warnings == ()
    assert dataflow.descriptor["nodes"][1]["operator"]["inputs"]["image"]["queue_size"] == 1


def test_everything_unset_has_its_default() -> None:
    assert parse("nodes: [{id: a, path: a.py}]").nodes[0] == NodeSpec("a", "a.py", place="<dataflow>:1:9")
    dataflow = parse("nodes: []")
    assert dataflow.nodes == ()
    assert dataflow.health_check_interval == 5.0
    assert not dataflow.exit_when_nodes_finish and not dataflow.debug


def test_null_is_as_good_as_absent() -> None:
    text = "{env: , debug: , nodes: [{id: a, path: a.py, inputs: , outputs: ~, args: null, git: }]}"
    (found,) = parse(text).nodes
    assert (found.inputs, found.outputs, found.args) == ((), (), ())


def test_top_level_fields() -> None:
    dataflow = parse(
        "{nodes: [], env: {A: 1, B: x}, exit_when_nodes_finish: true, health_check_interval: 0.5,\n"
        " debug: {enable_debug_inspection: true}, x-anchors: {a: 1}, strict_types: false, deploy: null}",
        env_overrides={"B": "y", "C": "z"},
    )
    assert dataflow.env == {"A": "1", "B": "y", "C": "z"}
    assert dataflow.exit_when_nodes_finish and dataflow.debug
    assert dataflow.health_check_interval == 0.5


def test_reserved_override_is_left_out_with_a_warning() -> None:
    dataflow = parse("nodes: []", env_overrides={"LD_PRELOAD": "x"})
    assert dataflow.env == {}
    assert "`LD_PRELOAD` is reserved" in str(dataflow.warnings[0])


@pytest.mark.parametrize(
    ("written", "args"),
    [
        ('--rate 5 \'a b\' "c\\"d"', ("--rate", "5", "a b", 'c"d')),
        ("$HOME '${X}'", ("$HOME", "${X}")),
        ("# x", ("#", "x")),
        ("5", ("5",)),
    ],
)
def test_args_are_split_but_not_expanded(written: str, args: tuple[str, ...]) -> None:
    block = f"    args: |-\n      {written}\n"
    assert node(block).args == args


def test_args_as_a_list_are_kept_unchanged() -> None:
    assert node("    args: [--name, 'a  b', 1.50, true]").args == ("--name", "a  b", "1.50", "true")


def test_a_shell_command_stays_one_string() -> None:
    shell = parse("nodes: [{id: a, path: shell, args: \"echo 'a  b' | wc -c\"}]").nodes[0]
    assert shell.is_shell and shell.args == ("echo 'a  b' | wc -c",)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("yes", "yes"),
        ("True", "true"),
        ("1.10", "1.10"),
        ("007", "007"),
        ("0x10", "16"),
        ("0o17", "15"),
        ("1e3", "1e3"),
        ('"1e3"', "1e3"),
        ('""', ""),
        ("$HOME/x", "/home/me/x"),
        ("${NO:-d}$$", "d$"),
    ],
)
def test_environment_values(written: str, value: str) -> None:
    assert node(f"    env:\n      A: {written}\n").env == {"A": value}


def test_environment_in_the_descriptor_is_not_expanded() -> None:
    dataflow = parse("nodes: [{id: a, path: a.py, env: {A: $X, B: 1}}]")
    assert dataflow.nodes[0].env == {"A": "1", "B": "1"}
    assert dataflow.descriptor["nodes"][0]["env"] == {"A": "$X", "B": 1}


@pytest.mark.parametrize(
    "name",
    ["DORA_NODE_CONFIG", "DORA_ZENOH_X", "LD_PRELOAD", "LD_LIBRARY_PATH", "DYLD_X", "DORA_AUTH_TOKEN"],
)
def test_reserved_variables_are_left_out_with_a_warning(name: str) -> None:
    dataflow = parse(f"nodes: [{{id: a, path: a.py, env: {{{name}: x, OK: y}}}}]")
    assert dataflow.nodes[0].env == {"OK": "y"}
    (warning,) = dataflow.warnings
    assert warning.severity == "warning" and name in warning.message
    assert warning.source[warning.column - 1 :].startswith(name)


@pytest.mark.parametrize(
    ("command", "word", "mend"),
    [
        ("cd a && make", "&&", "a line of its own"),
        ("make > log", ">", "sh -c"),
        ("cat a | sh", "|", "sh -c"),
        ("echo 'a && b' \\; -c 'x|y'", ";", "a line of its own"),
        ("sh -c 'a && b'", "", ""),
        ("python -c 'a > b'", "", ""),
    ],
)
def test_shell_syntax_in_arguments_is_warned_about(command: str, word: str, mend: str) -> None:
    dataflow = parse(f"nodes:\n  - id: a\n    path: a.py\n    build: {command}\n")
    assert dataflow.nodes[0].build == (command,)
    found = [(problem.message[: len(word) + 2], mend in problem.hint) for problem in dataflow.warnings]
    assert found == ([(f"`{word}`", True)] if word else [])


def test_malformed_variables_are_left_out_with_a_warning() -> None:
    dataflow = parse("nodes: [{id: a, path: a.py, env: {'a b': x, '': y, 'c=d': z}}]")
    assert dataflow.nodes[0].env == {}
    assert len(dataflow.warnings) == 3


def test_build_has_a_command_a_line() -> None:
    text = "    build: |\n      pip install 'a b'\n\n      make\n"
    assert node(text).build == ("pip install 'a b'", "make")
    assert node("    build: [one, two]").build == ("one", "two")


def test_input_options() -> None:
    text = """    inputs:
      a: {source: a/x, queue_size: 0, queue_policy: backpressure, input_timeout: 1}
      b/c: {source: dora/logs/warn/a}
      1: a/log
"""
    first, second, third = node(text).inputs
    assert first == InputSpec(
        "a", NodeOutput("a", "x"), queue_size=1, queue_policy="backpressure", input_timeout=1.0
    )
    assert (second.id, str(second.source)) == ("b/c", "dora/logs/warn/a")
    assert third.id == "1"


def test_restart_fields() -> None:
    text = """    restart_policy: on-failure
    max_restarts: 3
    restart_delay: 0.5
    max_restart_delay: 8
    restart_window: 60
    health_check_timeout: 2
    finish_grace_secs: 0
    startup_timeout: 9.5
    hot_reload: never
    cpu_affinity: [0, 2]
    nice: -5
    scheduler: fifo 50
    lock_memory: true
    shared_memory_pool_size: 64MB
"""
    found = node(text)
    assert found.restart == RestartOptions("on-failure", 3, 0.5, 8.0, 60.0)
    assert (found.health_check_timeout, found.finish_grace, found.startup_timeout) == (2.0, 0.0, 9.5)
    assert found.scheduling == Scheduling((0, 2), -5, SchedulingPolicy("fifo", 50))
    assert (found.lock_memory, node("").lock_memory) == (True, False)
    assert (found.hot_reload, node("").hot_reload) == ("never", "overlap")


def test_the_packages_of_a_node_have_their_places() -> None:
    found = node("    preload: [torch, cv2, torch]\n")
    places = [(package.name, package.place) for package in found.preload or ()]
    assert places == [("torch", "<dataflow>:5:15"), ("cv2", "<dataflow>:5:22")]
    assert (node("").preload, node("    preload: false\n").preload) == ((), None)


@pytest.mark.parametrize(
    ("of_dataflow", "of_node", "found"),
    [
        ("[torch]", "", ["torch"]),
        ("[torch]", "[cv2]", ["cv2"]),
        ("[torch]", "true", []),
        ("[torch]", "false", None),
        ("false", "", None),
        ("false", "[]", []),
    ],
)
def test_the_preload_of_a_node_wins(of_dataflow: str, of_node: str, found: list[str] | None) -> None:
    text = f"preload: {of_dataflow}\nnodes: [{{id: a, path: a.py, preload: {of_node}}}]\n"
    preload = parse(text).nodes[0].preload
    assert found == (None if preload is None else [package.name for package in preload])


def test_log_fields() -> None:
    text = """    send_stdout_as: x
    send_logs_as: log
    min_log_level: WARN
    max_log_size: 1.5 kb
    max_rotated_files: 2
"""
    assert node(text).log == LogOptions("x", "log", "warn", 1536, 2)


@pytest.mark.parametrize(
    ("written", "size"),
    [("4096", 4096), ("50MB", 50 << 20), ('"1 k"', 1024), ("2GiB", 2 << 30), ('"7b"', 7), (".5M", 1 << 19)],
)
def test_byte_sizes(written: str, size: int) -> None:
    assert node(f"    max_log_size: {written}").log.max_log_size == size


def test_runtime_with_several_operators() -> None:
    runtime, reader = parse(
        """
nodes:
  - id: rt
    restart_policy: always
    min_log_level: info
    operators:
      - {id: one, python: one.py, outputs: [a], build: make one, send_stdout_as: a}
      - id: two
        python: {source: two.py}
        inputs: {in: rt/one/a, self: rt/two/b/c}
        outputs: [b/c, log]
        build: make two
        send_logs_as: log
        name: Two
  - {id: reader, path: r.py, inputs: {b: rt/two/b/c}}
"""
    ).nodes
    assert runtime.outputs == ("one/a", "two/b/c", "two/log")
    assert [str(i.source) for i in runtime.inputs] == ["rt/one/a", "rt/two/b/c"]
    assert runtime.build == ("make one", "make two")
    assert runtime.log == LogOptions("one/a", "two/log", "info")
    assert runtime.restart.policy == "always"
    assert runtime.operators[1].name == "Two"
    assert str(reader.inputs[0].source) == "rt/two/b/c"


@pytest.mark.parametrize("source", ["d/out", "d/o.1/out"])
def test_the_only_operator_needs_no_id_in_references(source: str) -> None:
    detector = "{id: d, operator: {id: o.1, python: d.py, outputs: [out]}}"
    text = f"nodes: [{detector}, {{id: r, path: r.py, inputs: {{i: {source}}}}}]"
    assert parse(text).nodes[1].inputs[0].source == NodeOutput("d", "o.1/out")


def test_conda_environment() -> None:
    text = "nodes: [{id: d, operator: {python: {source: d.py, conda_env: ml}}}]"
    assert parse(text).nodes[0].operators[0].conda_env == "ml"


def test_anchors_and_merge_keys() -> None:
    dataflow = parse(
        """
x-common: &common
  restart_policy: always
  env: &env {A: 1}
nodes:
  - &first
    <<: *common
    id: a
    path: a.py
  - <<: [*first, *common]
    id: b
    env: {<<: *env, B: 2}
"""
    )
    first, second = dataflow.nodes
    assert (second.id, second.path, second.restart.policy) == ("b", "a.py", "always")
    assert second.env == {"A": "1", "B": "2"} and first.env == {"A": "1"}
    assert dataflow.descriptor["nodes"][1]["path"] == "a.py"


def test_words_that_yaml_1_1_took_for_booleans_are_ids() -> None:
    dataflow = parse(
        "nodes: [{id: on, path: a.py, outputs: [yes, no]}, {id: off, path: b.py, inputs: {y: on/yes}}]"
    )
    assert [n.id for n in dataflow.nodes] == ["on", "off"]


@pytest.mark.parametrize("nothing", ["", "~", "null", "!!null null", '!!null ""'])
def test_a_field_that_is_null_counts_as_absent(nothing: str) -> None:
    assert node(f"    args: {nothing}\n    restart_policy: {nothing}\n") == node("")


@pytest.mark.parametrize("nothing", ["", "false", '""', "[]", "{}"])
def test_an_empty_field_that_this_version_does_not_support_counts_as_absent(nothing: str) -> None:
    assert node(f"    hub: {nothing}\n") == node("")


def test_a_repeated_line_is_a_warning() -> None:
    dataflow = parse("nodes: [{id: a, path: a.py, env: {A: 1, B: 2, A: 1}}]")
    assert dataflow.nodes[0].env == {"A": "1", "B": "2"}
    assert "the key `A` is there twice" in dataflow.warnings[0].message


def test_duplicate_outputs_are_merged_with_a_warning() -> None:
    dataflow = parse("nodes: [{id: a, path: a.py, outputs: [x, x]}]")
    assert dataflow.nodes[0].outputs == ("x",)
    assert "`x` is listed twice" in dataflow.warnings[0].message


def test_unknown_node_in_a_log_source_is_a_warning() -> None:
    dataflow = parse("nodes: [{id: a, path: a.py, inputs: {l: dora/logs/info/b}}]")
    assert "there is no node `b`" in dataflow.warnings[0].message


def test_fields_without_effect_on_a_dynamic_node_are_a_warning() -> None:
    dataflow = parse("nodes: [{id: a, path: dynamic, restart_policy: always, startup_timeout: 5}]")
    assert [w.message.split()[0] for w in dataflow.warnings] == ["`restart_policy`", "`startup_timeout`"]


@pytest.mark.parametrize("path", ["dynamic", "shell"])
def test_packages_for_a_node_that_imports_none_are_a_warning(path: str) -> None:
    fields = f"path: {path}, args: {'x' if path == 'shell' else ''}"
    (warning,) = parse(f"nodes: [{{id: a, {fields}, preload: [torch]}}]").warnings
    assert "`preload` has no effect on the node `a`" in warning.message and warning.line == 1
    for harmless in ("preload: false", "preload: true"):
        assert not parse(f"nodes: [{{id: a, {fields}, {harmless}}}]").warnings
    assert not parse(f"{{preload: [torch], nodes: [{{id: a, {fields}}}]}}").warnings


def test_path_keeps_other_variables_with_a_warning() -> None:
    dataflow = parse("nodes: [{id: a, path: $HOME/$X/a.py}]")
    assert dataflow.nodes[0].path == "/home/me/$X/a.py"
    assert "`$X` in a path" in dataflow.warnings[0].message


def test_documentation_fields_are_accepted() -> None:
    text = """    output_metadata: {x: [width, height]}
    pattern: service-server
    output_framing: {x: raw}
    output_types: {}
"""
    assert node(text).id == "a"
    dataflow = parse("nodes: [{id: a, path: a, pattern: magic}]")
    assert "`magic` is not one of" in dataflow.type_warnings[0].message


def test_cycles_and_self_loops_are_allowed() -> None:
    assert len(parse("nodes: [{id: a, path: a.py, inputs: {i: a/o}, outputs: [o]}]").nodes) == 1


def test_the_model_can_be_planned() -> None:
    dataflow = parse(
        "nodes: [{id: a, operator: {python: a.py, inputs: {i: b/o}}}, {id: b, path: b, outputs: [o]}]"
    )
    found = plan(dataflow, RunContext("id", "/run", "p_", "/board"))
    assert [str(link) for link in found.links] == ["b/o -> a/i"]


def test_ids_may_be_longer_than_the_name_of_a_channel() -> None:
    long = "o" * 150
    outputs = f"[{long}, {long}p, x]"
    found = plan(
        parse(f"nodes: [{{id: {'a' * 120}, path: a.py, outputs: {outputs}}}]"),
        RunContext("id", "/run", "p_", "/board"),
    )
    channels = [output.service for output in found.configs["a" * 120].outputs]
    assert len(set(channels)) == 3
    assert all(len(channel) <= 255 for channel in channels)
    assert f"id/{'a' * 120}/x" in channels


def test_load_reads_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "flow.yml"
    file.write_bytes("\ufeffnodes: [{id: a, path: a.py, env: {A: $WHERE}}]".encode())
    monkeypatch.setenv("WHERE", "here")
    dataflow = dora.dataflow.load(file)
    assert dataflow.working_dir == str(tmp_path)
    assert dataflow.file == str(file)
    assert dataflow.nodes[0].env == {"A": "here"}
    assert dora.dataflow.load(file, environ={"WHERE": "there"}).nodes[0].env == {"A": "there"}


def test_messages_name_the_file_as_the_user_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flow.yml").write_text("nodes: [{id: a, path: a.py}]")
    monkeypatch.chdir(tmp_path)
    assert dora.dataflow.load("flow.yml").nodes[0].place == "flow.yml:1:9"
