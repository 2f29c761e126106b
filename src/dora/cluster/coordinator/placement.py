"""Placement of nodes on machines, and the addresses at which machines reach each other. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from dora.cluster.http_api import MachineView
from dora.cluster.protocol import DEFAULT_MACHINE
from dora.cluster.refusal import Refusal
from dora.dataflow.layout import text_outputs
from dora.dataflow.model import Dataflow, LogSource, NodeOutput, NodeSpec
from dora.dataflow.problems import did_you_mean

_LOOPBACK = ("127.", "::1", "localhost", "::ffff:127.")


def place(dataflow: Dataflow, machines: Sequence[MachineView]) -> dict[str, str]:
    """Return node → machine; raises `Refusal` for nodes that no machine fits, with all of them.

    A node goes to the machine that it names; else to the first by name that has its labels; else to the
    default machine, or to the only one that there is.
    """
    here = {machine.id: machine for machine in machines if machine.away_since is None}
    placed: dict[str, str] = {}
    faults: list[str] = []
    for node in dataflow.nodes:
        found = _machine_for(node, here)
        if found is None:
            faults.append(_fault(node, machines))
        else:
            placed[node.id] = found
    if faults:
        raise Refusal(409, "\n".join([*faults, f"the machines are: {described(machines)}"]))
    if crossing := list(text_between(dataflow, placed)):
        raise Refusal(409, "\n".join(crossing))
    return placed


def check_files(nodes: Iterable[NodeSpec]) -> None:
    """Raise `Refusal` for nodes whose files have to be copied first."""
    unsent = [node for node in nodes if node.deploy.is_sent and node.deploy.working_dir is None]
    if unsent:
        node = unsent[0]
        where = f" ({node.place})" if node.place else ""
        raise Refusal(
            409,
            f"the files of node `{node.id}` have to be copied to its machine, for its `distribute` says "
            f"so{where}; `dora cluster start` does that",
        )


def place_one(node: NodeSpec, machines: Sequence[MachineView]) -> str:
    """Return the machine of one node, as `place` does; raises `Refusal`, also if its files are missing."""
    check_files([node])
    here = {machine.id: machine for machine in machines if machine.away_since is None}
    if (found := _machine_for(node, here)) is None:
        raise Refusal(409, f"{_fault(node, machines)}\nthe machines are: {described(machines)}")
    return found


def _machine_for(node: NodeSpec, here: Mapping[str, MachineView]) -> str | None:
    wanted = node.deploy
    if wanted.machine is not None:
        return wanted.machine if wanted.machine in here else None
    if wanted.labels:
        fitting = [id for id in sorted(here) if wanted.labels.items() <= here[id].labels.items()]
        return fitting[0] if fitting else None
    if DEFAULT_MACHINE in here or not here:
        return DEFAULT_MACHINE if here else None
    return next(iter(here)) if len(here) == 1 else None


def _fault(node: NodeSpec, machines: Sequence[MachineView]) -> str:
    wanted, where = node.deploy, f" ({node.place})" if node.place else ""
    known = {machine.id: machine for machine in machines}
    if wanted.machine is not None:
        if wanted.machine in known:
            return f"node `{node.id}` is for machine `{wanted.machine}`, which is not connected now{where}"
        hint = did_you_mean(wanted.machine, known)
        return f"node `{node.id}` is for machine `{wanted.machine}`, which is not there{where}" + (
            f"; {hint}" if hint else ""
        )
    if wanted.labels:
        return f"node `{node.id}` is for a machine with {_listed(wanted.labels)}, which none has{where}"
    none = "there is no default one: a daemon without --machine-id"
    return f"node `{node.id}` names no machine, and {none}{where}"


def described(machines: Iterable[MachineView]) -> str:
    """Return machines with their labels, for a sentence."""
    texts = []
    for machine in sorted(machines, key=lambda machine: machine.id):
        facts = [_listed(machine.labels)] if machine.labels else []
        facts += ["not connected"] if machine.away_since is not None else []
        texts.append(f"`{machine.id}`" + (f" ({'; '.join(facts)})" if facts else ""))
    return ", ".join(texts) or "none"


def _listed(labels: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(labels.items()))


def text_between(dataflow: Dataflow, placed: Mapping[str, str]) -> Iterable[str]:
    """Yield what is wrong with inputs that get lines of nodes of other machines."""
    for node in dataflow.nodes:
        for item in node.inputs:
            source = item.source
            match source:
                case LogSource(node=str(other)):
                    pass
                case NodeOutput(node=other, output=output) if output in text_outputs(dataflow.node(other)):
                    pass
                case _:
                    continue
            if other in placed and placed[other] != placed[node.id]:
                yield (
                    f"the input `{item.id}` of node `{node.id}` gets what node `{other}` prints, which "
                    f"only works on one machine; these are on `{placed[node.id]}` and `{placed[other]}`"
                )


def is_loopback(address: str) -> bool:
    """Return whether an address only exists inside a machine.

    >>> is_loopback("127.0.0.1"), is_loopback("10.0.0.1")
    (True, False)
    """
    return address.startswith(_LOOPBACK)


def address_of(target: str, seen: str, server: str) -> str:
    """Return where a machine reaches another one.

    ``target`` is the address that the other one gave, or where the coordinator sees it. One that the
    coordinator sees on its own machine is where the coordinator is: ``seen`` is where the asking machine
    is seen, ``server`` where it reached the coordinator.
    """
    if not is_loopback(target) or is_loopback(seen):
        return target
    return server
