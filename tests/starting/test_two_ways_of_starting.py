"""A node cannot tell whether it was started from the template or plainly, and nobody else can.

All nodes of `cases.py` run once each way, in real ``dora run``s. `allowed.py` lists what may differ.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from allowed import ALLOWED, PLAIN
from cases import CASES, JOINED, KILLED
from two_ways import RANDOM, WAYS, Allowed, Difference, NodeRecord, Way, differences, record_way

NODES = (*CASES, *(node["id"] for node in (*JOINED, *KILLED)))
RUNS = ("dora run of programs", "dora run of a dataflow", "killed dora run")

Records = dict[Way, dict[str, NodeRecord]]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Records]:
    """Run everything both ways."""
    folder = tmp_path_factory.mktemp("two-ways") / "programs"
    root = tempfile.mkdtemp(prefix="dora-test-", dir="/tmp")  # pytest's own is too long for sockets
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DORA_RUNTIME_DIR", root)
        yield {way: record_way(folder, way, mark=str(folder)) for way in WAYS}
    shutil.rmtree(root, ignore_errors=True)


@pytest.mark.processes
@pytest.mark.timeout(900)
@pytest.mark.parametrize("node", [*NODES, *RUNS])
def test_both_ways_are_alike(records: Records, node: str) -> None:
    template, plain = ({node: records[way][node]} for way in WAYS)
    found = list(differences(template, plain, ALLOWED))
    assert not found, "\n" + "\n".join(described(item) for item in found)


@pytest.mark.processes
@pytest.mark.timeout(900)
@pytest.mark.parametrize("way", WAYS)
def test_each_program_runs_to_its_end(records: Records, way: Way) -> None:
    """Both ways could fail alike."""
    for node, case in CASES.items():
        record = records[way][node]
        assert len(record.facts) >= case.facts, (node, record)
        assert not case.end or case.end in record.said, (node, record)
    assert records[way]["sink"].facts["total"] == sum(range(100)) + sum(range(101)) + sum(
        number % 256 for number in range(1_000_000)
    )
    for run in RUNS:
        left = {name: value for name, value in records[way][run].facts.items() if "left" in name}
        assert left and not any(left.values()), (run, left)


@pytest.mark.processes
@pytest.mark.timeout(900)
@pytest.mark.parametrize("way", WAYS)
def test_two_nodes_with_the_same_program_have_random_state_of_their_own(records: Records, way: Way) -> None:
    one, other = (
        {name: value for name, value in records[way][node].facts.items() if name.startswith(RANDOM)}
        for node in ("twin_a", "twin_b")
    )
    assert len(one) > 10 and one.keys() == other.keys()
    same = [name for name in one if one[name] == other[name]]
    assert not same


@pytest.mark.processes
@pytest.mark.timeout(900)
def test_all_programs_start_from_the_template_that_can(records: Records) -> None:
    found = {node: records["template"][node].plain for node in CASES}
    for node, reasons in found.items():
        if node in PLAIN:
            assert reasons and PLAIN[node] in reasons[0], (node, reasons)
        else:
            assert not reasons, (node, reasons)
    assert all(records["plain"][node].plain for node in CASES)
    # The template shows where it can be seen.
    assert records["template"]["observed"].outside["child of its daemon"] is False


@pytest.mark.processes
@pytest.mark.timeout(900)
def test_no_package_is_loaded_that_neither_dora_nor_the_program_needs(records: Records) -> None:
    loaded = {name.partition(".")[0] for name in records["template"]["loaded_modules"].stdout}
    loaded -= {name.partition(".")[0] for name in records["plain"]["loaded_modules"].stdout}
    packages = {name for name in loaded - set(sys.stdlib_module_names) if not name.startswith("_")}
    assert packages <= {"dora", "numpy", "pyarrow", "iceoryx2", "msgspec", "flatbuffers", "cython_runtime"}


def described(item: Difference) -> str:
    return f"{item.node}, {item.entry}:\n    template: {item.template!r}\n    plain:    {item.plain!r}"


# --------------------------------------------------------------------------- the comparison


def test_the_manual_lists_what_may_differ() -> None:
    text = (Path(__file__).parents[2] / "docs/reference/two-ways-to-start-a-node.md").read_text()
    of_every_node = text.partition("\n## ")[0]
    assert re.findall(r"^\| ([^|]*)\. \|", of_every_node, re.MULTILINE) == list(
        dict.fromkeys(item.reason for item in ALLOWED)
    )


def test_a_difference_is_found_unless_it_is_allowed() -> None:
    template = {"a": NodeRecord({"x": 1, "y": [1]}, stdout=["line"], said=["exited with status 0"])}
    plain = {"a": NodeRecord({"x": 2, "y": [1]}, stdout=["line"], said=["exited with status 1"])}
    found = list(differences(template, plain, ()))
    assert found == [
        Difference("a", "fact: x", 1, 2),
        Difference("a", "said", ["exited with status 0"], ["exited with status 1"]),
    ]
    assert list(differences(template, plain, (Allowed("*", "said", ""), Allowed("a", "fact: ?", "")))) == []
    assert list(differences(template, plain, (Allowed("a", "*", "", lambda value: value),))) == found


def test_a_fact_that_is_missing_is_never_allowed() -> None:
    found = list(differences({"a": NodeRecord({"x": 1})}, {"a": NodeRecord()}, (Allowed("*", "*", ""),)))
    assert found == [Difference("a", "fact: x", 1, "missing")]
    assert {item.node for item in differences({"a": NodeRecord({"x": 1})}, {}, ())} == {"a"}
