"""The real-time settings of a node: ``nice``, ``scheduler`` and ``lock_memory``."""

from __future__ import annotations

import re
from typing import Final, get_args

from dora.dataflow.model import SchedulingPolicy, SchedulingPolicyName
from dora.dataflow.problems import ProblemReport, listed
from dora.dataflow.yaml.field_types import FieldType, FlagType, Reader, Schema, report_expected, text_of
from dora.dataflow.yaml.number_types import IntegerType
from dora.dataflow.yaml.schema_block import CheckedBlock, Field
from dora.dataflow.yaml.tree import YamlNode

_POLICIES: Final[tuple[SchedulingPolicyName, ...]] = get_args(SchedulingPolicyName)
_REAL_TIME: Final = ("fifo", "rr")
_HIGHEST: Final = 99  # the highest real-time priority of Linux
_number = re.compile("[0-9]{1,4}").fullmatch
_PRIORITY: Final = "[1-9][0-9]?"


class SchedulingPolicyType(FieldType[SchedulingPolicy]):
    """A scheduling policy of Linux; ``fifo`` and ``rr`` with a priority: ``fifo 50``."""

    def read(self, value: YamlNode, reader: Reader) -> SchedulingPolicy | None:
        words = (text_of(value) or "").split()
        if not words:
            report_expected(value, reader, "a scheduling policy", "for example `fifo 50`")
            return None
        policy = next((policy for policy in _POLICIES if policy == words[0]), None)
        if policy is None:
            hint = (
                reader.report.did_you_mean(words[0], _POLICIES) or f"the policies are {listed(_POLICIES)}"
            )
            reader.report.error(value, f"`{words[0]}` is not a scheduling policy", hint)
            return None
        if policy not in _REAL_TIME:
            if len(words) > 1:
                reader.report.error(value, f"`{policy}` has no priority", f"write `{policy}`")
                return None
            return SchedulingPolicy(policy)
        if len(words) != 2 or not _number(words[1]) or not 1 <= int(words[1]) <= _HIGHEST:
            hint = f"write `{policy} 50`"
            reader.report.error(value, f"`{policy}` needs a priority from 1 to {_HIGHEST}", hint)
            return None
        return SchedulingPolicy(policy, int(words[1]))

    def schema(self) -> Schema:
        real_time = f"({'|'.join(_REAL_TIME)}) {_PRIORITY}"
        others = "|".join(policy for policy in _POLICIES if policy not in _REAL_TIME)
        return {"type": "string", "pattern": f"^({real_time}|{others})$", "examples": ["fifo 50", "batch"]}


SCHEDULING: Final = [
    Field(
        "nice",
        IntegerType(-20, 19),
        "The nice value of the process, from -20 (most processor time) to 19 (least) (Linux).",
        on_runtime=True,
    ),
    Field(
        "scheduler",
        SchedulingPolicyType(),
        "The scheduling policy of the process: `fifo` or `rr` (real-time) with a priority from 1 to 99, "
        "as in `fifo 50`; `other`, `batch` or `idle` (Linux).",
        on_runtime=True,
    ),
    Field(
        "lock_memory",
        FlagType(),
        "Keep the memory of the process in RAM (mlockall), so that no access waits for the disk (Linux).",
        default=False,
        on_runtime=True,
    ),
]


def warn_of_nice(checked: CheckedBlock, report: ProblemReport, owner: str) -> None:
    """Warn of a nice value that the scheduling policy makes meaningless."""
    scheduler: SchedulingPolicy | None = checked.get("scheduler")
    if scheduler is not None and scheduler.name in _REAL_TIME and checked.has("nice"):
        report.warn(
            checked.keys["nice"],
            f"`nice` has no effect on {owner}, because `scheduler: {scheduler}` comes before it",
            "leave one of them out",
        )
