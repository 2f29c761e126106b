"""The environments for ``dora run --on`` on the machine that has them: which one is in use, which one goes.

::

    ~/.cache/dora/environments/
        dora-1.2.0-5f1c0a9d7e21         a link to the environment with this dora
        dora-1.2.0-5f1c0a9d7e21.4711    the environment, made by a process of this number
            .dora-lock                  locked by everything that runs in it
    ~/.cache/dora/dora                  a command, for users: the dora of the last run with --detach

An environment is complete when a link leads to it. Its own name never changes, since its programs contain
it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from dora._shared_folders import write_file
from dora.cluster.ssh.use_lock import in_use, is_in_use
from dora.errors import DoraError

KEPT: Final = 2  # environments that stay though nothing runs in them; each has 400 MB
_LOCK: Final = ".dora-lock"


def publish(new: str, link: str) -> None:
    """Make a complete environment the one for its dora, and remove old ones; raises `DoraError`."""
    temporary = f"{new}.link"
    try:
        os.symlink(os.path.basename(new), temporary)
        os.replace(temporary, link)  # at once: there is never a moment without an environment
    except OSError as error:
        raise DoraError(f"cannot write {link}: {error.strerror}") from None
    remove_old(os.path.dirname(link))


@contextmanager
def held() -> Iterator[None]:
    """Keep the environment of this process from removal in this block, and make it the one used last.

    Other environments, which nobody removes, stay as they are.
    """
    link = _link()
    if not link:
        yield
        return
    with in_use(os.path.join(sys.prefix, _LOCK)):
        os.utime(link, follow_symlinks=False)
        yield


def _link() -> str:
    """Return the link to the environment of this process, "" if it is another kind of environment."""
    link = sys.prefix.rpartition(".")[0]
    return link if os.path.islink(link) else ""


def write_command() -> str:
    """Write the command with which users look at what this `dora` runs; return it for their shell."""
    link = _link()
    if not link:
        return shlex.quote(os.path.join(os.path.dirname(sys.executable), "dora"))
    path = os.path.join(os.path.dirname(os.path.dirname(link)), "dora")
    # As for the sessions: the folder of a login ends with the last login.
    script = f'#!/bin/sh\nunset XDG_RUNTIME_DIR\nexec {shlex.quote(link)}/bin/dora "$@"\n'
    write_file(path, script.encode(), below=os.path.dirname(path), mode=0o700)
    home = os.path.expanduser("~")
    # The shell of the user's machine must not expand it, and the shell of this machine must.
    if path.startswith(f"{home}/"):
        return f"'~{path.removeprefix(home)}'"
    return shlex.quote(shlex.quote(path))  # once for each of the two shells


def remove_old(folder: str) -> None:
    """Remove environments except those used last, those in use, and those that are just being made."""
    paths = [os.path.join(folder, name) for name in os.listdir(folder)]
    links = sorted(filter(os.path.islink, paths), key=lambda path: os.lstat(path).st_mtime, reverse=True)
    for link in links[KEPT:]:
        if not is_in_use(os.path.join(os.path.realpath(link), _LOCK)):
            os.unlink(link)  # before the environment: no command begins in one that is going
    complete = {os.path.realpath(link) for link in links if os.path.islink(link)}
    for path in paths:
        if os.path.islink(path) or os.path.realpath(path) in complete:
            continue
        if not (_is_being_made(path) or is_in_use(os.path.join(path, _LOCK))):
            shutil.rmtree(path, ignore_errors=True)


def _is_being_made(path: str) -> bool:
    number = path.removesuffix(".wheels").rpartition(".")[2]
    try:
        os.kill(int(number), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass  # it lives, as another user's
    return True
