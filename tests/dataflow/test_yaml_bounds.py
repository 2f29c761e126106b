"""Files that are built to keep the check busy: it ends soon, and says little."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from waiting import SLOWDOWN

from dora.daemon.build.inline_script import inline_environment
from dora.dataflow import load
from dora.errors import BuildError, DataflowError, Problem

SECONDS = 10.0  # of processor time: a fraction of one second is needed, minutes were


def problems(folder: Path, text: str) -> tuple[Problem, ...]:
    """Return what is wrong with a dataflow, of which the check has to be quick and short."""
    file = folder / "dataflow.yml"
    file.write_text(text)
    begun = time.process_time()
    with pytest.raises(DataflowError) as caught:
        load(file)
    assert time.process_time() - begun < SECONDS
    assert len(str(caught.value)) < 100_000
    return caught.value.problems


@pytest.mark.lengthy
def test_two_thousand_unknown_sources_are_reported_in_about_a_second(tmp_path: Path) -> None:
    lines = (
        f"  - {{id: node_{i}, path: a.py, outputs: [out], inputs: {{x: nodee_{i}/outt}}}}\n"
        for i in range(2000)
    )
    file = tmp_path / "dataflow.yml"
    file.write_text("nodes:\n" + "".join(lines))
    begun = time.process_time()
    with pytest.raises(DataflowError) as caught:
        load(file)
    assert time.process_time() - begun < 3.0 * SLOWDOWN
    found = caught.value.problems
    assert len(found) == 2000
    assert [problem.hint for problem in found[:50]] == [f"did you mean `node_{i}/out`?" for i in range(50)]
    assert str(caught.value).endswith("... and 1950 more")


@pytest.mark.lengthy
def test_two_thousand_unknown_outputs_of_a_node_with_as_many(tmp_path: Path) -> None:
    outputs = ", ".join(f"out_{i}" for i in range(2000))
    lines = (f"  - {{id: n{i}, path: a.py, inputs: {{x: s/outt_{i}}}}}\n" for i in range(2000))
    found = problems(
        tmp_path, f"nodes:\n  - {{id: s, path: a.py, outputs: [{outputs}]}}\n" + "".join(lines)
    )
    assert len(found) == 2000
    assert found[7].hint == "did you mean `s/out_7`?"


@pytest.mark.lengthy
def test_twenty_thousand_unknown_fields(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        "nodes:\n  - id: a\n    paht: a.py\n" + "".join(f"    pathh{i}: 1\n" for i in range(20_000)),
    )
    assert found[0].hint == "did you mean `path`?"


@pytest.mark.lengthy
def test_sixty_thousand_outputs(tmp_path: Path) -> None:
    outputs = ", ".join(f"out_{i}" for i in range(60_000))
    assert problems(tmp_path, f"nodes:\n  - {{id: a, path: a.py, outputs: [{outputs}], x: 1}}\n")


def test_a_name_of_a_megabyte_is_not_repeated(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, f"nodes:\n  - {{id: a, path: a.py, inputs: {{x: {'ab' * 500_000}/y}}}}\n")
    assert len(found.message) < 300


@pytest.mark.lengthy
@pytest.mark.parametrize(
    "field",
    [
        "python: {version: '3" + ("," + " " * 30 + "3") * 15 + "x'}",
        "max_log_size: '1" + " " * 300_000 + "x'",
        "env: {A: '" + "${A:-" * 1_000_000 + "', B: $NOT_SET_ANYWHERE}",
        "restart_delay: '" + "1" * 300_000 + "x'",
    ],
)
def test_no_pattern_is_slow_on_long_text(tmp_path: Path, field: str) -> None:
    assert problems(tmp_path, f"nodes:\n  - {{id: a, path: a.py, {field}}}\n")


def test_lists_of_lists_in_a_type_end(tmp_path: Path) -> None:
    (tmp_path / "types").mkdir()
    (tmp_path / "types" / "my.yml").write_text(
        f"types:\n  A: {{arrow: '{'List<' * 5000}Int8{'>' * 5000}'}}\n"
    )
    file = tmp_path / "dataflow.yml"
    file.write_text("nodes:\n  - {id: a, path: a.py, outputs: [x], output_types: {x: my/A}}\n")
    warnings = [str(warning) for warning in load(file).type_warnings]
    assert any("the name of a type has at most 1000 characters" in warning for warning in warnings)


@pytest.mark.parametrize(
    ("git", "words"),
    [
        ("--upload-pack=touch pwned", "begins with a dash"),
        ("-x", "begins with a dash"),
        (" -x", "begins with a dash"),
        ("ext::sh -c touch% pwned", "asks for the helper program `git-remote-ext`"),
        ("fd::17", "asks for the helper program `git-remote-fd`"),
        ("https://host/a\\nb", "holds a control character"),
    ],
)
def test_an_address_that_git_would_misread_is_refused_with_its_line(
    tmp_path: Path, git: str, words: str
) -> None:
    (found,) = problems(tmp_path, f'nodes:\n  - {{id: a, path: a.py, git: "{git}"}}\n')
    assert words in found.message
    assert (found.line, found.column) == (2, 30)


@pytest.mark.parametrize(
    "git", ["https://host/a.git", "git@[::1]:a.git", "ssh://host/a", "./a", "file:///a"]
)
def test_addresses_of_repositories_are_accepted(tmp_path: Path, git: str) -> None:
    file = tmp_path / "dataflow.yml"
    file.write_text(f'nodes:\n  - {{id: a, path: a.py, git: "{git}"}}\n')
    assert load(file).nodes[0].git is not None


@pytest.mark.parametrize(
    "requirement", ["--index-url=x", " -r x", "-e --x", "numpy\\n--index-url http://x", "numpy\\r-r x"]
)
def test_a_requirement_that_is_an_option_is_refused(tmp_path: Path, requirement: str) -> None:
    text = f'nodes:\n  - {{id: a, path: a.py, python: {{requirements: ["{requirement}"]}}}}\n'
    (found,) = problems(tmp_path, text)
    assert "not a requirement" in found.message or "not one requirement" in found.message


@pytest.mark.parametrize(
    "line",
    ["dependencies = ['--index-url=x']", "dependencies = ['a\\n-r x']", "requires-python = '--help'"],
)
def test_a_script_asks_for_nothing_that_is_an_option(line: str) -> None:
    line = line.replace("'", '"')
    with pytest.raises(BuildError):
        inline_environment(f"# /// script\n# {line}\n# ///\n", "a.py")


def test_many_block_starts_in_a_script_are_parsed_quickly() -> None:
    begun = time.process_time()
    assert inline_environment("# /// script\n" * 100_000, "a.py") is None
    assert time.process_time() - begun < SECONDS
