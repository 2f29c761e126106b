"""Load a dataflow file: from YAML text to a checked `Dataflow`."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping

from dora.dataflow.model import Dataflow
from dora.dataflow.parser.assemble import Assembler, assemble
from dora.dataflow.parser.fields import DATAFLOW
from dora.dataflow.parser.legacy import upgrade_legacy
from dora.dataflow.parser.resolve_inputs import OfferedOutputs
from dora.dataflow.problems import ProblemReport, closest, each_once
from dora.dataflow.yaml.compose import compose_mapping
from dora.dataflow.yaml.field_types import Reader
from dora.dataflow.yaml.files import Unreadable, names_a_file, names_beside, read_text
from dora.dataflow.yaml.tree import MappingNode, SequenceNode, to_yaml
from dora.errors import DataflowError, Problem


def load(
    path: str | os.PathLike[str],
    *,
    environ: Mapping[str, str] | None = None,
    env_overrides: Mapping[str, str] | None = None,
    strict_types: bool = False,
) -> Dataflow:
    """Read and check a dataflow file.

    The folder of the file becomes the working directory of the nodes. ``environ`` (default: the
    environment of this process) gives the values of ``$NAME``; ``env_overrides`` are added to the
    dataflow's ``env`` and win over it (a node's own ``env`` still wins over them).

    Raises `DataflowError` with all problems at once; warnings are in ``Dataflow.warnings``. Types that do
    not fit together are in ``Dataflow.type_warnings``; with ``strict_types``, here or in the file, they
    are errors.
    """
    shown = os.fspath(path)
    absolute = os.path.abspath(shown)
    return parse(
        _read(shown),
        file=absolute,
        shown_file=shown,
        working_dir=os.path.dirname(absolute),
        environ=os.environ if environ is None else environ,
        env_overrides=env_overrides,
        strict_types=strict_types,
    )


def expanded(path: str | os.PathLike[str]) -> str:
    """Return the YAML of a dataflow file with modules and defaults written out; raises as `load` does."""
    shown = os.fspath(path)
    return expanded_text(_read(shown), shown, os.path.dirname(os.path.abspath(shown)))


def expanded_text(text: str, shown_file: str, working_dir: str) -> str:
    """Return the text of a dataflow like `expanded`, for one that was read already."""
    from dora.dataflow.describe import with_defaults
    from dora.dataflow.yaml.tree import as_written, tree_of

    parse(text, shown_file=shown_file, working_dir=working_dir, environ=os.environ)
    root = _without_modules(Reader(ProblemReport(text, shown_file), os.environ), working_dir)
    assert root is not None
    described = tree_of(with_defaults(as_written(root)), root)
    assert isinstance(described, MappingNode)
    return to_yaml(described)


def check_module(path: str | os.PathLike[str]) -> None:
    """Check the file of a module by itself; raises `DataflowError` with all problems.

    Modules that it uses are looked for below the current directory if the file is there, else below
    the folder of the file.
    """
    from dora.dataflow.modules.check import Modules

    shown = os.fspath(path)
    report = ProblemReport(_read(shown), shown)
    relative = os.path.relpath(shown)
    project = os.curdir
    if relative.startswith(os.pardir):
        project, relative = os.path.split(shown)
    reader = Reader(report, os.environ)
    Modules(reader, project, "" if project == os.curdir else project).check(report, relative)
    if report.failed:
        raise DataflowError(problems=report.sorted())


def check_manifest(path: str | os.PathLike[str]) -> None:
    """Check the manifest of a node; raises `DataflowError` with all problems."""
    from dora.dataflow.types.manifest import read_manifest

    shown = os.fspath(path)
    report = ProblemReport(_read(shown), shown)
    read_manifest(Reader(report, os.environ))
    if report.failed:
        raise DataflowError(problems=report.sorted())


def _read(shown: str) -> str:
    try:
        return read_text(shown, shown)
    except Unreadable as error:
        hint = f"; {error.hint}" if error.hint else ""
        raise DataflowError(f"{error}{hint}") from None


def parse(
    text: str,
    *,
    file: str | None = None,
    working_dir: str,
    environ: Mapping[str, str],
    env_overrides: Mapping[str, str] | None = None,
    shown_file: str | None = None,
    strict_types: bool = False,
) -> Dataflow:
    """Check the text of a dataflow, like `load` for one that was read already.

    ``file`` is the absolute path for the model, ``shown_file`` its name in messages.
    """
    report = ProblemReport(text, shown_file or file or "<dataflow>")
    reader = Reader(report, environ)
    root = _without_modules(reader, working_dir)
    dataflow: Dataflow | None = None
    if root is not None:
        checked = DATAFLOW.read(root, reader)
        if checked is not None:
            dataflow = assemble(
                checked,
                reader,
                descriptor=DATAFLOW.stored(root),
                file=file,
                working_dir=working_dir,
                env_overrides=env_overrides or {},
                strict_types=strict_types,
            )
    if report.failed or dataflow is None:
        raise DataflowError(problems=report.sorted())
    return dataflow


def _without_modules(reader: Reader, project: str) -> MappingNode | None:
    """Return the tree with its modules inlined; None after reporting why it is no dataflow."""
    report = reader.report
    root = compose_mapping(
        report,
        "a dataflow is a mapping",
        "it begins with `nodes:`, followed by a list of nodes",
        empty="the file is empty, so it describes no dataflow",
    )
    if root is None:
        return None
    upgrade_legacy(root, report)
    if "module" in root.entries:
        report.error(
            root.entries["module"][0],
            "this file is a module, not a dataflow",
            "name it as the `module` of a node; `dora expand --module FILE` checks it",
        )
        return None
    if not _uses_modules(root):
        return root
    from dora.dataflow.modules.check import Modules
    from dora.dataflow.modules.inline import Inliner

    checked = DATAFLOW.read(root, reader)
    if checked is None:
        return None
    nodes = checked.get("nodes") or ()
    # Each file is checked alone before it is inlined: a mistake is reported once, in terms of its own file.
    modules = Modules(reader, project, report.folder).used_by(nodes, reader)
    Assembler(
        reader, {name: OfferedOutputs(tuple(module.exports)) for name, module in modules.items()}
    ).nodes(nodes)
    if report.failed:
        return None
    inlined = Inliner(project, report).inline_modules(root, nodes, modules)
    return None if report.failed else inlined


def _uses_modules(root: MappingNode) -> bool:
    nodes = root.get("nodes")
    return isinstance(nodes, SequenceNode) and any(
        isinstance(node, MappingNode) and "module" in node.entries for node in nodes.items
    )


def missing_files(dataflow: Dataflow, copied: Collection[str] = ()) -> list[Problem]:
    """Return a problem for every file that is named, does not exist, and is not built.

    Other names are commands, see `dora.daemon.processes`. Nodes and operators with ``build`` are
    left out, since the build may make the file. So are nodes that may be on another machine, unless they
    are ``copied`` there. Called just before a start.
    """
    problems: list[Problem] = []
    for program in dataflow.programs:
        path = os.path.expanduser(program.path)
        full = os.path.join(dataflow.working_dir, path)
        if program.elsewhere and program.node not in copied:
            continue
        if program.built or not names_a_file(path) or os.path.isfile(full):
            continue
        if os.path.isdir(full):
            message = f"`{full}` is a folder, and {program.place.message} needs a file to run"
            hint = "give the program in that folder"
        else:
            message = f"there is no file `{full}`, which {program.place.message} runs"
            hint = _similar_path(path, full, in_module=bool(program.place.note))
        problems.append(program.place._replace(message=message, hint=hint))
    return each_once(problems)


def _similar_path(path: str, full: str, *, in_module: bool) -> str:
    name = os.path.basename(path)
    found = closest(name, (other for other in names_beside(full) if other != name))
    if in_module:
        return f"did you mean `{found}`?" if found else "paths are relative to the folder of the module"
    if found:
        return f"did you mean `{os.path.join(os.path.dirname(path), found)}`?"
    return "paths are relative to the folder of the dataflow file"
