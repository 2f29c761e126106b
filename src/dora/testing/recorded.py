"""A recorded node by itself, inside a test: `run_recorded`."""

from __future__ import annotations

import os

from dora.recording.alone.expectation import Expectation
from dora.recording.alone.host import RunWatch, SentMessage
from dora.recording.alone.recorded_node import RecordedNode, recorded_node
from dora.recording.alone.run import NodeProgram, Violated, run_alone, trace_in_program
from dora.recording.opening import open_recording
from dora.testing.record import Messages, sent_message


def run_recorded(
    recording: str | os.PathLike[str],
    node_id: str,
    *,
    folder: str | os.PathLike[str] | None = None,
    dataflow: str | os.PathLike[str] | None = None,
    expect: str | None = None,
) -> Messages:
    """Run a node of a recording by itself, with its recorded events; return what it sent.

    The node gets the events that it took then, in their order, with their times. Its program is the
    present one, as the recorded dataflow names it. ``folder``: where the dataflow lies now; by default,
    where it lay. ``dataflow``: a YAML file to take the node from instead. ``expect``: an expression about
    its outputs, as for ``dora shrink --expect``.

    Raises what the node raises, ``AssertionError`` if an output is not as expected or the program exits
    with another status than 0, and `DoraError` for a node that cannot run alone and for an expression about
    an output that the node lacks. ``time`` of a sent message is in seconds from the first message of the
    recording.
    """
    __tracebackhide__ = True  # pytest shows the test, then the program
    expectation = None if expect is None else Expectation(expect)
    with open_recording(os.fspath(recording)) as opened:
        node = recorded_node(
            opened,
            node_id,
            file=None if dataflow is None else os.fspath(dataflow),
            folder=None if folder is None else os.path.abspath(os.fspath(folder)),
        )
        if expectation is not None:
            expectation.check_outputs(node_id, [output.id for output in node.config.outputs])
        watch = _Outputs(node, expectation)
        outcome = run_alone(node, NodeProgram(node), watch)
    error = outcome.error
    if isinstance(error, Violated):
        raise AssertionError(str(error)) from None
    if isinstance(error, SystemExit) and outcome.failure is not None:
        raise AssertionError(f"node `{node_id}` exits with {error.code!r}") from error
    if error is not None and outcome.failure is not None:
        raise error.with_traceback(trace_in_program(error) or error.__traceback__)
    return watch.messages


class _Outputs(RunWatch):
    def __init__(self, node: RecordedNode, expectation: Expectation | None) -> None:
        self.messages = Messages()
        self._node = node
        self._expectation = expectation

    def sent(self, sent: SentMessage) -> None:
        item = sent_message(sent.output, sent.message, self._node.seconds(sent.message.time_ns))
        self.messages.setdefault(sent.output, []).append(item)
        if self._expectation is not None:
            self._expectation.check(sent)
