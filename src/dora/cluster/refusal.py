"""Refusals: requests that coordinator or page refuse, with an HTTP status and a sentence."""

from __future__ import annotations

from dora.dataflow.names import key_fault, value_fault
from dora.errors import DoraError
from dora.wire.daemon_protocol import DataflowRequest, SaveBlackBox, SetParameter
from dora.wire.operations import grace_fault


class Refusal(DoraError):
    """A request that the coordinator refuses."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def check_request(request: DataflowRequest) -> None:
    """Raise `Refusal` if a request to a dataflow has an impossible value, whatever the dataflow is."""
    if isinstance(request, SetParameter):
        for what, fault in (("key", key_fault(request.key)), ("value", value_fault(request.value))):
            if fault:
                raise Refusal(400, f"the {what} {fault}")
    if isinstance(request, SaveBlackBox) and request.path:
        raise Refusal(400, "a run names the files of its black box itself; leave `path` out")
    if fault := grace_fault(getattr(request, "grace", None)):
        raise Refusal(400, fault)
