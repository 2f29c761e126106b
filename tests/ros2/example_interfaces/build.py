"""Build this package for the environment with ROS whose Python runs this: ``make ros2`` does it.

PyPI has ROS and its generators of code, but no wheel of ``example_interfaces``, with which the tutorials of
ROS and the examples of others work. Needs a C++ compiler; without one, it says so and builds nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
# The wheels of ROS name the Python of the machine that built them.
BUILT_WITH = re.compile(r"/opt/python/cp\d+-cp\d+/(include/python[\d.]+|lib/python[\d.]+/site-packages)")


def main() -> int:
    """Build and install; return the exit status."""
    if shutil.which("c++") is None:
        print("no C++ compiler, so there is no example_interfaces, and its tests are skipped")
        return 0
    prefix, paths = Path(sys.prefix), sysconfig.get_paths()

    def here(found: re.Match[str]) -> str:
        return paths["include" if found[1].startswith("include") else "purelib"]

    for file in prefix.glob("share/*/cmake/*.cmake"):
        text, count = BUILT_WITH.subn(here, file.read_text())
        if count:
            file.unlink()  # it may be a link to the cache of an installer
            file.write_text(text)
    environment = {
        **os.environ,
        "AMENT_PREFIX_PATH": str(prefix),
        "PATH": f"{prefix / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    }
    with tempfile.TemporaryDirectory() as folder:
        definitions = {
            "CMAKE_PREFIX_PATH": prefix,
            "CMAKE_INSTALL_PREFIX": prefix,
            "Python3_EXECUTABLE": sys.executable,
        }
        steps = [
            ["-S", str(HERE), "-B", folder, "-G", "Ninja", *(f"-D{k}={v}" for k, v in definitions.items())],
            ["--build", folder],
            ["--install", folder],
        ]
        for step in steps:
            done = subprocess.run(
                ["cmake", *step],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            if done.returncode:
                print(done.stdout, file=sys.stderr)
                return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
