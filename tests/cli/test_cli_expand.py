"""``dora expand``."""

from pathlib import Path

import pytest
from msgspec import structs

import dora.dataflow
from dora.cli.main import run_command_line
from dora.dataflow.describe import describe

EXAMPLE = Path(__file__).parents[2] / "examples" / "modules"


@pytest.fixture
def run(capsys):
    def run_line(*arguments):
        status = run_command_line(["expand", *arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run_line


def test_the_expanded_dataflow_has_no_modules(run, tmp_path):
    status, out, err = run(str(EXAMPLE / "dataflow.yml"))
    assert (status, err) == (0, "")
    assert "  args: --by 10\n" in out and "  outputs: [scaled]\n" in out
    flat = tmp_path / "flat.yml"
    flat.write_text(out)
    dataflow = dora.dataflow.load(flat)
    assert [node.id for node in dataflow.nodes] == [
        "source",
        "double.multiply",
        "double.limit",
        "again.multiply",
        "again.limit",
        "printer",
    ]
    assert describe(dataflow) == describe(dora.dataflow.load(EXAMPLE / "dataflow.yml"))
    assert run(str(flat)) == (0, out, "")


FILLED_IN = """\
x-note: 0x1F
env:
  A: 1.10
  B: '1.10'
  C: yes
  D: 007
nodes:
- id: a
  name: null
  description: null
  path: a.py
  args: '#'
  build: |-
    make
    make again
  env:
    A: $HOME
  outputs: []
  inputs:
    tick: {source: dora/timer/millis/200, queue_size: 1}
  restart_policy: never
  max_restarts: 0
  deploy: null
deploy: null
debug:
  enable_debug_inspection: false
health_check_interval: null
"""


def test_defaults_are_filled_in_and_numbers_and_texts_printed_as_they_were_written(run, tmp_path):
    text = """\
x-note: 0x1F
env:
  A: 1.10
  B: '1.10'
  C: yes
  D: 007
nodes:
- id: a
  path: a.py
  args: "#"
  build: |-
    make
    make again
  env: {A: $HOME}
  inputs:
    tick: {source: dora/timer/hz/5, queue_size: 1}
"""
    file = tmp_path / "flow.yml"
    file.write_text(text)
    assert run(str(file)) == (0, FILLED_IN, "")


def test_arguments_and_names_stay_as_they_are_written(run, tmp_path):
    file, flat = tmp_path / "flow.yml", tmp_path / "flat.yml"
    file.write_text("""\
nodes:
- {id: 007, path: a.py, args: [--show, False, TRUE, 1.10], outputs: [01], deploy: {labels: {gpu: True}}}
- {id: b, path: b.py, args: True, inputs: {x: 007/01}, lock_memory: True}
""")
    flat.write_text(run(str(file))[1])
    before, after = dora.dataflow.load(file), dora.dataflow.load(flat)
    assert before.nodes[0].args == ("--show", "False", "TRUE", "1.10")
    assert [structs.replace(node, place=None) for node in after.nodes] == [
        structs.replace(node, place=None) for node in before.nodes
    ]


def test_a_module_on_the_web_is_refused(run):
    status, out, err = run("--module", "https://example.com/module.yml")
    assert (status, out) == (2, "")
    assert "`--module` checks files; download this one first: curl -O https://example.com/module.yml" in err


def test_problems_are_shown_as_by_validate(run, tmp_path):
    file = tmp_path / "flow.yml"
    file.write_text("nodes: [{id: a, module: b.yml}]")
    status, out, err = run(str(file))
    assert (status, out) == (1, "")
    assert err.startswith(f"{file}:1:25: error: there is no file")


def test_a_module_file_can_be_checked(run, tmp_path):
    module = str(EXAMPLE / "modules" / "scale.yml")
    assert run("--module", module) == (0, f"Module file is valid: {module}\n", "")
    status, out, err = run("--module", str(EXAMPLE / "dataflow.yml"))
    assert (status, out) == (1, "")
    assert "the field `module` of a module is missing" in err
    assert run("--module", str(tmp_path / "none.yml"))[0] == 1
