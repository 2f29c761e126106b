"""The import of iceoryx2 without flatbuffers, which imports NumPy: 80 ms and 20 MB that are not used here.

The classes of iceoryx2 live as long as the interpreter, beyond its last garbage collection, and so does all
that they refer to: the stand-in for flatbuffers, and the module that defines it. So this module
imports nothing through which an object of a program could be reached, such as a handler of `logging`: it
would never be finalized.
"""

import sys
import types
from typing import Any


def import_iceoryx2() -> Any:
    """Import iceoryx2 with a replacement for flatbuffers that loads the real one on first use."""
    if "iceoryx2" in sys.modules or "flatbuffers" in sys.modules:
        import iceoryx2

        return iceoryx2

    class LazyFlatbuffers(types.ModuleType):
        class Builder:  # named in annotations that are evaluated at import
            def __new__(cls, *args: Any) -> Any:
                return LazyFlatbuffers.load().Builder(*args)

        @staticmethod
        def load() -> Any:
            import importlib

            if isinstance(sys.modules.get("flatbuffers"), LazyFlatbuffers):
                del sys.modules["flatbuffers"]
            return importlib.import_module("flatbuffers")

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return getattr(self.load(), name)

    sys.modules["flatbuffers"] = LazyFlatbuffers("flatbuffers")
    try:
        import iceoryx2
    finally:
        if isinstance(sys.modules.get("flatbuffers"), LazyFlatbuffers):
            del sys.modules["flatbuffers"]
    return iceoryx2
