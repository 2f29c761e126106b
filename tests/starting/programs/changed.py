"""Writes new code into its own file, and into a module, when it runs for the first time; then it fails."""

import sys

import facts
from change import version

ME = "first, with some more text"
facts.record(f"run of {version}", [ME, __file__, sys.argv])
if version == "old":
    with open(__file__) as file:
        text = file.read()
    with open(__file__, "w") as file:
        file.write(text.replace("first, with some more text", "second"))
    with open("change.py", "w") as file:
        file.write("version = 'quite new'\n")
    sys.exit(3)
