"""Give the machines of a cluster their keys and certificates over ssh, and take them away again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

import msgspec

from dora._paths import data_folder
from dora.cluster.authority import CLOCK_TOLERANCE, VALIDITY, Authority, certificate_in
from dora.cluster.ssh import scripts
from dora.cluster.ssh.authority import authority_of, certify_machine
from dora.cluster.ssh.file import Cluster, Machine
from dora.cluster.ssh.ssh import MachineFault, on_all, run
from dora.errors import DoraError
from dora.transport.tls import server_context, utc
from dora.wire.decoders import DecodeError, from_json


class MachineState(msgspec.Struct, frozen=True):
    """The state of a machine that is about to get a certificate, as it says itself."""

    clock: float  # seconds since the Unix epoch
    certificate: str  # PEM; "": it has none, or one without its key


def machine_state(id: str) -> MachineState:
    """Return the state of this machine; raises `DoraError`."""
    path = f"{data_folder()}/{scripts.bundle_name(id)}"
    certificate = ""
    if os.path.exists(path):
        try:
            with open(path, encoding="ascii") as file:
                text = file.read()
            server_context(path, path)  # the key belongs to it
            certificate = certificate_in(text)
        except OSError as error:
            raise DoraError(f"cannot read {path}: {error.strerror}") from None
        except (DoraError, UnicodeDecodeError):
            pass  # damaged: it gets another one
    return MachineState(time.time(), certificate)


def provide(machine: Machine, authority: Authority, report: Callable[[str], None]) -> None:
    """Give a machine a certificate and its key, unless it has them for a while; raises `MachineFault`."""
    try:
        answer = run(machine, scripts.machine_state(machine))
        state = from_json(answer, MachineState)
    except (MachineFault, DecodeError) as error:
        if isinstance(error, MachineFault) and "no such command" not in error.reason.lower():
            raise
        raise MachineFault(
            machine, "its dora is too old for certificates; `dora cluster upgrade` installs this one"
        ) from None
    tolerance = CLOCK_TOLERANCE.total_seconds()
    if not -tolerance < state.clock - time.time() < VALIDITY.total_seconds() - tolerance:
        raise MachineFault(
            machine,
            f"its clock says {utc(state.clock)}, at which its certificate is not valid (here it is "
            f"{utc(time.time())}); set the clock",
        )
    if not authority.is_good(state.certificate, machine=machine.id):
        run(machine, scripts.receive_bundle(machine), stdin=certify_machine(authority, machine))
        report(f"{machine.id}: sent a new key and certificate")


def provide_all(
    cluster: Cluster, machines: Sequence[Machine], report: Callable[[str], None]
) -> list[MachineFault]:
    """Give machines their certificates where they need one; return what went wrong."""
    if not cluster.own_authority or not machines:
        return []
    authority = authority_of(cluster)
    results = on_all(machines, lambda machine: provide(machine, authority, report))
    return [result for _, result in results if isinstance(result, MachineFault)]


def remove_keys(machines: Sequence[Machine], report: Callable[[str], None]) -> list[MachineFault]:
    """Remove keys and certificates once the daemons have ended, except for services.

    Returns what went wrong.
    """
    results = on_all(machines, lambda machine: run(machine, scripts.remove_bundle(machine)))
    for machine, output in results:
        if not isinstance(output, MachineFault) and output.strip():
            report(f"{machine.id}: {output.strip()}")
    return [result for _, result in results if isinstance(result, MachineFault)]
