"""Inline modules: replace each node that uses a module by the nodes of the module.

This works on the tree of YAML nodes. The result equals a file written by hand without modules, except that
its values keep the place in the file that they come from. A node ``pipe`` that uses a module is replaced by
the module's nodes with the ids ``pipe.<id>``; ``_mod/<port>`` by the source that ``pipe`` connects to the
port; and ``pipe/<output>`` elsewhere by the output of the inner node that sends it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

import msgspec

from dora.dataflow.modules.check import MAX_NESTING, ModuleDefinition
from dora.dataflow.modules.open_ports import change_entry, forget_inputs
from dora.dataflow.parser.black_box import OUTPUT_LISTS
from dora.dataflow.parser.resolve_inputs import PORTS
from dora.dataflow.problems import Origin, ProblemReport, TextSpan
from dora.dataflow.yaml.compose import MAX_VALUES
from dora.dataflow.yaml.files import is_file
from dora.dataflow.yaml.schema_block import CheckedBlock
from dora.dataflow.yaml.tree import MappingNode, ScalarNode, SequenceNode, YamlNode

_parameter = re.compile(r"\$\{_param\.([A-Za-z0-9_]+)\}|\$PARAM_([A-Za-z0-9_]+)")

_INHERITED = ("deploy", "preload")  # fields of a node that uses a module, for the nodes of the module


class _TooLarge(Exception):
    """With all its modules written out, the dataflow has too many values."""


class _ModuleScope(msgspec.Struct, dict=True):
    """The nodes of the dataflow's own file, or of a module's file where a node uses it."""

    nodes: tuple[CheckedBlock, ...]
    modules: Mapping[str, ModuleDefinition]
    parent: _ModuleScope | None = None
    origin: Origin | None = None
    folder: str = ""  # of the file, relative to the project
    prefix: str = ""
    ports: Mapping[str, YamlNode | None] = {}  # port → its source; None: not connected
    params: Mapping[str, str] = {}
    env: MappingNode | None = None  # what its nodes get, unless they set it themselves
    fields: Mapping[str, tuple[ScalarNode, YamlNode]] = {}  # what its nodes get that have no such field
    build: tuple[str, ...] = ()
    depth: int = 0

    @cached_property
    def ids(self) -> set[str]:
        return {node.get("id") for node in self.nodes}

    @cached_property
    def by_variable(self) -> dict[str, str]:
        return {name.upper(): text for name, text in self.params.items()}

    def source(self, scalar: ScalarNode) -> YamlNode | None:
        """Return the source with its id in the dataflow; None: the port is not connected."""
        node, _, output = scalar.text.partition("/")
        if node == PORTS and self.parent is not None:
            return self.ports[output]
        if node == "dora":
            return self._built_in(scalar)
        if node not in self.ids and node.partition(".")[0] not in self.modules:
            return scalar if self.parent is None else self.parent.source(scalar)
        if node in self.modules:
            # Missing only where a module refers to a node outside of it: the check of links reports that.
            found = self.modules[node].exports.get(output)
            return ScalarNode.of(f"{self.prefix}{node}.{found}", scalar) if found else scalar
        return ScalarNode.of(f"{self.prefix}{scalar.text}", scalar) if self.prefix else scalar

    def _built_in(self, scalar: ScalarNode) -> ScalarNode:
        """Return a source of dora's; log entries may come from a node inside."""
        start, slash, node = scalar.text.rpartition("/")
        if start.startswith("dora/logs/") and self.prefix and node in self.ids:
            return ScalarNode.of(f"{start}{slash}{self.prefix}{node}", scalar)
        return scalar

    def substitute(self, text: str) -> str:
        """Return a text with the module's parameters put in; those that do not exist stay as written."""

        def replace(match: re.Match[str]) -> str:
            found = self.params.get(match[1]) if match[1] else self.by_variable.get(match[2])
            return match[0] if found is None else found

        return _parameter.sub(replace, text)


class Inliner:
    """Writes out the modules of one dataflow; ``project`` is its folder."""

    def __init__(self, project: str, report: ProblemReport) -> None:
        self.project = project
        self.report = report
        self.size = 0

    def inline_modules(
        self, root: MappingNode, nodes: tuple[CheckedBlock, ...], modules: Mapping[str, ModuleDefinition]
    ) -> MappingNode:
        """Return the dataflow without modules; ``nodes`` are its nodes, already checked."""
        key, written = root.entries["nodes"]
        try:
            inlined = list(self._nodes(_ModuleScope(nodes, modules)))
        except _TooLarge:
            self.report.error(key, "with all its modules written out, this dataflow grows too large")
            return root
        entries = {**root.entries, "nodes": (key, SequenceNode.of(inlined, written))}
        own = _ModuleScope(nodes, modules)
        change_entry(entries, "paths", lambda paths: _with_outputs_in(paths, ("from",), own))
        change_entry(entries, "black_box", lambda box: _with_outputs_in(box, OUTPUT_LISTS, own))
        return MappingNode.of(entries, root)

    def _nodes(self, scope: _ModuleScope) -> Iterator[YamlNode]:
        for node in scope.nodes:
            written = node.span
            assert isinstance(written, MappingNode)
            self.size += written.size
            if self.size > MAX_VALUES:  # a few small files can multiply each other
                raise _TooLarge
            if scope.origin is not None:
                written = written.copied(scope.origin)
            if node.get("id") not in scope.modules:
                yield self._node(written, scope)
            elif scope.depth >= MAX_NESTING:
                self.report.error(
                    written.entries["module"][1], f"modules are nested more than {MAX_NESTING} levels deep"
                )
            else:
                yield from self._nodes(self._use(written, node, scope))

    def _use(self, written: MappingNode, node: CheckedBlock, scope: _ModuleScope) -> _ModuleScope:
        """Return the scope of the module that a node uses."""
        name: str = node.get("id")
        module = scope.modules[name]
        place = written.entries["module"][1]
        prefix = f"{scope.prefix}{name}."
        note = f"this module is used by the node `{prefix[:-1]}` ({self.report.place(place)})"
        params = {key: scope.substitute(text) for key, text in (node.get("params") or {}).items()}
        own = {name: item for name, item in written.entries.items() if name in _INHERITED}
        own = {name: item for name, item in own.items() if _says_something(item)}
        return _ModuleScope(
            module.nodes,
            module.modules,
            parent=scope,
            origin=Origin(module.text, module.file, prefix, note),
            folder=module.folder,
            prefix=prefix,
            ports=self._ports(written, module, scope),
            params=params,
            env=_merged(written.get("env"), scope.env),
            fields={**scope.fields, **own},
            build=scope.build + module.build,
            depth=scope.depth + 1,
        )

    def _ports(
        self, written: MappingNode, module: ModuleDefinition, scope: _ModuleScope
    ) -> dict[str, YamlNode | None]:
        inputs = written.get("inputs")
        entries = inputs.entries if isinstance(inputs, MappingNode) else {}
        ports: dict[str, YamlNode | None] = {}
        for port in (*module.optional, *module.inputs):
            ports[port] = _connected(entries[port][1], scope) if port in entries else None
        for port in module.inputs:
            if ports[port] is None:
                self.report.error(
                    entries[port][1],
                    f"the input `{port}` of the module `{module.file}` is not connected here, because it "
                    "is fed by a port that is left open",
                    f"move `{port}` to `inputs_optional` of that module, or connect the port",
                )
        return ports

    # ---------------------------------------------------------------- one node

    def _node(self, written: MappingNode, scope: _ModuleScope) -> MappingNode:
        entries = dict(written.entries)
        self._connect(entries, scope)
        self._operators(entries, scope)
        if scope.parent is None:
            return MappingNode.of(entries, written)
        key, name = entries["id"]
        assert isinstance(name, ScalarNode)
        entries["id"] = (key, ScalarNode.of(scope.prefix + name.text, name))
        if "path" in entries and not _says_something(entries.get("git")):
            self._rebase(entries, "path", scope)
        _rebase_repository(entries, scope)
        if "args" in entries:
            entries["args"] = (entries["args"][0], _substituted(entries["args"][1], scope))
        if not any(_says_something(entries.get(field)) for field in ("operator", "operators")):
            _prepend_build(entries, scope.build, written)
        env = _merged(_value(entries.get("env")), scope.env)
        # Parameters win: the node that uses the module sets them.
        env = _with_params(env, _all_params(scope), written)
        if env is not None:
            entries["env"] = (entries["env"][0] if "env" in entries else ScalarNode.of("env", written), env)
        for field, entry in scope.fields.items():
            if not _says_something(entries.get(field)):
                entries[field] = entry
        return MappingNode.of(entries, written)

    def _operators(self, entries: dict[str, tuple[ScalarNode, YamlNode]], scope: _ModuleScope) -> None:
        for field in ("operator", "operators"):
            if field not in entries:
                continue
            key, value = entries[field]
            if isinstance(value, MappingNode):
                entries[field] = (key, self._operator(value, scope))
            elif isinstance(value, SequenceNode):
                items = [
                    self._operator(item, scope) if isinstance(item, MappingNode) else item
                    for item in value.items
                ]
                entries[field] = (key, SequenceNode.of(items, value))

    def _operator(self, written: MappingNode, scope: _ModuleScope) -> MappingNode:
        entries = dict(written.entries)
        self._connect(entries, scope)
        if scope.parent is not None:
            key, python = entries.get("python", (None, None))
            if key is not None and isinstance(python, MappingNode):
                source = dict(python.entries)
                self._rebase(source, "source", scope)
                entries["python"] = (key, MappingNode.of(source, python))
            else:
                self._rebase(entries, "python", scope)
            _prepend_build(entries, scope.build, written)
        return MappingNode.of(entries, written)

    def _connect(self, entries: dict[str, tuple[ScalarNode, YamlNode]], scope: _ModuleScope) -> None:
        """Rewrite the sources of the inputs; those fed by an open port go away."""
        key, inputs = entries.get("inputs", (None, None))
        if key is None or not isinstance(inputs, MappingNode):
            return
        connected = {
            name: (input_key, source)
            for name, (input_key, value) in inputs.entries.items()
            if (source := _connected(value, scope)) is not None
        }
        entries["inputs"] = (key, MappingNode.of(connected, inputs))
        forget_inputs(entries, inputs.entries.keys() - connected.keys())

    def _rebase(
        self, entries: dict[str, tuple[ScalarNode, YamlNode]], field: str, scope: _ModuleScope
    ) -> None:
        """Make a path relative to the module's file one relative to the project."""
        key, path = entries.get(field, (None, None))
        if key is None or not isinstance(path, ScalarNode) or not scope.folder:
            return
        text = path.text
        if os.path.isabs(text) or text.startswith(("~", "$")) or "://" in text:
            return
        if field == "path" and text in ("dynamic", "shell"):
            return
        rebased = os.path.normpath(os.path.join(scope.folder, text))
        is_command = os.sep not in text and not text.endswith(".py")
        if is_command and not is_file(os.path.join(self.project, rebased)):
            return
        if rebased.startswith(".."):
            self.report.error(
                path,
                f"the path `{text}` leads outside the folder of the dataflow",
                "move the file into that folder, or write an absolute path",
            )
            return
        is_name = os.sep not in rebased and not rebased.endswith(".py")  # else of a command
        if is_name and is_file(os.path.join(self.project, rebased)):
            rebased = os.path.join(os.curdir, rebased)
        entries[field] = (key, ScalarNode.of(rebased, path))


def _rebase_repository(entries: dict[str, tuple[ScalarNode, YamlNode]], scope: _ModuleScope) -> None:
    """Make the folder of a repository, if it is relative to the module's file, relative to the project."""
    key, repository = entries.get("git", (None, None))
    if key is None or not isinstance(repository, ScalarNode) or not scope.folder:
        return
    if repository.text.partition("/")[0] in (os.curdir, os.pardir):
        folder = os.path.normpath(os.path.join(scope.folder, repository.text))
        entries["git"] = (key, ScalarNode.of(os.path.join(os.curdir, folder), repository))


def _value(entry: tuple[ScalarNode, YamlNode] | None) -> YamlNode | None:
    return None if entry is None else entry[1]


def _says_something(entry: tuple[ScalarNode, YamlNode] | None) -> bool:
    return entry is not None and not (isinstance(entry[1], ScalarNode) and entry[1].value is None)


def _connected(value: YamlNode, scope: _ModuleScope) -> YamlNode | None:
    """Return an input with the id of its source in the dataflow; None: its port is not connected.

    Options stand where the input is, or else where the port is connected.
    """
    if not isinstance(value, MappingNode):
        return scope.source(value) if isinstance(value, ScalarNode) else value
    written = value.get("source")
    if not isinstance(written, ScalarNode):
        return value
    source = scope.source(written)
    if source is None or source is written:
        return None if source is None else value
    options = dict(source.entries) if isinstance(source, MappingNode) else {}
    key = value.entries["source"][0]
    found = options.get("source", (key, source))[1]
    return MappingNode.of({**options, **value.entries, "source": (key, found)}, value)


def _with_outputs_in(value: YamlNode, fields: Iterable[str], scope: _ModuleScope) -> YamlNode:
    """Return a block, or a list of blocks, whose ``fields`` name outputs by their ids in the dataflow."""
    if isinstance(value, SequenceNode):
        return SequenceNode.of([_with_outputs_in(item, fields, scope) for item in value.items], value)
    if not isinstance(value, MappingNode):
        return value
    entries = dict(value.entries)
    for field in fields:
        change_entry(entries, field, lambda named: _outputs(named, scope))
    return MappingNode.of(entries, value)


def _outputs(named: YamlNode, scope: _ModuleScope) -> YamlNode:
    """Return the name of an output, or a list of names, by their ids in the dataflow."""
    if isinstance(named, SequenceNode):
        return SequenceNode.of([_outputs(item, scope) for item in named.items], named)
    return (scope.source(named) or named) if isinstance(named, ScalarNode) else named


def _substituted(value: YamlNode, scope: _ModuleScope) -> YamlNode:
    if isinstance(value, SequenceNode):
        return SequenceNode.of([_substituted(item, scope) for item in value.items], value)
    if not isinstance(value, ScalarNode):
        return value
    text = scope.substitute(value.text)
    return value if text == value.text else ScalarNode.of(text, value)


def _merged(own: YamlNode | None, inherited: MappingNode | None) -> MappingNode | None:
    """Return environment variables with what they inherit; their own win."""
    if not isinstance(own, MappingNode):
        return inherited
    if inherited is None:
        return own
    return MappingNode.of({**inherited.entries, **own.entries}, own)


def _all_params(scope: _ModuleScope) -> dict[str, str]:
    outer = _all_params(scope.parent) if scope.parent is not None else {}
    return {**outer, **scope.params}


def _with_params(env: MappingNode | None, params: Mapping[str, str], at: TextSpan) -> MappingNode | None:
    """Return environment variables with the parameters among them, as ``PARAM_<NAME>``."""
    if not params:
        return env
    entries = dict(env.entries) if env is not None else {}
    for name, text in params.items():
        variable = f"PARAM_{name.upper()}"
        entries[variable] = (ScalarNode.of(variable, at), ScalarNode.of(text.replace("$", "$$"), at))
    return MappingNode.of(entries, at if env is None else env)


def _prepend_build(
    entries: dict[str, tuple[ScalarNode, YamlNode]], commands: Iterable[str], at: TextSpan
) -> None:
    lines = list(commands)
    if not lines:
        return
    key, own = entries.get("build", (ScalarNode.of("build", at), None))
    if isinstance(own, SequenceNode):
        lines += (item.text for item in own.items if isinstance(item, ScalarNode))
    elif isinstance(own, ScalarNode) and own.value is not None:
        lines.append(own.text)
    entries["build"] = (key, ScalarNode.of("\n".join(line.strip("\n") for line in lines), own or key))
