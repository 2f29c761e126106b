"""What the nodes of these dataflows note with: values as JSON, exceptions by their built-in class."""

import builtins
import datetime
import enum
import json
import os
import sys

import pyarrow as pa


def note(name, value, node=None):
    """Write a value under a name; `node` is the file, which is otherwise named after the program."""
    stem = node or os.path.basename(sys.argv[0]).removesuffix(".py")
    with open(f"{os.environ['NOTES']}/{stem}.jsonl", "a") as file:
        print(json.dumps([name, plain(value)]), file=file, flush=True)


def attempt(name, function, *arguments, node=None, **options):
    """Note what a call returns or raises; return what it returned."""
    try:
        value = function(*arguments, **options)
    except Exception as error:  # noqa: BLE001
        note(name, f"raises {', '.join(builtin(type(error)))}", node)
        return None
    note(name, value, node)
    return value


def builtin(kind):
    """Return the names of the built-in classes of an exception, which are what a program can catch."""
    names = [base.__name__ for base in kind.__mro__ if hasattr(builtins, base.__name__)]
    return sorted(set(names) - {"Exception", "BaseException", "object"})


def plain(value):
    """Return a value as JSON can hold it, with its type where JSON would lose it."""
    if isinstance(value, enum.Enum) or type(value).__name__ == "DoraStatus":
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, pa.Array):
        return {
            "type": str(value.type),
            "length": len(value),
            "nulls": value.null_count,
            "values": plain(value.to_pylist()[:50]),
        }
    if isinstance(value, datetime.datetime):
        return f"datetime in {value.tzinfo}"
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return f"bytes {value!r}"
    return f"a {type(value).__name__}"
