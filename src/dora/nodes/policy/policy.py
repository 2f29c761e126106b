"""The policy node: the latest observation in, an action chunk out, again and again.

The main thread computes, another one receives. So a chunk is computed while the last one is executed, from
the newest observation, and no message waits for the policy.
"""

from __future__ import annotations

import sys
import threading
import traceback
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
import numpy as np

from dora.errors import DoraError
from dora.node.events import Input, Stop, Synced
from dora.node.node import Node
from dora.nodes.parameters import WrongParameter, read_parameters
from dora.nodes.policy.inference import Inference
from dora.nodes.policy.load import Policy, PolicyError
from dora.nodes.policy.observations import Observations, Wanted
from dora.nodes.steady import TICK, MissingInput

ACTIONS: Final = "actions"
RESET: Final = "reset"

# Entries go to the log of the node directly: packages of policies configure `logging` as they like.
_TARGET: Final = "dora.nodes.policy"
_MOST_KINDS: Final = 100  # of failures that are reported; each sentence may have another number in it


class PolicyParameters(msgspec.Struct, frozen=True):
    """The ``parameters`` of the node in the dataflow file, as they are when it starts."""

    steps_per_second: Annotated[float, msgspec.Meta(gt=0)]
    history: dict[str, Wanted] = {}
    action_size: Annotated[int, msgspec.Meta(ge=1)] | None = None
    on_error: Literal["fail", "continue"] = "fail"


def run(node: Node, policy: Policy) -> None:
    """Compute chunks until the dataflow ends.

    Raises `WrongParameter`, `MissingInput`, with ``on_error: fail`` `PolicyError`, and everything that the
    node raises where it receives.
    """
    parameters = read_parameters(PolicyParameters, node.parameters)
    config = node.node_config()
    inputs = [name for name in config["inputs"] if name not in (TICK, RESET)]
    _check(parameters, policy, inputs, config["outputs"])
    history = {**_own_history(policy, parameters), **parameters.history}
    observations = Observations(inputs, history, on_request=TICK in config["inputs"])
    # A daemon thread: after a failure of the policy the process ends, though this one waits for messages.
    failed: list[Exception] = []
    receiving = threading.Thread(target=_receive, args=(node, observations, failed), daemon=True)
    receiving.start()
    inference = Inference(policy, round(1e9 / parameters.steps_per_second), parameters.action_size)
    failures = Failures(policy.name, node)
    done = 0  # resets of the policy
    while True:
        try:
            observation, resets = observations.next()
            if observation is None:
                break
            if resets != done:
                inference.reset()
                done = resets  # afterwards: a reset that fails is made again
            chunk = inference.run(observation)
        except Exception as error:  # noqa: BLE001 - the code of others may raise anything
            failures.add(error)
            if parameters.on_error == "fail":
                raise PolicyError(failures.sentence(error)) from None
            failures.log(error)
            continue
        node.send_output(ACTIONS, chunk.actions, inference.metadata(chunk), follows=observation.events)
    if failed:
        raise failed[0]
    node.log("info", summary(inference, failures), _TARGET)


def _own_history(policy: Policy, parameters: PolicyParameters) -> dict[str, Wanted]:
    """Return the offsets of a policy that knows its inputs and the steps of its history."""
    if len(policy.steps) == 1:
        return {}
    offsets = [step / parameters.steps_per_second for step in policy.steps]
    return dict.fromkeys(policy.inputs, offsets)


def _check(parameters: PolicyParameters, policy: Policy, inputs: list[str], outputs: list[str]) -> None:
    if not inputs:
        raise MissingInput("the policy has no input; write `state: arm/state` or the like")
    if missing := [name for name in policy.inputs if name not in inputs]:
        raise MissingInput(f"the policy needs the input `{missing[0]}`; there are {', '.join(inputs)}")
    if ACTIONS not in outputs:
        raise MissingInput("there is no output `actions`; write it into `outputs`")
    for name, wanted in parameters.history.items():
        if name not in inputs:
            raise WrongParameter(f"parameter `history` names `{name}`, which is no input of the policy")
        if wanted < 1 if isinstance(wanted, int) else not wanted or max(wanted) > 0:
            raise WrongParameter(
                f"parameter `history` is {wanted} for `{name}`; it has to be a number of values, 1 or "
                "more, or offsets in seconds, 0 or below"
            )


def _receive(node: Node, observations: Observations, failed: list[Exception]) -> None:
    """Take all events, in a thread of its own; ``failed`` gets what ends it too soon."""
    stopped = False
    try:
        for event in node:
            if isinstance(event, Stop):
                stopped = event.id == "MANUAL"
            elif isinstance(event, Synced):
                observations.add(event)
            elif not isinstance(event, Input):
                continue
            elif event.id == TICK:
                observations.request()
            elif event.id == RESET:
                observations.reset()
            elif "safe_state" not in event.metadata:
                observations.add(event)
    except Exception as error:  # noqa: BLE001 - the main thread raises it
        failed.append(error)
    finally:
        observations.end(drop=stopped)


class Failures:
    """Counts what went wrong, and reports each kind once."""

    def __init__(self, name: str, node: Node) -> None:
        self._name = name
        self._node = node
        self.count = 0
        self._kinds: set[str] = set()

    def add(self, error: Exception) -> None:
        """Count a failure; print the traceback of the first of a kind, as far as it is the policy's."""
        self.count += 1
        if self._is_new(error) and not isinstance(error, DoraError):
            print("".join(_own_lines(error)), end="", file=sys.stderr)

    def log(self, error: Exception) -> None:
        """Log a failure after which the node goes on, if it is the first of its kind."""
        if self._is_new(error):
            self._kinds.add(self.sentence(error))
            self._node.log("error", self.sentence(error), _TARGET)

    def _is_new(self, error: Exception) -> bool:
        return self.sentence(error) not in self._kinds and len(self._kinds) < _MOST_KINDS

    def sentence(self, error: Exception) -> str:
        """Return one sentence about a failure."""
        text = str(error) if isinstance(error, DoraError) else f"{type(error).__name__}: {error}"
        return f"policy `{self._name}`: {text}"


def _own_lines(error: Exception) -> list[str]:
    """Return the lines of a traceback, without the lines of this package."""
    here = str(Path(__file__).parent)
    found = traceback.TracebackException.from_exception(error)
    found.stack = traceback.StackSummary.from_list(
        [frame for frame in found.stack if not frame.filename.startswith(here)]
    )
    return list(found.format())


def summary(inference: Inference, failures: Failures) -> str:
    """Return what happened, for the log at the end."""
    took = ""
    if inference.chunks:
        median, p99 = np.percentile(inference.times_ns, (50, 99)) / 1e6
        took = f", median {median:.1f} ms, 99 % in {p99:.1f} ms"
    return f"{inference.chunks} chunks{took}; {failures.count} failures"
