"""``dora demo``: run the example of the README, also without a clone."""

from __future__ import annotations

import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import click

from dora._paths import PACKAGE
from dora._shared_folders import check_folder_if_there
from dora.cli.command_run import page_options
from dora.cli.commands.run import run
from dora.errors import DoraError

_PACKAGES = ("cv2", "skimage")


@click.command()
@click.argument("folder", default="dora-demo")
@page_options
@click.pass_context
def demo(context: click.Context, folder: str, ui: bool, open_page: bool) -> int:
    """Run an example: a camera, a detector and a plot.

    Its files are copied into FOLDER [dora-demo], where they are yours to change, and run there. Files that
    are there already run as they are. It takes four seconds, with the page half a minute;
    `FRAMES=3000 dora demo` takes longer, and `CAMERA=0 dora demo` uses a real camera.
    """
    if any(find_spec(name) is None for name in _PACKAGES):
        raise DoraError(
            "the demo needs OpenCV and scikit-image; install them: "
            "pip install 'opencv-python-headless<5' scikit-image"
        )
    target = Path(os.path.normpath(folder))
    above, name = os.path.split(os.path.abspath(folder))  # `.` and `..` are folders in another one, too
    try:
        # Its files are run, and in a folder like /tmp another user may have made them.
        check_folder_if_there(name, below=above)
    except NotADirectoryError:
        pass  # `copy_example` reports it
    except OSError as error:
        raise DoraError(f"cannot run the demo in {target}: {error.strerror}") from None
    if not (target / "dataflow.yml").exists():
        copy_example(target)
    if ui or open_page:
        os.environ.setdefault("FRAMES", "900")  # time to look at the page
    again = f"{_this_program()} demo {folder} --open"
    os.chdir(target)
    status: int = context.invoke(run, path="dataflow.yml", ui=ui, open_page=open_page)
    if not status:
        click.echo(f"Open {target / 'out/detections.png'}; change the files in {target} and run it again.")
        if not (ui or open_page):
            click.echo(f"To watch it run in the browser: {again}")
    return status


def _this_program() -> str:
    """Return how to call this command again: by its name, or by its path if it is not on ``PATH``."""
    path = os.path.abspath(sys.argv[0])
    is_on_path = os.path.basename(path) != "dora" or shutil.which("dora") == path
    return "dora" if is_on_path else os.path.relpath(path)


def copy_example(target: Path) -> None:
    """Copy the example into a folder that does not exist or is empty; raises `DoraError`."""
    source = Path(PACKAGE, "assets", "demo")
    if not source.exists():  # a clone, where it is an example beside others
        source = Path(PACKAGE).parents[1] / "examples" / "object-detection"
    try:
        target.mkdir(parents=True, exist_ok=True)
        if any(target.iterdir()):
            raise DoraError(f"`{target}` has other files; name another folder: dora demo FOLDER")
        for file in source.iterdir():
            if file.is_file():
                shutil.copyfile(file, target / file.name)
    except OSError as error:
        raise DoraError(f"cannot copy the example to {target}: {error.strerror}") from None
