"""The limit of open files: how many a process needs for its links, and how the limit is raised.

A process may raise its soft limit up to the hard one. dora does that only where it has to, because programs
that a node starts inherit the limit, and ``select`` knows the first 1,024 files only.
"""

from __future__ import annotations

from typing import Final

from dora.wire.node_config import NodeConfig

# As measured with iceoryx2 0.10, see docs/performance.md.
_NODE: Final = 12
_INPUT: Final = 6
_OUTPUT: Final = 5
_LINK: Final = 2  # of an output
_FEW: Final = 200  # every system allows as many: the smallest soft limit in use is 256
_PROGRAM: Final = 56  # for what the program opens itself


def files_of(config: NodeConfig) -> int:
    """Return how many files a node has open for its links, and those that its program may need."""
    links = sum(len(output.links) for output in config.outputs)
    latches = sum(output.latch is not None for output in config.outputs)
    return (
        _NODE
        + _PROGRAM
        + _INPUT * len(config.inputs)
        + _OUTPUT * len(config.outputs)
        + _LINK * links
        + latches
    )


def hard_limit() -> int | None:
    """Return how many files this process may allow itself; None: there is no limit."""
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return None if limit == resource.RLIM_INFINITY else limit


def allow_files(needed: int) -> bool:
    """Raise the soft limit of this process if it is below; return False if the hard limit is."""
    if needed <= _FEW:
        return True
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return True
    if hard != resource.RLIM_INFINITY and hard < needed:
        return False
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    return True
