"""A memory fence, for words that processes share although no token passes between them.

A processor may show the writes and reads of one thread to another one in another order. On x86-64 only a
write and a later read change places; on arm64 any two accesses may. CPython offers no fence. But
`begin_fence()` followed by `end_fence()` is one: it posts a semaphore of this process (``sem_post``) and
takes it again (``sem_trywait``).

- On x86-64 each of the two is a locked instruction, which is a full fence.
- On arm64 the first one is a write that releases, and the second one a read that acquires. Accesses
  before a release stay before it, a release stays before an acquire that follows it, and accesses after an
  acquire stay after it (Arm Architecture Reference Manual, B2.3, "barrier-ordered-before").

A lock would do on x86-64. But a signal handler that raises an exception between `acquire` and `release`
leaves it locked, and so does a fork in another thread; a semaphore is only one too high then, which harms
nobody. It is also faster: 25 ns instead of 125.
"""

from __future__ import annotations

import ctypes
import platform
import threading
from collections.abc import Callable
from typing import Any, Final

from dora.transport import semaphore_support

# Whether this processor shows the writes of a thread in their order, and lets it read in order.
ORDERED: Final = platform.machine() in ("x86_64", "AMD64")

begin_fence: Callable[[], Any]
end_fence: Callable[..., Any]

if not semaphore_support.fault():
    from dora.transport.semaphores import SIZE, Semaphore, initialise

    _memory: Final = ctypes.create_string_buffer(SIZE + 8)
    _address: Final = ctypes.addressof(_memory) + 7 & ~7
    initialise(_address)
    _semaphore: Final = Semaphore(_address)
    begin_fence, end_fence = _semaphore.post, _semaphore.take  # never waits: it was posted before
    FENCED = True
else:
    _lock: Final = threading.Lock()  # guards nothing: to take and to free it is the fence
    begin_fence, end_fence = _lock.acquire, _lock.release
    FENCED = ORDERED  # elsewhere there is no fence


def fence() -> None:
    """Order all earlier reads and writes of this thread before all its later ones, if `FENCED`."""
    begin_fence()
    end_fence()
