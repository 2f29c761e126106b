import ctypes
import os
import subprocess
import sys

from facts import record

for name in ("stdin", "stdout", "stderr"):
    stream = getattr(sys, name)
    raw = stream.buffer if name == "stdin" or hasattr(stream.buffer, "mode") else stream.buffer.raw
    record(name, [
        type(stream).__name__, type(stream.buffer).__name__, type(raw).__name__,
        stream.name, stream.mode, getattr(raw, "mode", ""), stream.encoding, stream.errors,
        stream.newlines, stream.line_buffering, stream.write_through, stream.isatty(), stream.fileno(),
        stream.closed, stream.readable(), stream.writable(), stream.seekable(), repr(stream),
        stream is getattr(sys, f"__{name}__"), getattr(raw, "closefd", ""), os.get_blocking(stream.fileno()),
    ])  # fmt: skip
    record(f"{name} in /proc", os.readlink(f"/proc/self/fd/{stream.fileno()}"))
libc = ctypes.CDLL(None)
print("one")
print("a part", end="")
os.write(1, b" of raw bytes \xff\xfe\n")
sys.stdout.write("wäge \u20ac \U0001f600\n")
sys.stdout.buffer.write(b"bytes \xc3\xa4\n")
os.system("echo from a shell")
subprocess.run(["sh", "-c", "echo from a child; echo its error >&2"], check=True)
print("to stderr", file=sys.stderr)
print("\udcff", file=sys.stderr)
try:
    print("\udcff")
except UnicodeEncodeError as error:
    record("a surrogate", str(error))
print("\r\nreturn\rhalf\r\n", end="")
libc.puts(b"by puts of C")
libc.fflush(None)
record("stdin", sys.stdin.read())
try:
    input("a prompt")
except EOFError as error:
    record("input", str(error))
print()
sys.stdout.reconfigure(encoding="latin-1", line_buffering=True, write_through=False)
print("half", end="")
print(" and half")
sys.stdout.reconfigure(encoding="utf-8")
print("long " + "x" * 300_000 + " end")
libc.printf(b"left in the buffer of C at exit")
sys.stdout.flush()
print("no newline at the end", end="")
