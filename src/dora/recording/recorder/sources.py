"""The fingerprints of the code that a dataflow runs: a recording says with which code it was made."""

from __future__ import annotations

import hashlib
import os

from dora.daemon.reload.imports import CodeFiles, Sources
from dora.daemon.reload.programs import code_of, is_of_a_project
from dora.dataflow.model import Dataflow


def fingerprints(dataflow: Dataflow, before_ns: int | None = None) -> dict[str, str]:
    """Return file → SHA-256, in hexadecimal digits, of the Python files that the nodes run.

    These are scripts, operators, and what they import from the project. A path below the folder of the
    dataflow is relative to it. ``before_ns``: leave out files that were saved after this time, in
    nanoseconds since the Unix epoch. Files that cannot be read are left out, too.
    """
    sources = Sources()
    files: set[str] = set()
    for node in dataflow.nodes:
        for _, main, roots in code_of(node, dataflow):
            program = CodeFiles(main, roots, sources)
            if is_of_a_project(os.path.dirname(main)) or len(program.files) > 1:
                files |= program.files
    found = {}
    for path in sorted(files):
        try:
            with open(path, "rb") as file:
                if before_ns is None or os.fstat(file.fileno()).st_mtime_ns <= before_ns:
                    name = os.path.relpath(path, dataflow.working_dir)
                    found[path if name.startswith("..") else name] = hashlib.sha256(file.read()).hexdigest()
        except OSError:
            continue
    return found
