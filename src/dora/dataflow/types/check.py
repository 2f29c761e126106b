"""Check that the types which nodes declare for their inputs and outputs fit together.

Types are optional: an input without one accepts anything, and an output without one may send anything. If
only the source of an input has a type, the input has the same type (it is *inferred*).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from dora.dataflow.model import InputSpec, LogSource, NodeOutput, PortType, TimerSource, Types
from dora.dataflow.problems import ProblemReport, TextSpan, listed
from dora.dataflow.types.contracts import PATTERNS, Ports
from dora.dataflow.types.library import NOTHING, TEXT, TIMER, Shape, TypeLibrary, accepts
from dora.dataflow.types.manifest import NodeManifest, manifest_of
from dora.dataflow.types.own_types import TypeFault, TypeName, parse_type, read_types
from dora.dataflow.yaml.field_types import Reader
from dora.dataflow.yaml.schema_block import CheckedBlock
from dora.errors import Problem


def check_types(
    ports: list[Ports], rules: tuple[CheckedBlock, ...], reader: Reader, project: str, shown: str
) -> tuple[Types, tuple[Problem, ...]]:
    """Return the types of all inputs and outputs, and warnings of those that do not fit together.

    ``project`` is the folder of the dataflow file, which messages call ``shown``.
    """
    report = ProblemReport(reader.report.origin.text, reader.report.file, reader.report)
    own = Reader(report, reader.environ)
    library = TypeLibrary(report, lambda: read_types(project, shown, own))
    manifests = {item.path: manifest_of(item.path, project, shown, own) for item in ports if item.path}
    types = _Check(library, report, manifests).check(ports, rules)
    return types, tuple(problem._replace(severity="warning") for problem in report.sorted())


class _Declared(NamedTuple):
    """A type as it is written in a file."""

    text: str
    span: TextSpan


class _Check:
    def __init__(
        self, library: TypeLibrary, report: ProblemReport, manifests: Mapping[str, NodeManifest | None]
    ) -> None:
        self.library = library
        self.report = report
        self.manifests = manifests
        self.rules: tuple[tuple[TypeName, TypeName], ...] = ()
        self.outputs: dict[str, TypeName] = {}
        self.inputs: dict[str, PortType] = {}

    def check(self, ports: list[Ports], rules: tuple[CheckedBlock, ...]) -> Types:
        self.rules = tuple(
            (start, to)
            for rule in rules
            if (start := self._rule_end(rule, "from")) is not None
            and (to := self._rule_end(rule, "to")) is not None
        )
        for item in ports:
            self._outputs(item)
            self._described(item)
        inferred = [found for item in ports for found in self._inputs(item)]
        return Types(
            inputs=self.inputs,
            outputs={
                name: PortType(str(found), self._shapes(found)) for name, found in self.outputs.items()
            },
            inferred=tuple(inferred),
        )

    def _rule_end(self, rule: CheckedBlock, end: str) -> TypeName | None:
        text: str | None = rule.get(end)
        return None if text is None else self._type(_Declared(text, rule.place(end)), "`type_rules`")

    def _type(self, declared: _Declared, owner: str) -> TypeName | None:
        """Return a type that exists; None after reporting that it does not."""
        try:
            name = parse_type(declared.text)
        except TypeFault as fault:
            self.report.warn(declared.span, f"{fault.message}, as {owner} has it", fault.hint)
            return None
        if self.library.exists(name):
            return name
        hint = self.library.hint(name)
        self.report.warn(declared.span, f"there is no type `{name.base}`, which {owner} refers to", hint)
        return None

    def _declared(
        self, ports: Ports, field: str, names: tuple[str, ...]
    ) -> Iterator[tuple[str, _Declared]]:
        """Yield the types that the dataflow, or else the manifest, declares for these inputs or outputs."""
        written: dict[str, str] = ports.block.get(field) or {}
        manifest = self.manifests.get(ports.path)
        for name in names:
            if name in written:
                yield name, _Declared(written[name], ports.block.place(field, name))
            elif manifest is not None and name in manifest.types[field]:
                yield name, _Declared(*manifest.types[field][name])
        known = frozenset(names)
        for name in written:
            if name not in known and not ports.block.failed(field.replace("_types", "s")):
                self._undeclared(ports, field, name, names)

    def _outputs(self, ports: Ports) -> None:
        for output, declared in self._declared(ports, "output_types", ports.outputs):
            owner = f"the output `{output}` of {ports.owner}"
            found = self._type(declared, owner)
            if found is None:
                continue
            if output in ports.texts and not accepts(found, TEXT, self.rules):
                self.report.warn(
                    declared.span,
                    f"{owner} is declared as `{found}`, but carries lines of text",
                    f"write `{TEXT}`",
                )
            self.outputs[f"{ports.node}/{ports.prefix}{output}"] = found
        for output in ports.texts:
            self.outputs.setdefault(f"{ports.node}/{ports.prefix}{output}", TEXT)

    def _described(self, ports: Ports) -> None:
        known = frozenset(ports.outputs)
        for field in ("output_metadata", "output_framing"):
            for output in ports.block.get(field) or {}:
                if output not in known and not ports.block.failed("outputs"):
                    self._undeclared(ports, field, output, ports.outputs)
        if ports.block.failed("pattern"):
            written = getattr(ports.block.nodes["pattern"], "text", "")
            self.report.warn(
                ports.block.place("pattern"),
                f"`{written}` is not one of {listed(PATTERNS)}",
                self.report.did_you_mean(written, PATTERNS),
            )

    def _undeclared(self, ports: Ports, field: str, name: str, known: tuple[str, ...]) -> None:
        what = "an input" if field == "input_types" else "an output"
        self.report.warn(
            ports.block.place(field, name, of_key=True),
            f"`{field}` describes `{name}`, which is not {what} of {ports.owner}",
            self.report.did_you_mean(name, known),
        )

    def _inputs(self, ports: Ports) -> Iterator[tuple[str, str, str]]:
        """Check the inputs of one program or operator; yield (type, input, source) of inferred types."""
        names = tuple(item.id for item in ports.inputs)
        declared = dict(self._declared(ports, "input_types", names))
        if (manifest := self.manifests.get(ports.path)) is not None:
            for name in sorted(set(manifest.required) - set(names)):
                self.report.warn(
                    ports.block.place("inputs"),
                    f"the input `{name}` of {ports.owner}, which `{manifest.file}` requires, "
                    "is not connected",
                )
        for item in ports.inputs:
            target = f"{ports.node}/{ports.prefix}{item.id}"
            sent = self._sent(item)
            if item.id not in declared:
                if sent is not None and isinstance(item.source, NodeOutput):
                    yield str(sent), target, str(item.source)
                continue
            expected = self._type(declared[item.id], f"the input `{item.id}` of {ports.owner}")
            if expected is None:
                continue
            ticks = isinstance(item.source, TimerSource) and any(expected.agrees(name) for name in TIMER)
            fits = sent is None or ticks or accepts(expected, sent, self.rules)
            if sent is not None and not fits:
                self._mismatch(ports, item, declared[item.id].span, expected, sent)
            converted = (sent,) if sent is not None and fits else ()
            self.inputs[target] = PortType(str(expected), self._shapes(expected, *converted))

    def _shapes(self, *names: TypeName) -> tuple[Shape, ...]:
        """Return the Arrow types of messages that may have any of these types."""
        shapes: list[Shape] = []
        for name in names:
            shape = self.library.shape(name)
            if shape is None or shape == "LargeBinary":  # bytes can be anything
                return ()
            if shape not in shapes:
                shapes.append(shape)
        return tuple(shapes)

    def _sent(self, item: InputSpec) -> TypeName | None:
        match item.source:
            case TimerSource():
                return NOTHING
            case LogSource():
                return TEXT
            case NodeOutput():
                return self.outputs.get(str(item.source))

    def _mismatch(
        self, ports: Ports, item: InputSpec, span: TextSpan, expected: TypeName, sent: TypeName
    ) -> None:
        if not isinstance(item.source, NodeOutput):
            hint = f"write `{sent}`"
        elif sent.base == expected.base:
            hint = "their parameters differ"
        else:
            hint = f"if that is meant, add `{{from: {sent.base}, to: {expected.base}}}` to `type_rules`"
        self.report.warn(
            span,
            f"the input `{item.id}` of {ports.owner} expects `{expected}`, "
            f"but `{item.source}` sends `{sent}`",
            hint,
        )
