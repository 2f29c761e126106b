"""Finds the Python files that the nodes of a dataflow run."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from dora.daemon.processes.programs import find_program
from dora.dataflow.model import Dataflow, NodeSpec


def code_of(node: NodeSpec, dataflow: Dataflow) -> Iterator[tuple[str, str, list[str]]]:
    """Yield (operator id, main file, folders of its imports) for what a node runs."""
    beside = [
        *node.env.get("PYTHONPATH", dataflow.env.get("PYTHONPATH", "")).split(os.pathsep),
        *(path for path in sys.path if is_of_a_project(path)),
    ]
    roots = [os.path.abspath(path) for path in beside if path]
    for operator in node.operators:
        main = os.path.abspath(os.path.join(dataflow.working_dir, operator.python))
        yield operator.id, main, [dataflow.working_dir, os.path.dirname(main), *roots]
    if node.path is None or node.is_dynamic or node.is_shell:
        return
    path = os.path.abspath(os.path.join(dataflow.directory_of(node), os.path.expanduser(node.path)))
    if node.path.endswith(".py"):
        yield "", path, [os.path.dirname(path), *roots]
    elif os.path.isfile(path):
        yield "", path, roots
    elif (program := find_program(node.path)) is not None and _is_python(program):
        yield "", program, roots


def is_of_a_project(path: str) -> bool:
    """Whether a directory holds no libraries: an editable installation's does not, say."""
    libraries = (sys.prefix, sys.base_prefix, sys.exec_prefix)
    absolute = os.path.abspath(path)
    return os.path.isdir(absolute) and not any(
        absolute == library or absolute.startswith(library + os.sep) for library in libraries
    )


def _is_python(program: str) -> bool:
    try:
        with open(program, "rb") as file:
            first = file.readline(200)
    except OSError:
        return False
    return first.startswith(b"#!") and b"python" in first
