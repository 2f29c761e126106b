"""Do the types that nodes declare for their inputs and outputs fit together?

Types are optional: an input or output without one takes and gives anything. An input without a type
whose source has one is said to have that type (it is *inferred*).
"""

from __future__ import annotations

import msgspec

from dora.dataflow.block import Checked
from dora.dataflow.model import Input, LogSource, NodeOutput, PortType, TimerSource, Types
from dora.dataflow.report import Report, did_you_mean, listed
from dora.dataflow.type_library import NOTHING, TEXT, TIMER, Shape, TypeLibrary, accepts
from dora.dataflow.type_names import TypeFault, TypeName, parse_type

PATTERNS = ("service-server", "service-client", "action-server", "action-client")


class Ports(msgspec.Struct, frozen=True):
    """The inputs and outputs of one program or operator, and the block that describes them."""

    owner: str  # "node `a`", for messages
    node: str
    prefix: str  # of its ids among those of the node: "<operator id>/" or ""
    block: Checked
    inputs: tuple[Input, ...]  # with the ids of the block
    outputs: tuple[str, ...]
    texts: tuple[str, ...] = ()  # outputs that carry captured lines or log entries


def check_types(
    ports: list[Ports], rules: tuple[Checked, ...], library: TypeLibrary, report: Report
) -> Types:
    """Return the types of all inputs and outputs; what does not fit is told to the report as a warning."""
    return _Check(library, report).check(ports, rules)


class _Check:
    def __init__(self, library: TypeLibrary, report: Report) -> None:
        self.library = library
        self.report = report
        self.rules: tuple[tuple[TypeName, TypeName], ...] = ()
        self.outputs: dict[str, TypeName] = {}
        self.inputs: dict[str, PortType] = {}

    def check(self, ports: list[Ports], rules: tuple[Checked, ...]) -> Types:
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

    def _rule_end(self, rule: Checked, end: str) -> TypeName | None:
        text: str | None = rule.get(end)
        return None if text is None else self._type(text, rule, end, "`type_rules`")

    def _type(self, text: str, block: Checked, field: str, owner: str, key: str = "") -> TypeName | None:
        """Return a type that exists; None after telling why it does not."""
        span = block.place(field, key)
        try:
            name = parse_type(text)
        except TypeFault as fault:
            self.report.warn(span, f"{fault.message}, as {owner} has it", fault.hint)
            return None
        if self.library.exists(name):
            return name
        hint = self.library.hint(name)
        self.report.warn(span, f"there is no type `{name.base}`, which {owner} refers to", hint)
        return None

    def _outputs(self, ports: Ports) -> None:
        declared: dict[str, str] = ports.block.get("output_types") or {}
        for output, text in declared.items():
            if output not in ports.outputs:
                self._undeclared(ports, "output_types", output, "an output", ports.outputs)
                continue
            owner = f"the output `{output}` of {ports.owner}"
            found = self._type(text, ports.block, "output_types", owner, output)
            if found is None:
                continue
            if output in ports.texts and not accepts(found, TEXT, self.rules):
                self.report.warn(
                    ports.block.place("output_types", output),
                    f"{owner} is declared as `{found}`, but carries lines of text",
                    f"write `{TEXT}`",
                )
            self.outputs[f"{ports.node}/{ports.prefix}{output}"] = found
        for output in ports.texts:
            self.outputs.setdefault(f"{ports.node}/{ports.prefix}{output}", TEXT)

    def _described(self, ports: Ports) -> None:
        for field in ("output_metadata", "output_framing"):
            for output in ports.block.get(field) or {}:
                if output not in ports.outputs and not ports.block.failed("outputs"):
                    self._undeclared(ports, field, output, "an output", ports.outputs)
        if ports.block.failed("pattern"):
            written = getattr(ports.block.nodes["pattern"], "text", "")
            self.report.warn(
                ports.block.place("pattern"),
                f"`{written}` is not one of {listed(PATTERNS)}",
                did_you_mean(written, PATTERNS),
            )

    def _undeclared(self, ports: Ports, field: str, name: str, what: str, known: tuple[str, ...]) -> None:
        self.report.warn(
            ports.block.place(field, name, of_key=True),
            f"`{field}` describes `{name}`, which is not {what} of {ports.owner}",
            did_you_mean(name, known),
        )

    def _inputs(self, ports: Ports) -> list[tuple[str, str, str]]:
        """Check the inputs of one program or operator; return (type, input, source) of what is inferred."""
        declared: dict[str, str] = ports.block.get("input_types") or {}
        names = tuple(item.id for item in ports.inputs)
        for name in declared:
            if name not in names and not ports.block.failed("inputs"):
                self._undeclared(ports, "input_types", name, "an input", names)
        inferred: list[tuple[str, str, str]] = []
        for item in ports.inputs:
            target = f"{ports.node}/{ports.prefix}{item.id}"
            sent = self._sent(item)
            if item.id not in declared:
                if sent is not None and isinstance(item.source, NodeOutput):
                    inferred.append((str(sent), target, str(item.source)))
                continue
            owner = f"the input `{item.id}` of {ports.owner}"
            expected = self._type(declared[item.id], ports.block, "input_types", owner, item.id)
            if expected is None:
                continue
            fits = sent is None or self._fits(item, expected, sent)
            if sent is not None and not fits:
                self._mismatch(ports, item, expected, sent)
            converted = (sent,) if sent is not None and fits else ()
            self.inputs[target] = PortType(str(expected), self._shapes(expected, *converted))
        return inferred

    def _shapes(self, *names: TypeName) -> tuple[Shape, ...]:
        """Return the Arrow types of messages that may be called by any of these names."""
        shapes: list[Shape] = []
        for name in names:
            shape = self.library.shape(name)
            if shape is None or shape == "LargeBinary":  # bytes can be anything
                return ()
            if shape not in shapes:
                shapes.append(shape)
        return tuple(shapes)

    def _sent(self, item: Input) -> TypeName | None:
        match item.source:
            case TimerSource():
                return NOTHING
            case LogSource():
                return TEXT
            case NodeOutput():
                return self.outputs.get(str(item.source))

    def _fits(self, item: Input, expected: TypeName, sent: TypeName) -> bool:
        if isinstance(item.source, TimerSource) and any(expected.agrees(name) for name in TIMER):
            return True
        return accepts(expected, sent, self.rules)

    def _mismatch(self, ports: Ports, item: Input, expected: TypeName, sent: TypeName) -> None:
        if not isinstance(item.source, NodeOutput):
            hint = f"write `{sent}`"
        elif sent.base == expected.base:
            hint = "their parameters differ"
        else:
            hint = f"if that is meant, add `{{from: {sent.base}, to: {expected.base}}}` to `type_rules`"
        self.report.warn(
            ports.block.place("input_types", item.id),
            f"the input `{item.id}` of {ports.owner} expects `{expected}`, "
            f"but `{item.source}` sends `{sent}`",
            hint,
        )
