"""The docstring of the program."""

at_first = {name: repr(value) for name, value in dict(globals()).items()}

import dataclasses
import enum
import inspect
import linecache
import pickle
import sys
import traceback
import typing

from facts import record

number: int = 3
words: list[str]


class Thing:
    """A class of the program."""

    def __init__(self) -> None:
        self.value = 7

    def place(self) -> str:
        return traceback.format_stack(limit=1)[0]


@dataclasses.dataclass
class Point:
    x: "int"
    y: typing.ClassVar["str"] = ""


class Color(enum.Enum):
    RED = 1


class Pair(typing.NamedTuple):
    left: int
    right: "Thing"


def function() -> None:
    """A function of the program."""


main = sys.modules["__main__"]
record("names at first", at_first)
record("annotations", repr(main.__annotations__))
record("doc", __doc__)
record("file", __file__)
record("spec", repr(__spec__))
record("cached", globals().get("__cached__", "none"))
record("package", repr(__package__))
record(
    "loader", [type(__loader__).__name__, getattr(__loader__, "name", ""), getattr(__loader__, "path", "")]
)
record("loader is package", __loader__.is_package("__main__"))
record("source by the loader", __loader__.get_source("__main__")[:30])
record("builtins", [__builtins__ is sys.modules["builtins"], type(__builtins__).__name__])
record("module", [main.__dict__ is globals(), repr(main), type(main).__name__])
record("import of __main__", __import__("__main__") is main)
record("pickle", pickle.dumps([Thing, Point(1), Color.RED, Pair(1, Thing())]).hex())
record("unpickled", repr(pickle.loads(pickle.dumps([Point(1), Color.RED]))))
record("qualified names", [repr(Thing), repr(function.__module__), repr(Point(2)), repr(Color.RED)])
record("type hints", [repr(typing.get_type_hints(kind)) for kind in (Point, Pair, main)])
record("source", [inspect.getsource(Thing.place), inspect.getsource(function)])
record("source file", [inspect.getsourcefile(Thing), inspect.getfile(main), inspect.getfile(function)])
record("module of a function", repr(inspect.getmodule(function)))
record("file of the code", function.__code__.co_filename)
record("line", linecache.getline(__file__, 1))
record("place", Thing().place())
record("stack", [frame.filename + " " + frame.function for frame in inspect.stack()])
record("flags of the compiler", sys._getframe().f_code.co_flags)
record("frame", [sys._getframe().f_code.co_name, sys._getframe().f_globals is globals()])
record("locals", sys._getframe().f_locals is globals())


def depth(count: int = 0) -> int:
    try:
        return depth(count + 1)
    except RecursionError:
        return count


record("depth of calls", depth())
try:
    import importlib

    importlib.reload(main)
except BaseException as error:
    record("reload", repr(error))
record("names at the end", sorted(globals()))
