"""Note the variables and arguments of a node."""

import os
import sys

from notes import note

from dora import Node

Node()
names = "SHARED OVERRIDDEN NUMBER FRACTION TRUTH QUOTED EXPANDED LD_PRELOAD PYTHONUNBUFFERED EMPTY"
for name in names.split():
    note(name, os.environ.get(name))
note("HOMELY", os.environ.get("HOMELY") == f"{os.environ['HOME']}/x")
note("arguments", [argument.replace(os.environ["HOME"], "(home)") for argument in sys.argv[1:]])
note(
    "folder of the program is on the path",
    os.path.dirname(os.path.abspath(sys.argv[0])) == os.path.abspath(sys.path[0]),
)
