"""The limit of open files, and how it is raised.

A process may raise its soft limit up to the hard one. dora does that only where it has to, because programs
that a node starts inherit the limit, and ``select`` knows the first 1,024 files only.
"""

from __future__ import annotations

import errno
from typing import Final

NO_FREE_FILE: Final = (errno.EMFILE, errno.ENFILE)  # errors without a free one in this process, or at all
_FEW: Final = 200  # every system allows as many: the smallest soft limit in use is 256


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
