import locale
import os
import sys
import tempfile
import time
import warnings

from facts import record

record("path", sys.path)
record("flags", repr(sys.flags))
record("warnings", [sys.warnoptions, [repr(item) for item in warnings.filters]])
record("streams", [[stream.encoding, stream.errors] for stream in (sys.stdin, sys.stdout, sys.stderr)])
record("debug", __debug__)
record("hash", hash("text") == hash("text"))
record("time", [time.tzname, time.timezone, time.localtime(0)[:6]])
record(
    "locale",
    [locale.setlocale(locale.LC_ALL), locale.setlocale(locale.LC_ALL, ""), sys.getfilesystemencoding()],
)
record("folders", [tempfile.gettempdir(), os.path.expanduser("~")])
record("bytecode", [sys.dont_write_bytecode, sys.pycache_prefix])
record("environment", sorted(f"{name}={value}" for name, value in os.environ.items()))
assert os.environ.get("TEXT") != "fails"
