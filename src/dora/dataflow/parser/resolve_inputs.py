"""Resolve the sources of inputs: check that they exist, and write out short references to operators."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from dora.dataflow.model import LogSource, NodeOutput, Source, TimerSource
from dora.dataflow.problems import MAX_LISTED, ProblemReport, TextSpan, listed

PORTS = "_mod"  # the node that stands for the input ports of a module, in its file


class OfferedOutputs(msgspec.Struct, frozen=True):
    """The outputs of a node that others may refer to.

    ``outputs`` None: they could not be read, so every reference counts as good.
    """

    outputs: tuple[str, ...] | None  # of a runtime: "<operator id>/<output id>", if the operator has an id
    operators: tuple[str, ...] = ()
    single: bool = False  # one operator, whose id may be left out in references


class InputResolver:
    """Finds what a source refers to, among the outputs of all nodes."""

    def __init__(
        self,
        offers: Mapping[str, OfferedOutputs],
        report: ProblemReport,
        in_module: bool = False,
        modules: Collection[str] = (),
    ) -> None:
        """``in_module``: the nodes belong to a module; other nodes are known only where it is used.

        ``modules``: ids of nodes that are modules. The nodes inside, such as `arm.left`, are known only
        once the modules are written out.
        """
        self.offers = offers
        self.report = report
        self.in_module = in_module
        self.modules = modules
        self._outputs: dict[str, frozenset[str]] = {}

    def resolve(self, source: Source, span: TextSpan, wanted_by: str) -> Source | None:
        """Return the source with operator references written out; None after reporting that it is missing.

        ``wanted_by`` names the input in messages.
        """
        match source:
            case TimerSource():
                return source
            case LogSource(node=node):
                if node is not None and node not in self.offers and not self._is_known_later(node):
                    self.report.warn(
                        span,
                        f"there is no node `{node}`, so {wanted_by} never gets an entry",
                        self.report.did_you_mean(node, self.offers),
                        node,
                    )
                return source
            case NodeOutput():
                return self._output(source, span, wanted_by)

    def _is_known_later(self, node: str) -> bool:
        """Return whether a node of this id may appear once the modules are written out."""
        return self.in_module or node.partition(".")[0] in self.modules

    def _output(self, source: NodeOutput, span: TextSpan, wanted_by: str) -> NodeOutput | None:
        offer = self.offers.get(source.node)
        if offer is None:
            if self._is_known_later(source.node):
                return source
            self.report.error(
                span,
                f"there is no node `{source.node}`, which {wanted_by} refers to",
                "only the file of a module has ports"
                if source.node == PORTS
                else self._other_node(source, span.origin.prefix if span.origin else ""),
                source.node,
            )
            return None
        if offer.outputs is None:
            return source
        outputs = self._outputs.get(source.node)
        if outputs is None:
            outputs = self._outputs[source.node] = frozenset(offer.outputs)
        if source.output in outputs:
            return source
        if offer.single:
            for name in _only_operator(offer.operators[0], source.output):
                if name in outputs:
                    return NodeOutput(source.node, name)
        self._missing(source, offer, span, wanted_by)
        return None

    def _other_node(self, source: NodeOutput, prefix: str) -> str:
        """Return the hint; ``prefix`` is what the ids of a module's nodes begin with."""
        if not self.report.suggests:
            return ""
        offers = {name.removeprefix(prefix): offer for name, offer in self.offers.items() if name}
        node = self.report.closest(source.node, offers)
        if not node:
            if len(offers) == 1:
                return f"{listed(offers)} is the only node"
            return f"the nodes are {listed(offers)}" if 1 < len(offers) <= 12 else ""
        outputs = offers[node].outputs
        if outputs is None or source.output in outputs or offers[node].single:
            return f"did you mean `{node}/{source.output}`?"
        output = self.report.closest(source.output, outputs)
        return f"did you mean `{node}/{output or source.output}`?"

    def _missing(self, source: NodeOutput, offer: OfferedOutputs, span: TextSpan, wanted_by: str) -> None:
        outputs = offer.outputs or ()
        suggests = self.report.suggests
        if not suggests:
            outputs = outputs[:MAX_LISTED]
        if source.node == PORTS:
            self.report.error(
                span,
                f"this module has no port `{source.output}`, which {wanted_by} refers to",
                self.report.did_you_mean(source.output, outputs)
                or f"add `{source.output}` to the `inputs` of the module's header",
                source.output,
                last=True,
            )
            return
        operator, slash, output = source.output.partition("/")
        if offer.operators and not offer.single and not slash:
            fitting = [name for name in outputs if name.endswith(f"/{source.output}")] if suggests else []
            hint = f"write `{source.node}/{fitting[0]}`" if len(fitting) == 1 else ""
            self.report.error(
                span,
                f"the source `{source}` of {wanted_by} does not say which operator is meant",
                hint
                or f"write `{source.node}/<operator>/{source.output}`; "
                f"the operators are {listed(offer.operators, MAX_LISTED)}",
            )
            return
        if offer.operators and slash and not offer.single and operator not in offer.operators:
            found = self.report.closest(operator, offer.operators)
            self.report.error(
                span,
                f"the node `{source.node}` has no operator `{operator}`, which {wanted_by} refers to",
                f"did you mean `{source.node}/{found}/{output}`?"
                if found
                else f"the operators are {listed(offer.operators, MAX_LISTED)}",
                operator,
            )
            return
        if offer.single:
            outputs = tuple(name.removeprefix(f"{offer.operators[0]}/") for name in outputs)
        found = self.report.closest(source.output, outputs)
        if found:
            hint = f"did you mean `{source.node}/{found}`?"
        elif outputs:
            hint = f"the outputs of `{source.node}` are {listed(outputs, MAX_LISTED)}"
        else:
            hint = f"add `outputs: [{source.output}]` to the node `{source.node}`"
        self.report.error(
            span,
            f"the node `{source.node}` has no output `{source.output}`, which {wanted_by} refers to",
            hint,
            source.output,
            last=True,
        )


def _only_operator(operator_id: str, output: str) -> tuple[str, str]:
    """Return both ids that an output of the only operator may have: with the operator's, and without."""
    return f"{operator_id}/{output}", output.removeprefix(f"{operator_id}/")
