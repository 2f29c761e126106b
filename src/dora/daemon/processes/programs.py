"""Whether there is what the nodes run: looked at once before anything is started, and all told at once."""

from __future__ import annotations

import os

from dora.daemon.processes.command import CannotSpawn, NoSuchCommand, command_line, search_path
from dora.daemon.processes.interpreter import interpreter_of
from dora.dataflow.model import Dataflow, NodeSpec, Program
from dora.dataflow.parser.files import names_a_file
from dora.dataflow.problems import each_once
from dora.errors import Problem


def missing_programs(dataflow: Dataflow, *, uv: bool = False) -> list[Problem]:
    """Return a problem for every command that cannot be run here, and every file that a build did not make.

    `dora.dataflow.missing_files` tells of the other files. ``uv`` is the option of the run.
    """
    nodes = {node.id: node for node in dataflow.nodes}
    problems: list[Problem] = []
    for program in dataflow.programs:
        node = nodes.get(program.node)
        if node is None or (names_a_file(program.path) and not program.built):
            continue
        try:
            _look(dataflow, node, program, uv=uv)
        except CannotSpawn as error:
            message = f"{program.place.message} cannot be started: {error}"
            hint = "install it, for example with a `build` line" if isinstance(error, NoSuchCommand) else ""
            problems.append(program.place._replace(message=message, hint=hint))
    return each_once(problems)


def _look(dataflow: Dataflow, node: NodeSpec, program: Program, *, uv: bool) -> None:
    directory = dataflow.directory_of(node)
    if node.path is None:  # the program is an operator's
        file = os.path.join(directory, os.path.expanduser(program.path))
        if not os.path.isfile(file):
            raise CannotSpawn(f"there is no file {file}")
        return
    interpreter = interpreter_of(dataflow, node, uv=uv)
    path = search_path(dataflow, node, interpreter, os.environ)
    command_line(node, directory, interpreter, allow_shell=True, search_path=path)
