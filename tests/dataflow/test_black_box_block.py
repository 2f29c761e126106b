"""The block ``black_box`` of a dataflow file."""

from __future__ import annotations

from pathlib import Path

import pytest

from dora.daemon.load_dataflow import load_dataflow
from dora.dataflow.model import BlackBoxRules
from dora.errors import DataflowError

NODES = """
nodes:
  - {id: camera, path: camera.py, outputs: [raw, image]}
"""


def loaded(folder: Path, text: str) -> BlackBoxRules:
    (folder / "flow.yml").write_text(text + NODES)
    return load_dataflow(str(folder / "flow.yml")).black_box


@pytest.mark.lengthy
def test_each_field_is_read(tmp_path: Path) -> None:
    assert loaded(tmp_path, "") == BlackBoxRules()
    assert loaded(tmp_path, "black_box: false") == BlackBoxRules(enabled=False)
    block = (
        "black_box: {duration: 1min, memory: 2MB, outputs: [camera/raw, camera/image], "
        "leave_out: [camera/raw], save_on: [camera/image], files: 2}"
    )
    box = loaded(tmp_path, block)
    assert box == BlackBoxRules(
        duration_ns=60 * 10**9,
        memory=2 << 20,
        outputs=("camera/raw", "camera/image"),
        leave_out=("camera/raw",),
        save_on=("camera/image",),
        files=2,
    )
    assert (box.keeps("camera/image"), box.keeps("camera/raw"), box.keeps("other/x")) == (
        True,
        False,
        False,
    )


@pytest.mark.parametrize(
    ("block", "sentence"),
    [
        ("{leave_out: [camera/rwa]}", "no node has the output `camera/rwa`"),
        ("{save_on: [other]}", "no node has the output `other`"),
        ("{duration: long}", "expected a duration"),
        ("{duration: 30}", "write `30ms`"),
        ("{memory: much}", "expected a size"),
        ("{files: 0}", "files"),
        ("[camera/raw]", "black_box"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, block: str, sentence: str) -> None:
    with pytest.raises(DataflowError) as caught:
        loaded(tmp_path, f"black_box: {block}")
    assert sentence in str(caught.value)


@pytest.mark.parametrize("field", ["outputs", "save_on"])
def test_an_output_of_captured_lines_is_refused(tmp_path: Path, field: str) -> None:
    (tmp_path / "flow.yml").write_text(
        "nodes: [{id: a, path: a.py, outputs: [lines], send_stdout_as: lines}]\n"
        f"black_box:\n  {field}: [a/lines]\n"
    )
    with pytest.raises(DataflowError, match="`a/lines` carries lines of text") as caught:
        load_dataflow(str(tmp_path / "flow.yml"))
    assert [problem.line for problem in caught.value.problems] == [3]
