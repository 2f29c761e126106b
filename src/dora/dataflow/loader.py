"""YAML text → checked `Dataflow`. The only place of this package that reads a file."""

from __future__ import annotations

import os
from collections.abc import Mapping

from dora.dataflow.assemble import assemble
from dora.dataflow.document import Mapping as DocumentMapping
from dora.dataflow.document import Scalar, Sequence, Value, compose
from dora.dataflow.fields import DATAFLOW
from dora.dataflow.kinds import Reader
from dora.dataflow.model import Dataflow
from dora.dataflow.report import Report, Span, did_you_mean
from dora.errors import DataflowError, Problem


def load(
    path: str | os.PathLike[str],
    *,
    environ: Mapping[str, str] | None = None,
    env_overrides: Mapping[str, str] | None = None,
) -> Dataflow:
    """Read and check a dataflow file.

    The folder of the file becomes the working directory of the nodes. ``environ`` (default: the
    environment of this process) is what ``$NAME`` in values refers to; ``env_overrides`` are added
    to the dataflow's ``env``, where they win (a node's own ``env`` still wins over them).

    Raises `DataflowError` with all problems at once; what is only suspicious is in
    ``Dataflow.warnings``.
    """
    shown = os.fspath(path)
    try:
        with open(shown, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        raise DataflowError(f"there is no file `{shown}`{_similar_file(shown)}") from None
    except IsADirectoryError:
        raise DataflowError(f"`{shown}` is a folder; give the dataflow file in it") from None
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise DataflowError(f"cannot read `{shown}`: {reason}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataflowError(
            f"`{shown}` is not a text file in UTF-8 (line {line}); save it in this encoding"
        ) from None
    absolute = os.path.abspath(shown)
    return parse(
        text,
        file=absolute,
        shown_file=shown,
        working_dir=os.path.dirname(absolute),
        environ=os.environ if environ is None else environ,
        env_overrides=env_overrides,
    )


def parse(
    text: str,
    *,
    file: str | None = None,
    working_dir: str,
    environ: Mapping[str, str],
    env_overrides: Mapping[str, str] | None = None,
    shown_file: str | None = None,
) -> Dataflow:
    """Check the text of a dataflow; `load` without the reading.

    ``file`` is the absolute path for the model, ``shown_file`` how messages call it.
    """
    report = Report(text, shown_file or file or "<dataflow>")
    reader = Reader(report, environ)
    root = compose(text, report)
    dataflow: Dataflow | None = None
    if isinstance(root, DocumentMapping):
        checked = DATAFLOW.read(root, reader)
        if checked is not None:
            dataflow = assemble(
                checked,
                reader,
                text=text,
                descriptor=root.plain(),
                file=file,
                working_dir=working_dir,
                env_overrides=env_overrides or {},
            )
    elif not report.failed:
        _not_a_dataflow(root, report)
    if report.failed or dataflow is None:
        raise DataflowError(problems=report.sorted())
    return dataflow


def missing_files(dataflow: Dataflow) -> list[Problem]:
    """Return a problem for every file that is named, does not exist, and is not built.

    A file is what ends in ``.py`` or has a folder in front; other names are commands, which are looked
    up on the PATH. Nodes and operators with ``build`` are left out, since the build may make the file.
    Meant for the moment before a start.
    """
    problems: list[Problem] = []
    for index, node in enumerate(dataflow.nodes):
        wanted = [(operator.python, operator.build, operator.id) for operator in node.operators]
        if node.path is not None and not node.is_dynamic and not node.is_shell:
            wanted = [(os.path.expanduser(node.path), node.build, "")]
        for position, (path, build, operator) in enumerate(wanted):
            full = os.path.join(dataflow.working_dir, path)
            if build or not (path.endswith(".py") or os.sep in path) or os.path.isfile(full):
                continue
            owner = (
                f"the operator `{operator}` of the node `{node.id}`"
                if operator
                else f"the node `{node.id}`"
            )
            problems.append(
                _located(
                    dataflow,
                    _path_of(index, position if operator else None),
                    f"there is no file `{full}`, which {owner} runs",
                    _similar_path(path, full),
                )
            )
    return problems


def _path_of(node: int, operator: int | None) -> tuple[str | int, ...]:
    if operator is None:
        return ("nodes", node, "path")
    return ("nodes", node, "operators", operator, "python", "source")


def _located(dataflow: Dataflow, path: tuple[str | int, ...], message: str, hint: str) -> Problem:
    """Return a problem at a place that is found by reading the document once more."""
    shown = dataflow.nodes[0].place.rsplit(":", 2)[0] if dataflow.nodes[0].place else "<dataflow>"
    report = Report(dataflow.text, shown)
    value: Value | None = compose(dataflow.text, report)
    report = Report(dataflow.text, shown)
    for step in path:
        if isinstance(value, Sequence) and isinstance(step, int):
            value = value.items[step]
        elif isinstance(value, DocumentMapping):
            # `operator:` holds directly what `operators:` has a list of; `python:` may be a mapping.
            name = "operator" if step == "operators" and "operators" not in value.entries else step
            if name in value.entries:
                value = value.entries[str(name)][1]
    report.error(value or Span(0, 0, 0, 1), message, hint)
    return report.problems[0]


def _similar_file(path: str) -> str:
    names = [name for name in _names_beside(path) if name.endswith((".yml", ".yaml"))]
    hint = did_you_mean(os.path.basename(path), names)
    return f"; {hint}" if hint else ""


def _similar_path(path: str, full: str) -> str:
    hint = did_you_mean(os.path.basename(path), _names_beside(full))
    folder = os.path.dirname(path)
    if hint and folder:
        name = hint.removeprefix("did you mean `").removesuffix("`?")
        return f"did you mean `{os.path.join(folder, name)}`?"
    return hint or "paths are relative to the folder of the dataflow file"


def _names_beside(path: str) -> list[str]:
    try:
        return sorted(os.listdir(os.path.dirname(path) or "."))
    except OSError:
        return []


def _not_a_dataflow(root: Value | None, report: Report) -> None:
    hint = "it begins with `nodes:`, followed by a list of nodes"
    if root is None or (isinstance(root, Scalar) and root.value is None):
        report.error(Span(0, 0, 0, 1), "the file is empty, so it describes no dataflow", hint)
    else:
        report.error(root, "a dataflow is a mapping", hint)
