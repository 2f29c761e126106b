"""The runtime: a node that hosts any number of operators in one process.

It has the inputs and outputs of its operators, named ``"<operator id>/<id>"``. The operators run
one after the other in the main thread; between two of them a message is passed by reference.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from dora.errors import DaemonLost
from dora.node.events import (
    BudgetMissed,
    DeadlineMet,
    DeadlineMissed,
    Event,
    Input,
    InputClosed,
    InputRecovered,
    NodeFailed,
    NodeRestarted,
    Reload,
    SafeStateEntered,
    SafeStateLeft,
    Stop,
    Synced,
)
from dora.node.log import write_log
from dora.node.operator import DoraStatus, HostedOperator, OperatorOutput, SendOutput, Unimported
from dora.node.process import freeze_gc, print_traceback_of_program
from dora.node.receive.local_input import LocalInput
from dora.node.session.session import Session
from dora.transport.board import ASLEEP, WORDS
from dora.wire.excerpt import error_line
from dora.wire.node_config import InputConfig, NodeConfig, decode_descriptor
from dora.wire.node_protocol import OperatorFailure, OutputsClosed, StopDataflow


class Runtime:
    """The operators of one node and the loop that feeds them."""

    def __init__(self, classes: Mapping[str, Callable[[], Any]] | None = None) -> None:
        """Connect, load all operators, and wait for the other nodes; errors pass through.

        ``classes`` are used instead of the files that operators of these ids name.
        """
        self._classes = classes or {}
        self._operators: dict[str, HostedOperator] = {}
        self._session = Session(prepare=self._load)
        self._inbox = self._session.inbox
        config = self._session.config
        self._sources = {item.id: item.source for item in config.inputs}
        self._outputs = self._make_outputs(config)
        self._senders: dict[str, SendOutput] = {
            operator_id: self._make_sender(operator_id) for operator_id in self._operators
        }
        self._session.on_publish = self._publish
        self._session.topology.accept_input = self._accept_input
        self._routes = {item.id: self._make_route(item.id) for item in config.inputs}
        self._running = len(self._operators)
        for item in config.inputs:  # inputs that were connected before the start
            if item.late:
                self._accept_input(item)
        self._bell = self._session.bell
        self._words = self._session.board.words
        self._asleep_word = config.node_slot * WORDS + ASLEEP

    def _load(self, session: Session) -> None:
        config = session.config
        descriptor = decode_descriptor(config.descriptor)
        for item in config.operators:
            operator = HostedOperator(item)
            try:
                operator.load(descriptor, config.parameters, self._classes.get(item.id))
            except BaseException:
                # The daemon sees the end of the process itself, but not whose code failed.
                session.report(OperatorFailure(item.id))
                raise
            self._operators[item.id] = operator
        for source in config.inputs:
            if source.kind != "timer" or not config.exit_when_nodes_finish:
                owner, short = self._owner(source.id)
                owner.open_inputs.add(short)

    def _make_outputs(self, config: NodeConfig) -> dict[str, OperatorOutput]:
        consumers: dict[str, list[LocalInput]] = {}
        for item in config.inputs:
            if (port := self._session.stacks.local_inputs.get(item.id)) is not None:
                consumers.setdefault(item.source, []).append(port)
        outputs = {
            output.id: OperatorOutput(
                self._session.output(output.id), consumers.get(f"{config.node_id}/{output.id}", [])
            )
            for output in config.outputs
        }
        self._session.intercept_sends(outputs)
        return outputs

    def _owner(self, port: str) -> tuple[HostedOperator, str]:
        """Return the operator of an input or an output of the node, and the id that it has there."""
        first = next(iter(self._operators.values()))
        if first.config.alone:
            return first, port
        operator_id, _, short = port.partition("/")
        return self._operators[operator_id], short

    def _make_sender(self, operator_id: str) -> SendOutput:
        operator = self._operators[operator_id]
        prefix = operator.config.prefix
        outputs = {output: self._outputs[f"{prefix}{output}"] for output in operator.config.outputs}

        def send_output(output_id: str, data: Any, metadata: Mapping[str, Any] | None = None) -> None:
            output = outputs.get(output_id)
            if output is None or operator.ended:
                self._session.send(f"{prefix}{output_id}", data, metadata)
                return
            output.send(data, metadata)
            if output.consumers and self._words[self._asleep_word]:
                self._bell.ring()  # called from a thread of the operator's

        return send_output

    def _publish(self, output_id: str, data: Any, metadata: Mapping[str, Any]) -> None:
        operator, short = self._owner(output_id)
        self._senders[operator.id](short, data, metadata)

    def _make_route(self, input_id: str) -> tuple[HostedOperator, str, SendOutput]:
        """Return the operator of an input, its name there, and the operator's send function."""
        operator, short = self._owner(input_id)
        return operator, short, self._senders[operator.id]

    def _accept_input(self, item: InputConfig) -> str:
        """Add an input to an operator; return why that is impossible, or ""."""
        operator, short = self._owner(item.id)
        if operator.ended:
            return f"{operator.name} has ended"
        if short not in operator.config.inputs:
            operator.config.inputs.append(short)
        operator.open_inputs.add(short)
        self._sources[item.id] = item.source
        self._routes[item.id] = self._make_route(item.id)
        return ""

    # ------------------------------------------------------------------ the loop

    def run(self) -> None:
        """Feed the operators until all of them have ended; errors of operators pass through."""
        try:
            self._feed()
        except BaseException as error:
            if self._session.tracer is not None:
                self._session.tracer.fail(error)
            raise
        finally:
            for operator in self._operators.values():
                operator.release()

    def _feed(self) -> None:
        stop: Stop | None = None
        routes = self._routes
        while self._running and (event := self._inbox.next(None)) is not None:
            if event.__class__ is Input:  # the path of every message: nothing is looked up twice
                operator, event["id"], send_output = routes[event["id"]]
                if not operator.ended:
                    try:
                        answer = operator.on_event(event, send_output)
                        if answer is not DoraStatus.CONTINUE:
                            self._apply_status(operator, operator.status(answer))
                    except BaseException:
                        self._session.report(OperatorFailure(operator.id))
                        raise
            elif isinstance(event, Stop):
                stop = event  # delivered last, after what is buffered
            else:
                self._dispatch(event)
        for operator in list(self._operators.values()):
            self._stop_operator(operator, stop or Stop("ALL_INPUTS_CLOSED"))
        self._session.close()

    def _dispatch(self, event: Event) -> None:
        if isinstance(event, (InputClosed, InputRecovered, DeadlineMissed, DeadlineMet, BudgetMissed)):
            input_id = event["id"]
            operator, short, _ = self._routes[input_id]
            event["id"] = short
            self._deliver(operator, event)
            port = self._inbox.ports.get(input_id)
            if isinstance(event, InputClosed) and (port is None or not port.open):
                operator.open_inputs.discard(short)
                connected = self._connected(operator)
                if connected and operator.open_inputs.isdisjoint(connected):
                    self._stop_operator(operator, Stop("ALL_INPUTS_CLOSED"))
            return
        if isinstance(event, Synced):
            self._deliver_set(event)
            return
        if isinstance(event, Reload):
            self._reload(event)
            return
        if isinstance(event, (SafeStateEntered, SafeStateLeft)):
            operator, event["id"] = self._owner(event["id"])
            self._deliver(operator, event)
            return
        for operator in list(self._operators.values()):
            if isinstance(event, NodeFailed):
                prefix = operator.config.prefix
                affected = event["value"]["affected_input_ids"]
                mine = [item.removeprefix(prefix) for item in affected if item.startswith(prefix)]
                if mine:
                    self._deliver(operator, NodeFailed(event["id"], event["value"]["error"], mine))
            elif not isinstance(event, NodeRestarted):
                self._deliver(operator, event)
            elif inputs := self._inputs_from(operator, event["id"]):
                operator.open_inputs.update(inputs)
                self._deliver(operator, event)

    def _deliver_set(self, event: Synced) -> None:
        """Deliver a set under the ids that its operator has for the inputs."""
        operator = self._routes[event["id"]][0]
        prefix = operator.config.prefix
        inputs: dict[str, Any] = {}
        for input_id, found in event["inputs"].items():
            inputs[input_id.removeprefix(prefix)] = found
            for message in event.history(input_id):
                message["id"] = input_id.removeprefix(prefix)
        self._deliver(operator, Synced(inputs, [name.removeprefix(prefix) for name in event["missing"]]))

    def _connected(self, operator: HostedOperator) -> list[str]:
        """Return the inputs of an operator that have a port.

        The inbox knows which those are. An input is disconnected without an event if it has closed before,
        and one that was accepted may not be made after all.
        """
        ports, prefix = self._inbox.ports, operator.config.prefix
        return [item for item in operator.config.inputs if f"{prefix}{item}" in ports]

    def _inputs_from(self, operator: HostedOperator, node_id: str) -> list[str]:
        return [
            item
            for item in self._connected(operator)
            if self._sources[f"{operator.config.prefix}{item}"].partition("/")[0] == node_id
        ]

    def _deliver(self, operator: HostedOperator, event: Event) -> None:
        if operator.ended:
            return
        try:
            self._apply_status(operator, operator.handle(event, self._senders[operator.id]))
        except BaseException:
            self._session.report(OperatorFailure(operator.id))
            raise

    def _apply_status(self, operator: HostedOperator, status: DoraStatus) -> None:
        if status is DoraStatus.STOP:
            self._end_operator(operator)
        elif status is DoraStatus.STOP_ALL:
            self._end_operator(operator)
            self._session.channel.send(StopDataflow())

    def _reload(self, event: Reload) -> None:
        """Reload operators; one whose new code cannot be loaded goes on with its old code."""
        modules = Unimported(event.modules)
        done = 0
        operators = [self._operators[name] for name in event.operators if not self._operators[name].ended]
        for operator in operators:
            try:
                status = operator.reload(self._senders[operator.id])
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a user's operator may raise anything
                print_traceback_of_program(error)
                text = error_line("".join(traceback.format_exception(error)).splitlines())
                self._log("error", f"{operator.name}: the old code goes on: {text}")
            else:
                done += 1
                self._log("info", f"{operator.name} runs its new code")
                self._apply_status(operator, status)
        if done < len(operators):
            modules.put_back(everything=not done)

    def _log(self, level: str, text: str) -> None:
        write_log(self._session.config.node_id, level, text)

    def _stop_operator(self, operator: HostedOperator, stop: Stop) -> None:
        self._deliver(operator, stop)
        self._end_operator(operator)

    def _end_operator(self, operator: HostedOperator) -> None:
        """Close an operator's inputs and outputs; the others go on."""
        if operator.ended:
            return
        operator.ended = True
        operator.release()
        self._running -= 1
        prefix = operator.config.prefix
        self._inbox.close_inputs([f"{prefix}{item}" for item in self._connected(operator)])
        names = [f"{prefix}{output}" for output in operator.config.outputs]
        for name in names:
            output = self._outputs[name]
            # Before the daemon learns of it: a message that is sent after `OutputsClosed` could come after
            # the closing of its receivers' inputs.
            output.port.close()
            for consumer in output.consumers:
                consumer.source_closed()
        if names:
            self._session.channel.send(OutputsClosed(names))


def start_runtime() -> None:
    """Run the operators of this process's node to their end; exits with 1 if one fails."""
    freeze_gc()
    try:
        Runtime().run()
    except DaemonLost:
        sys.exit("the daemon is gone")
    except Exception as error:  # noqa: BLE001 - a user's operator may raise anything
        sys.exit(1 if print_traceback_of_program(error) else f"error: {error}")
