"""The program of a template process; a process that it forks becomes a node here."""

from __future__ import annotations

import importlib.util
import os
import resource
import select
import socket
import sys
from types import ModuleType
from typing import Any, Final

from dora.daemon.template.children import PackageSet, close_all, end_with_parent
from dora.daemon.template.forked import become, rehearse, remember_ignored_signals, run
from dora.daemon.template.imports import Imports
from dora.daemon.template.process import BACKLOG
from dora.daemon.template.program import PythonProgram, program_of
from dora.daemon.template.protocol import read_request, receive_descriptors
from dora.daemon.template.server import InNewProcess, Template

# `dora.Node` and the first messages load these. By name, because the daemon shares no code with nodes.
# Only packages are here for which a fork is proved to be like a plain start, by `tests/starting` and
# `tests/packages/test_preload.py`: others may look at the folder, the arguments or the variables of a node.
BASE: Final = (
    "dora",
    "dora.node.node",
    "numpy",
    "numpy.ma",  # by the first array that is made of NumPy's
    "pyarrow",
    "dora.node.before_fork",  # with the engine
    *("argparse", "dataclasses", "json", "pathlib"),  # by many programs
)
# Modules whose function `warm_up` makes what nodes make at their start.
WARM_UPS: Final = ("dora.node.before_fork", "dora.node.arrays_before_fork")


def serve() -> None:
    """Be a template process until nobody needs it; in a forked process, run its program.

    The command line has two descriptors: of the connection, or of the socket that accepts connections, and
    of a pipe in which the process says that it accepts no more.
    """
    end_with_parent(True)
    remember_ignored_signals()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # it holds one file for each node that runs
    if sys.path and sys.path[0] == os.path.dirname(os.path.abspath(__file__)):
        del sys.path[0]
    served, retired = socket.socket(fileno=int(sys.argv[1])), [int(word) for word in sys.argv[2:]]
    for pipe in retired:
        os.set_inheritable(pipe, False)
    # Packages see what `python -c "import package"` has.
    sys.argv[:] = ["-c"]
    ours = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    modules = [name for name in BASE if importlib.util.find_spec(name.partition(".")[0]) is not None]
    if served.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        served.listen(BACKLOG)  # again: daemons get the id of the process that was the last to call it
    template = Template(served, dict(os.environb), PackageSet(tuple(modules)), {}, retired=retired)
    while True:
        try:
            template.load()
            template.serve()
        except InNewProcess as new:
            new.__traceback__ = None  # its frames hold the template
            if isinstance(new.becomes, socket.socket):
                connection = new.becomes
                break
            template = new.becomes
        else:
            os._exit(0)
    imports = template.imports
    del template
    program = _wait_for_program(connection, imports)
    run(program, _new_main(program, ours))


def _rehearse() -> None:
    """Do what a node does at its start, in a process that is going to do it later."""
    rehearse()
    for name in WARM_UPS:
        if (module := sys.modules.get(name)) is not None:
            module.warm_up()


def _wait_for_program(connection: socket.socket, imports: Imports) -> PythonProgram:
    """Become the process that the next request asks for, and return its program; end if none comes."""
    try:
        with connection:
            if not select.select([connection], (), (), 0)[0]:  # a request that is there does not wait
                _rehearse()
            descriptors = receive_descriptors(connection)
        if not descriptors:
            os._exit(0)
        memory, output, errors, number = descriptors
        request = read_request(memory)
        program = program_of([os.fsdecode(word) for word in request.command])
        assert program is not None  # the template has looked
    except BaseException:  # noqa: BLE001 - no fault may end here in the code of the template
        os._exit(0)
    with socket.socket(fileno=number) as channel:
        become(request, program, output, errors, channel, printed=imports.printed, changes=imports.changes)
    close_all((memory, output, errors))
    return program


def _new_main(program: PythonProgram, ours: ModuleType) -> dict[str, Any]:
    """Return the namespace of a new module ``__main__``, as it is before a script runs.

    ``ours``: the module of the template, which is exempt from garbage collection.
    """
    old = vars(ours)
    main = sys.modules["__main__"] = ModuleType("__main__")
    namespace = vars(main)
    namespace.update({name: value for name, value in old.items() if name.startswith("__")})
    path = os.path.join(os.getcwd(), program.script) if program.script else old["__file__"]
    loader = type(old["__loader__"])
    namespace.update(
        __name__="__main__",
        __doc__=None,
        __file__=path,
        __loader__=loader("__main__", path),
    )
    if sys.version_info < (3, 14):  # newer ones make it when it is first read
        namespace["__annotations__"] = {}
    return namespace
