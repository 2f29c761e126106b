"""Files in shared memory, mapped by address.

Unlike the `mmap` module, a mapping here keeps no file open: a process may have a thousand of them, and the
limit of open files is often 1,024. Its address is known, which Arrow needs.

All memory of a file is allocated when it is made. So no room in /dev/shm is an error then, and not a SIGBUS
when the memory is touched.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Callable
from typing import Any, Final

from dora._ownership import open_own

_FAILED: Final = ctypes.c_void_p(-1).value
_MAP_FIXED: Final = 0x10  # Linux, all processors that dora runs on
_MAP_POPULATE: Final = 0x8000
_libc: Any = None


def libc() -> Any:
    """Return the C library, with the signatures of the functions that are used of it."""
    global _libc
    if _libc is None:
        library = ctypes.CDLL(None, use_errno=True)
        library.mmap.restype = ctypes.c_void_p
        library.mmap.argtypes = (
            *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int),
            *(ctypes.c_int, ctypes.c_int, ctypes.c_long),
        )
        library.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
        library.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        library.sem_init.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint)
        _libc = library
    return _libc


class _Unmap:
    """Unmaps memory when it is garbage-collected."""

    __slots__ = ("_address", "_munmap", "_size")

    def __init__(self, address: int, size: int, munmap: Callable[[int, int], int]) -> None:
        """``munmap`` is kept, because the module may be gone at the end of the process."""
        self._address = address
        self._size = size
        self._munmap = munmap

    def __del__(self) -> None:
        try:
            self._munmap(self._address, self._size)
        except AttributeError:
            pass  # a signal handler has raised an exception in `__init__`


class Mapping:
    """Memory of a file. It stays mapped as long as ``view``, or a part of that, is referenced."""

    __slots__ = ("address", "size", "view")

    def __init__(self, fd: int, size: int) -> None:
        """Map the first ``size`` bytes, for reading and writing; raises ``OSError``."""
        flags = mmap.MAP_SHARED | _MAP_POPULATE  # in one system call, and not with a fault for each page
        address = libc().mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, fd, 0)
        if address == _FAILED:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        array = (ctypes.c_ubyte * size).from_address(address)
        array.unmap = _Unmap(address, size, libc().munmap)  # type: ignore[attr-defined]  # lives as long as the array
        self.address: int = address
        self.size = size
        self.view = memoryview(array).cast("B")

    def free_pages(self) -> None:
        """Give the memory back to the system, also if other processes still map it; it must be unused.

        A program may still look at a loan that it has sent. It sees zeros then, in memory of this process:
        a page of the file would have to be allocated again, and without room that is a SIGBUS.
        """
        libc().madvise(self.address, self.size, getattr(mmap, "MADV_REMOVE", 9))
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
        libc().mmap(self.address, self.size, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)


def make(path: str, size: int) -> Mapping:
    """Make a file, allocate its memory, and map it; raises ``OSError``, `UnsafeFile`."""
    fd = open_own(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        os.posix_fallocate(fd, 0, size)
        return Mapping(fd, size)
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(fd)


def attach(path: str) -> Mapping:
    """Map an existing file; raises ``OSError``, `UnsafeFile`."""
    fd = open_own(path, os.O_RDWR)
    try:
        size = os.fstat(fd).st_size
        if not size:
            raise OSError(errno.EINVAL, f"{path} is empty", path)
        return Mapping(fd, size)
    finally:
        os.close(fd)
