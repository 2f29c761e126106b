"""Find a small recording with which a node still fails in the same way."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from dora.errors import DoraError
from dora.recording.alone.expectation import Expectation
from dora.recording.alone.minimize import Enough, simpler, smallest_part
from dora.recording.alone.recorded_node import Key, RecordedNode, Step, recorded_node
from dora.recording.alone.run import NodeError, NodeProgram
from dora.recording.alone.tries import Report, Tries
from dora.recording.mcap.recording import Recording
from dora.wire.message import Message

TRIES: Final = 10  # runs of all events, before a failure counts as one that does not come again
REPEATS: Final = 10  # runs of what is left, to find out whether it fails each time
_VALUES_SECONDS: Final = 10.0  # for simpler values; they are a help to the reader, no more
_MOST_PROCESSES: Final = 5  # of a node that was restarted, the last ones; each costs `TRIES` runs


class DoesNotComeAgain(DoraError):
    """The failure did not come again; the message says how often it was tried, and what differs."""


@dataclass
class Small:
    """The part of a recording that is left. ``fails``: how many of `REPEATS` runs of it fail."""

    node: RecordedNode
    program: NodeProgram
    failure: NodeError
    steps: list[Step]
    changed: dict[Key, Message] = field(default_factory=dict)
    tries: int = 0
    fails: int = REPEATS
    minimal: bool = True  # else the time was over

    @property
    def messages(self) -> int:
        """How many messages are left."""
        return len(self.node.keys(self.steps))


@dataclass
class Reproduced:
    """A failure that came again, and the runs that showed it."""

    node: RecordedNode
    program: NodeProgram
    tries: Tries
    report: Report
    failure: NodeError


def reproduce(
    recording: Recording,
    node_id: str,
    *,
    file: str | None = None,
    expectation: Expectation | None = None,
    attempts: int = TRIES,
) -> Reproduced:
    """Run a node with all its events until it fails; its last process that does, if it was restarted.

    Raises `DoesNotComeAgain`, and `DoraError` for a node that cannot run alone.
    """
    runs: list[tuple[RecordedNode, Report]] = []
    back = 0
    while True:
        node = recorded_node(recording, node_id, file=file, back=back)
        program = NodeProgram(node)
        if expectation is not None:
            expectation.check_outputs(node.node_id, [output.id for output in node.config.outputs])
        tries = Tries(node, program, expectation)
        for _ in range(attempts):
            report = tries.run()
            failure = report.failure
            if expectation is not None and failure is None and not report.checked:
                raise DoraError(
                    f"`{expectation.text}` has no value for any message that `{node_id}` sends, so it "
                    "cannot be false"
                )
            if failure is not None and (expectation is None or failure.kind == expectation.text):
                return Reproduced(node, program, tries, report, failure)
            runs.append((node, report))
        back += 1
        if back >= min(node.processes, _MOST_PROCESSES):
            raise DoesNotComeAgain(_why_not(*runs[0], attempts, expectation))


def _why_not(node: RecordedNode, report: Report, attempts: int, expectation: Expectation | None) -> str:
    """Return the sentence about a failure that did not come again."""
    if expectation is not None:
        result = f"`{expectation.text}` was true for all {report.checked:,} messages"
        if report.failure is not None:
            result = f"the node failed before, with {report.failure}"
        return f"nothing to shrink: in {attempts} tries, {result}"
    recorded = recorded_error(node)
    what = f"the failure ({recorded})" if recorded else "the failure"
    begin = f"{what} did not come again in {attempts} tries"
    if not node.failed:
        begin = (
            f"{node.origin.path} does not say that `{node.node_id}` failed, and it did not in {attempts} "
            "tries (for a wrong output, give --expect)"
        )
    return f"{begin}: {'; '.join(differences(node, report))}"


def recorded_error(node: RecordedNode) -> str:
    """Return the last line of the traceback that the node logged, "" if it logged none."""
    in_traceback, found = False, ""
    for line in "\n".join(node.last_lines).splitlines():
        if line.startswith("Traceback"):
            in_traceback = True
        elif in_traceback and line and not line[0].isspace():
            in_traceback, found = False, line
    return found


def differences(node: RecordedNode, report: Report) -> list[str]:
    """Return what may be the reason that a run differs from the recorded one."""
    found = []
    if changed := changed_sources(node, report.files):
        found.append(f"{', '.join(changed)} changed since the recording")
    if node.missing:
        found.append(f"{node.missing:,} messages that it took are not in the recording")
    if not node.process.from_start:
        found.append("the recording began while the node ran, so its state from before is missing")
    if report.threads:
        found.append(f"it has threads of its own ({report.threads}), whose order is not recorded")
    if report.different:
        found.append(f"its outputs differ: {report.different}")
    elif report.equal:
        found.append(f"all {report.equal:,} messages that it sent are as recorded")
    return found or ["random numbers, the time of day, threads, files or a network may decide it"]


def changed_sources(node: RecordedNode, files: Sequence[str]) -> list[str]:
    """Return the files of the program that changed since the recording, with both fingerprints."""
    folder, sources = node.dataflow.working_dir, node.origin.start.sources
    known = {os.path.join(folder, path): digest for path, digest in sources.items()}
    found = []
    for file in files:
        then = known.get(file)
        if then is None:
            continue
        with open(file, "rb") as opened:
            now = hashlib.sha256(opened.read()).hexdigest()
        if now != then:
            found.append(f"{os.path.basename(file)} ({then[:8]} then, {now[:8]} now)")
    return found


# ------------------------------------------------------------------------------ the search


def shrink(
    found: Reproduced, *, seconds: float, progress: Callable[[int, int], None] = lambda _left, _tries: None
) -> Small:
    """Leave out events and simplify values for as long as the node fails in the same way.

    Ends after ``seconds`` with what it has by then. ``progress`` gets the number of events that are left,
    and of the tries.
    """
    node, tries, failure = found.node, found.tries, found.failure
    small = Small(node, found.program, failure, [], {})
    deadline = time.monotonic() + seconds

    def fails(steps: Sequence[Step], changed: dict[Key, Message]) -> bool:
        if time.monotonic() > deadline:
            raise Enough
        error = tries.run(steps, changed).failure
        # Other values can lead to another error of the same line, for example a missing index.
        again = failure.is_like(error, also_message=bool(changed))
        progress(len(steps) if again else len(small.steps), tries.count)
        return again

    all_steps = [step for step in node.steps if step.number <= found.report.step]
    small.steps = list(all_steps)
    # A failure that is not sure to come must not lead the search into a part where it never does.
    small.steps = smallest_part(all_steps, lambda part: fails(part, {}))
    minimal = time.monotonic() <= deadline
    if minimal:
        left = tries.run(small.steps, {}).failure
        if left is not None and failure.is_like(left):
            failure = left  # without the other events, its text may be another one
    deadline = min(deadline, time.monotonic() + _VALUES_SECONDS)
    try:
        for key in node.keys(small.steps):
            message = node.message(key)
            if message is None:
                continue

            def with_other(other: Message, key: Key = key) -> bool:
                return fails(small.steps, {**small.changed, key: other})

            other = simpler(message, with_other)
            if other is not message:
                small.changed[key] = other
    except Enough:
        pass
    small.minimal = minimal
    small.fails = sum(
        failure.is_like(tries.run(small.steps, small.changed).failure) for _ in range(REPEATS)
    )
    small.tries = tries.count
    return small
