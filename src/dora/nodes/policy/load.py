"""Find the policy that the command line names: a Python callable, or a checkpoint of LeRobot."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

from dora.errors import DoraError

OFFERED: Final = ("left_over", "delay", "metadata")
"""A policy may ask for these beside the observation, by parameters of these names."""


class PolicyError(DoraError):
    """The policy cannot be loaded, or it failed; ``str(error)`` names it."""


@dataclass(frozen=True)
class Policy:
    """A callable from an observation to actions. ``wants``: the names in `OFFERED` that it takes.

    ``inputs``: those that it needs, if it knows them. ``steps``: the steps of its history, with 0 for the
    present and -1 for the step before.
    """

    name: str
    call: Callable[..., Any]
    wants: tuple[str, ...] = ()
    reset: Callable[[], Any] | None = None
    inputs: tuple[str, ...] = ()
    steps: tuple[int, ...] = (0,)

    def __call__(self, observation: Mapping[str, Any], **offered: Any) -> Any:
        return self.call(observation, **{name: offered[name] for name in self.wants})


def load_policy(text: str) -> Policy:
    """Return the policy that ``module:name`` or ``file.py:name`` names.

    A class is called without arguments, and its object is the policy. Raises `PolicyError`; an exception of
    the module itself passes through, as its traceback is what its author needs.
    """
    place, _, name = text.rpartition(":")
    if not place or not name.isidentifier():
        raise PolicyError(f"`{text}` names no policy; write `policy.py:act` or `package.module:act`")
    found = getattr(_module(place), name, None)
    if found is None:
        raise PolicyError(f"{place} has no `{name}`")
    return as_policy(text, found)


def as_policy(name: str, found: Any) -> Policy:
    """Return a policy made of a callable, or of a class; raises `PolicyError`."""
    if inspect.isclass(found):
        found = found()
    if not callable(found):
        raise PolicyError(f"`{name}` is no function and no class, and has no method `__call__`")
    try:
        parameters = inspect.signature(found).parameters
    except (TypeError, ValueError):  # a callable in C
        return Policy(name, found)
    takes_all = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    wants = tuple(each for each in OFFERED if each in parameters or takes_all)
    reset = getattr(found, "reset", None)
    return Policy(name, found, wants, reset if callable(reset) else None)


def _module(place: str) -> ModuleType:
    sys.path.insert(0, os.getcwd())  # as for a program that lies there
    if not place.endswith(".py"):
        try:
            return importlib.import_module(place)
        except ModuleNotFoundError as error:
            if place != error.name and not place.startswith(f"{error.name}."):
                raise  # an import of the module itself
            raise PolicyError(f"there is no module `{place}`; a file is named as `policy.py:act`") from None
    path = os.path.abspath(os.path.expanduser(place))
    if not os.path.isfile(path):
        raise PolicyError(f"there is no file {path}")
    sys.path.insert(0, os.path.dirname(path))
    name = os.path.splitext(os.path.basename(path))[0]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PolicyError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]  # as an import does
        raise
    return module
