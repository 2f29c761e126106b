"""Note what arrives."""

from notes import note

from dora import Node

for event in Node():
    if event["type"] != "INPUT":
        continue
    value, name = event["value"], event["metadata"]["name"]
    note(name, value)
    note(f"{name}: class", type(value).__name__)
    if name in ("int8", "float64", "bytes", "large", "slice"):
        note(f"{name}: bytes of the last buffer", value.buffers()[-1].size)
        note(f"{name}: offset", value.offset)
        note(f"{name}: NumPy without a copy", str(value.to_numpy(zero_copy_only=True).dtype))
        note(f"{name}: NumPy may write", value.to_numpy(zero_copy_only=True).flags.writeable)
