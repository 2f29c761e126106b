"""Check modules: files with a part of a dataflow.

A module's file has a header, which names its ports, and nodes, which refer to the input ports as
``_mod/<port>``. A node of a dataflow, or of another module, uses it::

    - id: pipe
      module: modules/detect.yml
      inputs: {frames: camera/image}

Each file is first checked by itself; the modules that it uses count as nodes with inputs and outputs. So a
problem is reported once, with the names of its own file, however often the module is used. After that the
modules are inlined, see `dora.dataflow.modules.inline`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec

from dora.dataflow.parser.assemble import Assembler
from dora.dataflow.parser.fields import BUILD, NODES
from dora.dataflow.parser.legacy import upgrade_legacy
from dora.dataflow.parser.resolve_inputs import PORTS, OfferedOutputs
from dora.dataflow.problems import MAX_LISTED, ProblemReport, TextSpan, listed
from dora.dataflow.yaml.compose import compose_mapping
from dora.dataflow.yaml.field_types import DATA, ListType, Reader, TextType
from dora.dataflow.yaml.files import Unreadable, read_text
from dora.dataflow.yaml.schema_block import CheckedBlock, Field, SchemaBlock
from dora.dataflow.yaml.tree import MappingNode

# All fields of a module's file; `dora.dataflow.parser.fields` has the fields of a dataflow.
MODULE_HEADER = SchemaBlock(
    "the header of a module",
    [
        Field("name", TextType("a name"), "What the module is called; for people.", required=True),
        Field(
            "inputs",
            ListType(DATA, "input ports"),
            "The ports that have to be connected; nodes of the module refer to them as `_mod/<port>`.",
        ),
        Field(
            "inputs_optional",
            ListType(DATA, "input ports"),
            "The ports that may be left open; inputs that refer to an open port are left out.",
        ),
        Field(
            "outputs",
            ListType(DATA, "outputs"),
            "The outputs that others may use; each is an output of exactly one node of the module.",
        ),
    ],
)

MODULE_FILE = SchemaBlock(
    "a module",
    [
        Field("module", MODULE_HEADER, "What the module is called, and its ports.", required=True),
        Field("nodes", NODES, "The nodes of the module.", required=True),
        Field(
            "build",
            BUILD.field_type,
            "Commands that are run before the commands of each of its nodes, one a line.",
        ),
    ],
    notes=True,
)

MAX_NESTING = 8
MAX_MODULE = 1 << 20  # bytes of a module's file


class ModuleDefinition(msgspec.Struct, frozen=True):
    """A module's file, checked."""

    path: str  # relative to the project
    file: str  # as messages call it
    text: str
    inputs: tuple[str, ...]
    optional: tuple[str, ...]
    build: tuple[str, ...]
    nodes: tuple[CheckedBlock, ...]
    modules: dict[str, ModuleDefinition]  # those that it uses, by the id of the node
    exports: dict[str, str]  # output → the output inside: "node/output", "node.inner/output"

    @property
    def folder(self) -> str:
        """The folder of the module's file."""
        return os.path.dirname(self.path)


class Modules:
    """The modules of a dataflow; each file is read once.

    ``project`` is the folder of the dataflow file, ``shown`` how messages call it.
    """

    def __init__(self, reader: Reader, project: str, shown: str) -> None:
        self.reader = reader
        self.project = project
        self.shown = shown
        self._read: dict[str, ModuleDefinition | None] = {}

    def used_by(
        self, nodes: tuple[CheckedBlock, ...], reader: Reader, folder: str = "", chain: tuple[str, ...] = ()
    ) -> dict[str, ModuleDefinition]:
        """Return the modules that nodes use, by node id; what is wrong goes to ``reader.report``.

        The file with the nodes is in ``folder``; the modules of ``chain`` led to it.
        """
        found: dict[str, ModuleDefinition] = {}
        for node in nodes:
            if node.get("module") is None or node.get("id") is None:
                continue
            definition = self._used(node, reader.report, folder, chain)
            if definition is not None:
                found.setdefault(node.get("id"), definition)
                _check_ports(node, definition, reader.report)
        return found

    def _used(
        self, node: CheckedBlock, report: ProblemReport, folder: str, chain: tuple[str, ...]
    ) -> ModuleDefinition | None:
        span = node.place("module")
        written: str = node.get("module")
        path = os.path.normpath(os.path.join(folder, written))
        if os.path.isabs(written) or "://" in written:
            report.error(
                span, f"`{written}` is not a relative path", "name a file below the folder of the dataflow"
            )
            return None
        if path.startswith(".."):
            report.error(
                span,
                f"the module `{written}` lies outside the folder of the dataflow",
                "move it into that folder, or the dataflow file further up",
            )
            return None
        if path in chain:
            circle = " → ".join(f"`{name}`" for name in (*chain[chain.index(path) :], path))
            report.error(span, f"the modules use each other in a circle: {circle}")
            return None
        if len(chain) >= MAX_NESTING:
            report.error(span, f"modules are nested more than {MAX_NESTING} levels deep")
            return None
        if path not in self._read:
            note = f"this module is used by the node `{node.get('id')}` ({report.place(span)})"
            if report.origin.note:
                note += report.origin.note.replace("this module is", ", which is", 1)
            self._read[path] = self._define(path, span, report, (*chain, path), note)
        definition = self._read[path]
        if definition is None:
            report.failed = True  # reported where it was used first
        return definition

    def _define(
        self, path: str, span: TextSpan, report: ProblemReport, chain: tuple[str, ...], note: str
    ) -> ModuleDefinition | None:
        file = os.path.join(self.shown, path)
        try:
            text = read_text(os.path.join(self.project, path), file, MAX_MODULE)
        except Unreadable as error:
            report.error(span, str(error), error.hint)
            return None
        own = ProblemReport(text, file, report)
        own.origin.note = note
        root = _tree(own)
        of_the_file = len(own.problems)
        definition = None if root is None else self._check(root, own, path, chain)
        # Warnings about nodes come from the check of the dataflow, once the module is inlined.
        of_nodes = [problem for problem in own.problems[of_the_file:] if problem.severity == "error"]
        own.problems[of_the_file:] = of_nodes
        report.take(own)
        return definition

    def check(self, report: ProblemReport, path: str) -> None:
        """Check the text of a report as a module; what is wrong goes to the report."""
        root = _tree(report)
        if root is not None:
            self._check(root, report, path, (path,))

    def _check(
        self, root: MappingNode, report: ProblemReport, path: str, chain: tuple[str, ...]
    ) -> ModuleDefinition | None:
        """Return the definition of a module; None after reporting what is wrong with it."""
        reader = Reader(report, self.reader.environ)
        checked = MODULE_FILE.read(root, reader)
        if checked is None or not checked.get("module"):
            return None
        header: CheckedBlock = checked.get("module")
        nodes: tuple[CheckedBlock, ...] = checked.get("nodes") or ()
        inputs, optional = header.get("inputs") or (), header.get("inputs_optional") or ()
        for node in nodes:
            if node.get("id") == PORTS:
                report.error(node.place("id"), f"the id `{PORTS}` stands for the ports of the module")
        modules = self.used_by(nodes, reader, os.path.dirname(path), chain)
        offers = {name: OfferedOutputs(tuple(module.exports)) for name, module in modules.items()}
        Assembler(reader, {**offers, PORTS: OfferedOutputs((*inputs, *optional))}, in_module=True).nodes(
            nodes
        )
        exports = {} if report.failed else _exports(header, nodes, modules, report)
        if report.failed:
            return None
        return ModuleDefinition(
            path=path,
            file=report.file,
            text=report.origin.text,
            inputs=inputs,
            optional=optional,
            build=checked.get("build") or (),
            nodes=nodes,
            modules=modules,
            exports=exports,
        )


def _tree(report: ProblemReport) -> MappingNode | None:
    root = compose_mapping(report, "a module is a mapping", "it has the fields `module` and `nodes`")
    if root is not None:
        upgrade_legacy(root, report)
    return root


def _check_ports(node: CheckedBlock, module: ModuleDefinition, report: ProblemReport) -> None:
    written = node.nodes.get("inputs")
    entries = written.entries if isinstance(written, MappingNode) else {}
    ports = (*module.inputs, *module.optional)
    suggested: set[str] = set()
    for name, (key, _) in entries.items():
        if name not in ports:
            found = report.closest(name, ports)
            suggested.add(found)
            hint = (
                f"did you mean `{found}`?"
                if found
                else f"its inputs are {listed(ports, MAX_LISTED)}"
                if ports
                else ""
            )
            report.error(key, f"the module `{module.file}` has no input `{name}`", hint)
    if node.failed("inputs"):
        return
    for name in module.inputs:
        if name not in entries and name not in suggested:
            report.error(
                node.keys.get("inputs", node.place("module")),
                f"the input `{name}` of the module `{module.file}` is not connected",
                f"add `{name}: <node>/<output>` to the `inputs` of the node `{node.get('id')}`",
            )


def _exports(
    header: CheckedBlock,
    nodes: tuple[CheckedBlock, ...],
    modules: dict[str, ModuleDefinition],
    report: ProblemReport,
) -> dict[str, str]:
    """Return for each output of the header the one output inside that it stands for."""
    exports: dict[str, str] = {}
    inside: dict[str, list[str]] = {}
    for name, source in _outputs(nodes, modules):
        inside.setdefault(name, []).append(source)
    for output in header.get("outputs") or ():
        span = header.place("outputs", output)
        found = inside.get(output, [])
        if len(found) == 1:
            exports[output] = found[0]
        elif found:
            report.error(
                span,
                f"the output `{output}` of the module could be any of {listed(found, MAX_LISTED)}",
                "rename the other outputs, so that the nodes of the module have only one of this name",
            )
        else:
            report.error(
                span,
                f"no node of this module has the output `{output}`",
                report.did_you_mean(output, inside),
            )
    return exports


def _outputs(
    nodes: tuple[CheckedBlock, ...], modules: dict[str, ModuleDefinition]
) -> Iterator[tuple[str, str]]:
    """Yield (name, reference inside the module) for every output that its nodes have."""
    for node in nodes:
        name: str = node.get("id")
        if name in modules:
            for output, source in modules[name].exports.items():
                yield output, f"{name}.{source}"
            continue
        for output in node.get("outputs") or ():
            yield output, f"{name}/{output}"
        for operator in (node.get("operator"), *(node.get("operators") or ())):
            if operator is not None:
                owner = f"{name}/{operator.get('id')}" if operator.get("id") else name
                for output in operator.get("outputs") or ():
                    yield output, f"{owner}/{output}"
