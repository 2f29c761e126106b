"""The exceptions of dora, all of them.

::

    DoraError (RuntimeError)
    ├── DataflowError           the YAML cannot be used; carries every problem found
    ├── BuildError              a ``build`` command failed
    ├── DataflowFailed          a dataflow ran and at least one node failed; carries the result
    ├── NotInDataflow           ``Node()`` outside a dataflow
    ├── ConnectError            the daemon refused this node, or cannot be reached
    │   └── StartFailed         the start barrier broke: another node ended before it was ready
    ├── DaemonLost              the daemon went away while the node was running
    ├── SendError               an output could not be sent
    │   ├── UndeclaredOutput    the output is not in the node's ``outputs`` (strict mode and loans)
    │   ├── SharedMemoryFull    /dev/shm has no room for the message
    │   └── SampleAlreadySent   a loaned sample was sent twice
    ├── ReceiveClosed           ``drain()`` on a stream that is closed and empty
    └── TransportError          an engine (iceoryx2, Zenoh) reported something unexpected

Existing dora programs catch ``RuntimeError``, so everything derives from it.
"""

from __future__ import annotations

__all__ = [
    "BuildError",
    "ConnectError",
    "DaemonLost",
    "DataflowError",
    "DataflowFailed",
    "DoraError",
    "NotInDataflow",
    "ReceiveClosed",
    "SampleAlreadySent",
    "SendError",
    "SharedMemoryFull",
    "StartFailed",
    "TransportError",
    "UndeclaredOutput",
]


class DoraError(RuntimeError):
    """Base of every error that dora raises on purpose. ``str(error)`` is meant for users."""


class DataflowError(DoraError):
    """The dataflow description cannot be used. ``str(error)`` shows every problem with its place."""


class BuildError(DoraError):
    """A ``build`` command could not be started or exited with a non-zero status."""


class DataflowFailed(DoraError):
    """A dataflow ran to its end and at least one node failed. ``str(error)`` is the report."""


class NotInDataflow(DoraError):
    """A node was created outside a dataflow."""


class ConnectError(DoraError):
    """The daemon cannot be reached or refused this node."""


class StartFailed(ConnectError):
    """Another node of the dataflow ended before all nodes were ready."""


class DaemonLost(DoraError):
    """The connection to the daemon broke while the node was running."""


class SendError(DoraError):
    """An output could not be sent."""


class UndeclaredOutput(SendError):
    """The output is not declared for this node in the dataflow."""


class SharedMemoryFull(SendError):
    """There is no room in the shared memory for the message."""


class SampleAlreadySent(SendError):
    """A loaned sample was sent, or asked for its memory, a second time."""


class ReceiveClosed(DoraError):
    """The event stream is closed and empty."""


class TransportError(DoraError):
    """A transport engine reported an error that is not the user's."""
