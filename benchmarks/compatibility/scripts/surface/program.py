"""Note the names of the package, and the parameters of what can be called."""

import importlib
import inspect

from notes import attempt, note

import dora

note("dora names", [name for name in dir(dora) if not name.startswith("_")])
note("Node names", [name for name in dir(dora.Node) if not name.startswith("_")])
note("DoraStatus names", [name for name in dir(dora.DoraStatus) if name.isupper()])
for name in ("CONTINUE", "STOP", "STOP_ALL"):
    status = getattr(dora.DoraStatus, name)
    attempt(f"DoraStatus.{name} as int", int, status)
    attempt(f"DoraStatus.{name} as text", str, status)
for module in ("dora.builder", "dora.testing", "dora_cli"):
    found = attempt(f"import {module}", lambda module=module: bool(importlib.import_module(module)))
    if found:
        loaded = importlib.import_module(module)
        own = [
            name
            for name in dir(loaded)
            if not name.startswith("_")
            and getattr(getattr(loaded, name), "__module__", "").startswith("dora")
        ]
        note(f"{module} names", own)
        for name in own:
            value = getattr(loaded, name)
            if inspect.isclass(value):
                note(
                    f"{module}.{name} names",
                    [member for member in dir(value) if not member.startswith("_")],
                )


def parameters(function):
    try:
        return [name for name in inspect.signature(function).parameters if name != "self"]
    except (TypeError, ValueError):
        return []


for name in dir(dora.Node):
    if not name.startswith("_") and callable(getattr(dora.Node, name)):
        note(f"parameters of Node.{name} names", parameters(getattr(dora.Node, name)))
for name in ("run", "build"):
    note(f"parameters of {name} names", parameters(getattr(dora, name)))
note("version", dora.__version__)
note("author", isinstance(getattr(dora, "__author__", None), str))
attempt("DoraStatus equals itself", lambda: dora.DoraStatus.STOP == dora.DoraStatus.STOP)
attempt("DoraStatus from a number", lambda: dora.DoraStatus(0) and None)
