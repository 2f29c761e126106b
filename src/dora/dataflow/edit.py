"""Change the model of a running dataflow: add, replace and remove nodes and links.

An addition is checked together with everything that runs, like a part of the file, so it gets the same
errors, at its own place. The rest of the model stays as it is: values from the environment, for example,
are not read again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from dora.dataflow.describe import document_fault
from dora.dataflow.model import Dataflow, InputSpec, NodeOutput, NodeSpec, Program
from dora.dataflow.parser.assemble import assemble
from dora.dataflow.parser.fields import DATAFLOW
from dora.dataflow.parser.legacy import upgrade_legacy
from dora.dataflow.problems import Origin, ProblemReport, TextSpan, did_you_mean, listed, no_node
from dora.dataflow.yaml.compose import compose
from dora.dataflow.yaml.field_types import Reader
from dora.dataflow.yaml.tree import MappingNode, ScalarNode, SequenceNode, YamlNode
from dora.errors import DataflowError, DoraError, Problem
from dora.wire.input_rules import InputOptions
from dora.wire.operations import (
    AddOperation,
    ConnectOperation,
    DisconnectOperation,
    ProposedChange,
    RemoveOperation,
    ReplaceOperation,
    TopologyOperation,
    program_key,
)

RUNNING = "<the running dataflow>"
COMMAND_LINE = "<command line>"

_KEPT_WITH: Final = {
    "sync": ("inputs",),
    "send_stdout_as": ("outputs",),
    "send_logs_as": ("outputs",),
    "output_metadata": ("outputs",),
    "pattern": ("inputs", "outputs"),
}
"""Fields that a replacement keeps together with the fields that they are about."""


class Change(msgspec.Struct, frozen=True):
    """A checked change: ``dataflow`` is the result, ``node_id`` the node concerned.

    ``programs`` are those that the change adds. ``warnings`` are about the change only. ``added`` and
    ``removed`` are links as text for the log.
    """

    dataflow: Dataflow
    node_id: str
    programs: tuple[Program, ...] = ()
    warnings: tuple[Problem, ...] = ()
    added: str = ""
    removed: str = ""


# --------------------------------------------------------------------------- nodes


def with_node(running: Dataflow, operation: AddOperation, environ: Mapping[str, str]) -> Change:
    """Add the node that a YAML text describes; raises `DataflowError`.

    The operation gives values of ``$NAME`` in the text; ``environ`` gives the others.
    """
    environ = {**environ, **operation.env}
    edit = _Edit(running, operation.yaml, operation.file, environ, operation.strict_types)
    block = _node_block(edit.report)
    node_id = _id_of(block)
    if node_id and any(node.id == node_id for node in running.nodes):
        edit.report.error(
            _place(block, "id"),
            f"the running dataflow has a node `{node_id}` already",
            f"give the new one another id, or exchange it: `dora node replace {node_id}`",
        )
        raise DataflowError(problems=edit.report.sorted())
    edit.nodes.append(block)
    edit.check()
    node = edit.checked.nodes[-1]
    return edit.change((*running.nodes, node), node.id)


def with_replaced(running: Dataflow, operation: ReplaceOperation, environ: Mapping[str, str]) -> Change:
    """Exchange a node for the one that a YAML text describes; raises `DoraError`, `DataflowError`.

    It keeps the id, which the text need not repeat, and, where the text has none, inputs, outputs and
    ``deploy``. Kept inputs stay in their groups, and kept outputs still get log entries. ``environ``: as in
    `with_node`.
    """
    node_id, environ = operation.node, {**environ, **operation.env}
    former = find_node(running, node_id)
    edit = _Edit(running, operation.yaml, operation.file, environ, operation.strict_types)
    block = _node_block(edit.report)
    if "id" not in block.entries:
        block.entries = {"id": (ScalarNode.of("id", block), ScalarNode.of(node_id, block)), **block.entries}
    elif _id_of(block) != node_id:
        edit.report.error(
            _place(block, "id"),
            f"a replacement keeps the id, which is `{node_id}`",
            f"write `id: {node_id}`, or leave it out",
        )
        raise DataflowError(problems=edit.report.sorted())
    index = next(place for place, known in enumerate(edit.nodes) if _id_of(known) == node_id)
    before = edit.nodes[index]
    assert isinstance(before, MappingNode)
    kept = ["deploy"]
    if not former.is_runtime and "operator" not in block.entries and "operators" not in block.entries:
        kept += ["inputs", "outputs", "input_types", "output_types"]
        kept += (name for name, owners in _KEPT_WITH.items() if block.entries.keys().isdisjoint(owners))
    for name in kept:
        if name in before.entries and name not in block.entries:
            block.entries[name] = before.entries[name]
    edit.nodes[index] = block
    edit.check()
    node = edit.checked.nodes[index]
    if node.is_dynamic or former.is_dynamic:
        raise DoraError(
            f"node `{node_id}` cannot be replaced: the process of a node with `path: dynamic` is started "
            "by you; end it, and start another one"
        )
    return edit.change(tuple(node if known is former else known for known in running.nodes), node_id)


def without_node(running: Dataflow, node_id: str) -> Dataflow:
    """Remove a node, and the inputs that it feeds."""
    descriptor = _document(running)
    descriptor["nodes"] = [block for block in descriptor["nodes"] if str(block["id"]) != node_id]
    nodes = []
    for node in running.nodes:
        if node.id == node_id:
            continue
        fed = {
            item.id
            for item in node.inputs
            if isinstance(item.source, NodeOutput) and item.source.node == node_id
        }
        for input_id in fed:
            _drop_input(descriptor, node, input_id)
        nodes.append(_without_inputs(node, fed))
    return _left(running, tuple(nodes), descriptor)


# --------------------------------------------------------------------------- links


def with_link(running: Dataflow, operation: ConnectOperation) -> Change:
    """Feed an input, ``node/input``, with an output, ``node/output``, a timer or logs.

    The input is one that the node does not have yet. Raises `DoraError`, `DataflowError`.
    """
    source, target = operation.source, operation.target
    node, input_id = _split_target(running, target)
    for item in node.inputs:
        if item.id == input_id:
            raise DoraError(
                f"the input `{target}` is fed by `{item.source}` already; first take that away: "
                f"dora node disconnect {item.source} {target}"
            )
    text = f"{source} -> {target}"
    line, options = _options(operation, text)
    edit = _Edit(running, line, COMMAND_LINE, {}, operation.strict_types)
    at = TextSpan(0, 0, 0, len(source))
    block = next(known for known in edit.nodes if _id_of(known) == node.id)
    assert isinstance(block, MappingNode)
    owner, short = _input_owner(block, node, input_id)
    link: YamlNode = ScalarNode.of(source, at)
    if options:
        link = MappingNode.of({"source": (ScalarNode.of("source", at), link), **options}, at)
    inputs = owner.get("inputs")
    if not isinstance(inputs, MappingNode):
        inputs = MappingNode.of({}, at)
        owner.entries["inputs"] = (ScalarNode.of("inputs", at), inputs)
    inputs.entries[short] = (ScalarNode.of(short, TextSpan(0, len(text) - len(short), 0, len(text))), link)
    edit.check()
    fresh = next(item for item in edit.checked.node(node.id).inputs if item.id == input_id)
    if isinstance(fresh.source, NodeOutput) and fresh.source.node == node.id and node.is_runtime:
        raise DoraError(
            f"`{fresh.source}` and `{target}` are operators of one process, which cannot be linked while "
            f"it runs; change the file and use `dora node replace {node.id}`"
        )
    nodes = tuple(_with_input(known, fresh) if known is node else known for known in running.nodes)
    return msgspec.structs.replace(edit.change(nodes, node.id), added=text)


def _options(operation: ConnectOperation, line: str) -> tuple[str, dict[str, tuple[ScalarNode, YamlNode]]]:
    """Return the options of a new link behind the rest of the command line, and as fields of the input."""
    entries: dict[str, tuple[ScalarNode, YamlNode]] = {}

    def add(name: str, value: str | float) -> tuple[ScalarNode, ScalarNode]:
        nonlocal line
        key = f"--{name.replace('_', '-')}"
        begin = len(line) + 1
        middle = begin + len(key) + 1
        line = f"{line} {key} {value}"
        scalar = ScalarNode.of(str(value), TextSpan(0, middle, 0, len(line)))
        scalar.value, scalar.quoted = value, False
        return ScalarNode.of(name, TextSpan(0, begin, 0, middle - 1)), scalar

    for name in InputOptions.__struct_fields__:
        value = getattr(operation, name)
        if isinstance(value, tuple) and value:
            keys = [add(name, key) for key in value]
            entries[name] = keys[0][0], SequenceNode.of([key for _, key in keys], keys[0][1])
        elif value not in (None, ()):
            entries[name] = add(name, value)
    return line, entries


def without_link(running: Dataflow, operation: DisconnectOperation) -> Change:
    """Remove a link, and with it the input; raises `DoraError`."""
    source, target = operation.source, operation.target
    node, input_id = _split_target(running, target)
    found = {item.id: item for item in node.inputs}.get(input_id)
    if found is None:
        known = listed(item.id for item in node.inputs)
        hint = did_you_mean(input_id, (item.id for item in node.inputs)) or (
            f"its inputs are {known}" if known else "it has none"
        )
        raise DoraError(f"node `{node.id}` has no input `{input_id}`; {hint}")
    written = str(found.source)
    if source not in (written, _short_source(running, found)):
        raise DoraError(f"the input `{target}` is fed by `{written}`, not by `{source}`")
    if isinstance(found.source, NodeOutput) and found.source.node == node.id and node.is_runtime:
        raise DoraError(
            f"`{written}` and `{target}` are operators of one process, whose links cannot be taken away "
            f"while it runs; change the file and use `dora node replace {node.id}`"
        )
    nodes = tuple(_without_inputs(known, {input_id}) if known is node else known for known in running.nodes)
    descriptor = _document(running)
    _drop_input(descriptor, node, input_id)
    dataflow = _left(running, nodes, descriptor)
    return Change(dataflow, node.id, removed=f"{source} -> {target}")


def find_node(dataflow: Dataflow, node_id: str) -> NodeSpec:
    """Return a node; raises `DoraError`."""
    for node in dataflow.nodes:
        if node.id == node_id:
            return node
    raise DoraError(no_node(node_id, (node.id for node in dataflow.nodes)))


# --------------------------------------------------------------------------- the document


def _tree(running: Dataflow) -> MappingNode:
    """Return the tree of a dataflow's document; raises `DoraError` if it has none that can be changed."""
    text = json.dumps(_document(running), ensure_ascii=False)
    report = ProblemReport(text, RUNNING)
    root = compose(text, report)
    if report.failed or not isinstance(root, MappingNode):
        raise DataflowError(problems=report.sorted())
    return root.copied(Origin(text, RUNNING))


class _Edit:
    """A change of the document of a running dataflow: change ``nodes``, `check`, and make the `change`."""

    checked: Dataflow  # the whole dataflow, after `check`

    def __init__(
        self, running: Dataflow, text: str, file: str, environ: Mapping[str, str], strict_types: bool
    ) -> None:
        """``file`` is the name of the text in messages."""
        self.report = ProblemReport(text, file)
        self._running = running
        self._reader = Reader(self.report, environ)
        self._strict_types = strict_types
        self._root = _tree(running)
        nodes = self._root.get("nodes")
        assert isinstance(nodes, SequenceNode)
        self.nodes = nodes.items
        self._known: set[str] = set()  # messages about the dataflow as it was

    def check(self) -> None:
        """Check the document as if it were a file; raises `DataflowError` with the errors of the change."""
        former = Reader(ProblemReport("", RUNNING), self._reader.environ)
        before = self._read(_tree(self._running), former, strict_types=False)
        self._known = {problem.message for problem in former.report.problems}
        if before is not None:
            self._known |= {problem.message for problem in before.type_warnings}
        after = self._read(self._root, self._reader, self._strict_types)
        if errors := self._new(p for p in self.report.sorted() if p.severity == "error"):
            raise DataflowError(problems=errors)
        if after is None:  # a client of the coordinator has sent a document with errors
            raise DataflowError(problems=self.report.sorted())
        self.checked = after

    def change(self, nodes: tuple[NodeSpec, ...], node_id: str) -> Change:
        """Return the change to these nodes; ``node_id``: the node concerned."""
        warnings = [problem for problem in self.report.sorted() if problem.severity == "warning"]
        checked = {node.id: node for node in self.checked.nodes}
        nodes = tuple(_with_safe_states(node, checked[node.id]) for node in nodes)
        return Change(
            msgspec.structs.replace(
                self._running, nodes=nodes, descriptor=DATAFLOW.stored(self._root), types=self.checked.types
            ),
            node_id,
            tuple(p for p in self.checked.programs if p.place.file == self.report.file),
            self._new([*warnings, *self.checked.type_warnings]),
        )

    def _read(self, root: MappingNode, reader: Reader, strict_types: bool) -> Dataflow | None:
        checked = DATAFLOW.read(root, reader)
        if checked is None:
            return None
        return assemble(
            checked,
            reader,
            descriptor={},
            file=self._running.file,
            working_dir=self._running.working_dir,
            env_overrides={},
            strict_types=strict_types,
        )

    def _new(self, problems: Iterable[Problem]) -> tuple[Problem, ...]:
        """Return the new problems; those in nodes that run already have no file to point into."""
        return tuple(
            problem if problem.file == self.report.file else problem._replace(line=0, source="")
            for problem in problems
            if problem.file == self.report.file or problem.message not in self._known
        )


def _node_block(report: ProblemReport) -> MappingNode:
    """Return the mapping of one node in the text of a report; raises `DataflowError`."""
    block = compose(report.origin.text, report)
    if isinstance(block, SequenceNode) and len(block.items) == 1:
        block = block.items[0]
    if isinstance(block, MappingNode) and "nodes" in block.entries:
        report.error(
            block.entries["nodes"][0],
            "this is a dataflow; what is added is one node",
            "write the mapping of the node alone: `id`, `path`, `inputs`, …",
        )
    elif isinstance(block, MappingNode) and "module" in block.entries:
        report.error(
            block.entries["module"][0],
            "a node that uses a module cannot be added to a running dataflow",
            "`dora expand` shows the nodes of the module; add them one by one",
        )
    elif not isinstance(block, MappingNode) and not report.failed:
        where = block or TextSpan(0, 0, 0, 1)
        report.error(
            where, "a node is a mapping", "it has an `id` and says what to run, as `path: camera.py`"
        )
    if report.failed or not isinstance(block, MappingNode):
        raise DataflowError(problems=report.sorted())
    at = ScalarNode.of("nodes", block)
    upgrade_legacy(MappingNode.of({"nodes": (at, SequenceNode.of([block], block))}, block), report)
    return block


def _id_of(block: YamlNode) -> str:
    found = block.get("id") if isinstance(block, MappingNode) else None
    return found.text if isinstance(found, ScalarNode) else ""


def _place(block: MappingNode, name: str) -> TextSpan:
    return block.get(name) or block


# --------------------------------------------------------------------------- inputs


def _split_target(running: Dataflow, target: str) -> tuple[NodeSpec, str]:
    """Return the node and the id of its input, with the operator's; raises `DoraError`."""
    node_id, slash, input_id = target.partition("/")
    if not slash or not input_id:
        raise DoraError(f"`{target}` names no input; write <node>/<input>")
    node = find_node(running, node_id)
    if not node.is_runtime:
        return node, input_id
    names = [operator.id for operator in node.operators]
    operator, slash, short = input_id.partition("/")
    if len(names) == 1 and (not slash or operator == names[0]):
        return node, f"{node.operators[0].prefix}{short or operator}"
    if not slash or not short:
        raise DoraError(
            f"`{target}` does not say which operator is meant; write {node_id}/<operator>/<input>"
        )
    if operator not in names:
        hint = did_you_mean(operator, names) or f"its operators are {listed(names)}"
        raise DoraError(f"node `{node_id}` has no operator `{operator}`; {hint}")
    return node, input_id


def _input_owner(block: MappingNode, node: NodeSpec, input_id: str) -> tuple[MappingNode, str]:
    """Return the block that lists an input, the node's or the operator's, and the id there."""
    if not node.is_runtime:
        return block, input_id
    operator_id, short = node.split_port(input_id)
    single = block.get("operator")
    if isinstance(single, MappingNode):
        return single, short
    operators = block.get("operators")
    assert isinstance(operators, SequenceNode)
    owner = next(item for item in operators.items if _id_of(item) == operator_id)
    assert isinstance(owner, MappingNode)
    return owner, short


def _drop_input(descriptor: dict[str, Any], node: NodeSpec, input_id: str) -> None:
    block = next(known for known in descriptor["nodes"] if str(known["id"]) == node.id)
    short = input_id
    if node.is_runtime:
        operator_id, short = node.split_port(input_id)
        block = block.get("operator") or next(
            known for known in block["operators"] if str(known["id"]) == operator_id
        )
    block["inputs"].pop(short, None)
    if isinstance(block.get("input_types"), dict):
        block["input_types"].pop(short, None)


def _short_source(running: Dataflow, item: InputSpec) -> str:
    """Return how an output may be written as well: without the id of the only operator."""
    source = item.source
    if isinstance(source, NodeOutput):
        node = next((node for node in running.nodes if node.id == source.node), None)
        if node is not None and len(node.operators) == 1:
            return f"{source.node}/{source.output.removeprefix(node.operators[0].prefix)}"
    return str(source)


def _with_safe_states(node: NodeSpec, checked: NodeSpec) -> NodeSpec:
    """Return a node with the safe states that ``checked`` has, whose conditions follow from the receivers.

    A safe state whose conditions have gone with their receivers is not in ``checked``, and stays.
    """
    rules = {
        output: msgspec.structs.replace(known, safe_state=fresh)
        for output, known in node.output_rules.items()
        if (fresh := checked.rules_of_output(output).safe_state) is not None
    }
    return msgspec.structs.replace(node, output_rules={**node.output_rules, **rules})


def _with_input(node: NodeSpec, fresh: InputSpec) -> NodeSpec:
    owner, name = node.split_port(fresh.id) if node.is_runtime else ("", "")
    short = msgspec.structs.replace(fresh, id=name)
    operators = tuple(
        msgspec.structs.replace(operator, inputs=(*operator.inputs, short))
        if operator.id == owner
        else operator
        for operator in node.operators
    )
    return msgspec.structs.replace(node, inputs=(*node.inputs, fresh), operators=operators)


def _without_inputs(node: NodeSpec, gone: set[str]) -> NodeSpec:
    if not gone:
        return node
    return msgspec.structs.replace(
        node,
        inputs=tuple(item for item in node.inputs if item.id not in gone),
        operators=tuple(
            msgspec.structs.replace(
                operator,
                inputs=tuple(item for item in operator.inputs if f"{operator.prefix}{item.id}" not in gone),
            )
            for operator in node.operators
        ),
    )


def _left(running: Dataflow, nodes: tuple[NodeSpec, ...], descriptor: dict[str, Any]) -> Dataflow:
    """Return the dataflow with fewer nodes or inputs, and the types of what is left."""
    inputs = {f"{node.id}/{item.id}" for node in nodes for item in node.inputs}
    outputs = {f"{node.id}/{output}" for node in nodes for output in node.outputs}
    known = running.types
    types = msgspec.structs.replace(
        known,
        inputs={name: kind for name, kind in known.inputs.items() if name in inputs},
        outputs={name: kind for name, kind in known.outputs.items() if name in outputs},
        inferred=tuple(item for item in known.inferred if item[1] in inputs),
    )
    return msgspec.structs.replace(running, nodes=nodes, descriptor=descriptor, types=types)


def _document(running: Dataflow) -> dict[str, Any]:
    """Return a copy of the document of a dataflow; raises `DoraError` if it has none that can be changed.

    A client of the coordinator may have sent the dataflow, and any document with it, or none.
    """
    if fault := document_fault(running) or ("" if running.descriptor else "it came without a `descriptor`"):
        raise DoraError(f"the running dataflow cannot be changed: {fault}")
    copy: dict[str, Any] = json.loads(json.dumps(running.descriptor))
    return copy


def make_change(operation: TopologyOperation, running: Dataflow, environ: Mapping[str, str]) -> Change:
    """Turn an operation into a change of a running dataflow; raises `DoraError`.

    The operation gives values of ``$NAME`` in a YAML text; ``environ`` gives the others.
    """
    match operation:
        case AddOperation():
            return with_node(running, operation, environ)
        case ReplaceOperation():
            return with_replaced(running, operation, environ)
        case RemoveOperation(node=node):
            find_node(running, node)
            return Change(without_node(running, node), node)
        case ConnectOperation():
            return with_link(running, operation)
        case DisconnectOperation():
            return without_link(running, operation)


def proposal_of(
    change: Change, operation: TopologyOperation, revision: int, generations: Mapping[str, int]
) -> ProposedChange:
    """Return the proposal of a change, which follows from an operation.

    ``generations``: of the running dataflow. The proposal has them too; for a replacement, the new
    one of the program as well.
    """
    replaced = isinstance(operation, ReplaceOperation)
    return ProposedChange(
        revision=revision,
        dataflow=msgspec.to_builtins(change.dataflow),
        programs=msgspec.to_builtins(change.programs),
        added=change.added,
        removed=change.removed,
        generations={**generations, **({program_key(change.node_id): revision} if replaced else {})},
        grace=operation.grace if isinstance(operation, (ReplaceOperation, RemoveOperation)) else None,
    )
