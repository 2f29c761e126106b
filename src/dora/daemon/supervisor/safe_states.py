"""Safe states: inform inputs that their source has ended, and senders and the log what inputs do."""

from __future__ import annotations

from typing import Final

from dora.daemon.supervisor.state import NodeState, RunState
from dora.dataflow.model import NodeOutput
from dora.wire.node_protocol import SafeStateChanged, SafeStateFrame, SourceFailed

_WHY: Final = {
    "deadline": "`{0}` has missed the deadline",
    "budget": "the data from `{0}` took longer than the budget of a path",
    "failed": "the sender of `{0}` has ended",
    "silent": "`{0}` is silent",
}


def changed(run: RunState, node: NodeState, change: SafeStateChanged) -> None:
    """Log that an input begins or leaves the safe state of its source, and inform the sender."""
    source = next((item.source for item in node.spec.inputs if item.id == change.input), None)
    if not isinstance(source, NodeOutput):  # the input was removed meanwhile
        return
    if change.entered:
        why = _WHY.get(change.reason, change.reason).format(source)
        run.mark("safe_state", node, f"input `{change.input}`: {why}")
        run.log("warn", node, f"input `{change.input}` gets its safe value: {why}")
    else:
        seconds = f"{change.seconds:.3g} s"
        run.log("info", node, f"input `{change.input}` gets messages of `{source}` again, after {seconds}")
    sender = run.nodes.get(source.node)
    if sender is not None and sender.connected and not sender.machine:
        receiver = f"{node.id}/{change.input}"
        frame = SafeStateFrame(source.output, receiver, change.reason, change.entered, change.seconds)
        run.send(sender, frame)


def source_failed(run: RunState, node: NodeState) -> None:
    """Inform inputs with a safe state that the process of their source has ended."""
    safe = {output for output, rules in node.spec.output_rules.items() if rules.safe_state is not None}
    for consumer_id, inputs in run.graph.inputs_fed_by(node.id, safe).items():
        consumer = run.nodes[consumer_id]
        if consumer.present and consumer is not node:
            run.send(consumer, SourceFailed(inputs))
