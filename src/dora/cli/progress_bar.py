"""How far long work is: a line at the bottom of a terminal; elsewhere a line now and then."""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Literal, TypeVar

import click

from dora.cli.tables import counted
from dora.daemon.logs.formats import wants_colour
from dora.daemon.logs.terminal import control, visible
from dora.daemon.work import Work

if TYPE_CHECKING:
    from dora.recording.mcap.recording import Recording

_Function = TypeVar("_Function", bound=Callable[..., object])

Mode = Literal["status line", "lines", "long waits", "off"]

DELAY: Final = 1.0  # seconds; what is quicker needs no bar, and no import of Rich
FIRST_WAIT: Final = 5.0  # seconds until a line says what is waited for; then twice as many
ERASE: Final = "\r\x1b[2K"  # the line of the cursor
DEFAULT_WIDTH: Final = 80  # of a terminal that does not know its own
_INTERVAL: Final = 0.25  # seconds
_WINDOW: Final = 5.0  # seconds, over which a rate is measured
_CELLS: Final = 10  # of a bar

progress_option: Callable[[_Function], _Function] = click.option(
    "--progress",
    type=click.Choice(["auto", "plain", "off"]),
    default="auto",
    envvar="DORA_PROGRESS",
    show_envvar=True,
    help="How to show the progress: plain is lines; auto is a status line on a terminal, and elsewhere "
    "lines about what takes long [auto].",
)


def progress_mode(progress: str) -> Mode:
    """Return the mode for a value of ``--progress`` and the standard streams of this process."""
    if progress == "off":
        return "off"
    if progress == "plain":
        return "lines"
    if not (sys.stdout.isatty() and sys.stderr.isatty()):
        return "long waits"
    return "status line" if wants_colour(True, os.environ) else "lines"


class Meter:
    """Measures the rate of a `Work`, by the times at which it is asked for it."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()
        self._of: tuple[Work, str] | None = None

    def rate(self, now: float, work: Work) -> float:
        """Return what is done per second, over the last seconds; 0.0 while it is not known."""
        if self._of != (work, work.unit) or work.done < self._samples[-1][1]:
            self._of = work, work.unit
            self._samples.clear()
        self._samples.append((now, work.done))
        while now - self._samples[0][0] > _WINDOW:
            self._samples.popleft()
        begun, before = self._samples[0]
        return (work.done - before) / (now - begun) if now > begun else 0.0


def bar(work: Work) -> str:
    """Return the done part as a drawing; "" if the total is not known.

    >>> work = Work("message")
    >>> work.become(450, 1000, "message")
    >>> bar(work)
    '━━━━──────'
    """
    if not work.total:
        return ""
    full = min(_CELLS * work.done // work.total, _CELLS)
    return "━" * full + "─" * (_CELLS - full)


def figures(work: Work, rate: float) -> list[str]:
    """Return how much is done, the rate, and the time left, as far as they are known.

    >>> work = Work()
    >>> work.become(600, 1000, "message")
    >>> figures(work, 100.0)
    ['60 % of 1,000 messages', '100/s', '4 s left']
    """
    if not (work.done or work.total):
        return []
    done = min(work.done, work.total) if work.total else work.done
    found = [f"{100 * done // work.total} % of {_amount(work.total, work.unit)}"] if work.total else []
    found = found or [_amount(done, work.unit)]
    if rate >= 0.5:
        found.append(f"{_amount(int(rate), '') if not work.unit else f'{rate:,.0f}'}/s")
    if rate > 0 and done < work.total:
        found.append(f"{duration(int((work.total - done) / rate))} left")
    return found


def parts(work: Work, rate: float) -> list[tuple[str, str]]:
    """Return bar and figures as texts of a status line, each with its style of Rich."""
    texts = figures(work, rate)
    return [
        (f"{bar(work)} {text}".lstrip(), "cyan") if not i else (text, "") for i, text in enumerate(texts)
    ]


def _amount(number: int, unit: str) -> str:
    if unit:
        return counted(number, unit)
    from dora.observe.formatting import file_size

    return file_size(number)


def duration(seconds: float) -> str:
    """Return a time for people; below ten seconds, a float has a decimal.

    >>> duration(0.84), duration(7), duration(12.3), duration(75), duration(7300)
    ('0.8 s', '7 s', '12 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 10 and isinstance(seconds, float):
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


# --------------------------------------------------------------------------- status line


def drawn(texts: Sequence[tuple[str, str]], width: int) -> str:
    """Return texts with their styles of Rich as one line with escape sequences, below ``width`` cells.

    Where there is no room for all, dim texts are left out.

    >>> drawn([("3 nodes", "bold"), ("none dropped", ""), ("7 s", "dim")], 14)
    '\\x1b[1m3 nodes\\x1b[0m · no…'
    """
    from rich.console import Console
    from rich.text import Text

    def joined(texts: Sequence[tuple[str, str]]) -> Text:
        return Text(" · ").join(Text(visible(text), style) for text, style in texts)

    room = max(width - 1, 1)  # the last column would wrap
    line = joined(texts)
    if line.cell_len > room:
        line = joined([part for part in texts if part[1] != "dim"])
    line.truncate(room, overflow="ellipsis")
    console = Console(
        file=io.StringIO(), force_terminal=True, color_system="standard", width=width, legacy_windows=False
    )
    with console.capture() as captured:
        console.print(line, end="", soft_wrap=True, highlight=False)
    return captured.get()


def is_foreground(descriptor: int) -> bool:
    """Return whether this process may draw on its terminal: no shell has put it into the background."""
    try:
        return os.tcgetpgrp(descriptor) == os.getpgrp()
    except OSError:  # this terminal is not the one that controls this process
        return True


# --------------------------------------------------------------------------- work in the foreground


@contextmanager
def showing(
    mode: Mode, what: str, work: Work, measure: Callable[[], None] = lambda: None
) -> Iterator[Callable[[str], None]]:
    """Show how far the work of this block is, on standard error.

    ``measure`` brings ``work`` up to date; it is called in another thread. Gives a function that prints a
    line to standard output: in the block, nothing else may be written to the terminal.
    """
    shown = _Shown(what, work, measure)
    if mode == "off":
        yield shown.say
        return
    ended = threading.Event()
    show = shown.draw if mode == "status line" else shown.tell
    thread = threading.Thread(target=show, args=(ended,), daemon=True)
    thread.start()
    try:
        yield shown.say
    finally:
        ended.set()
        thread.join()  # it erases the bar before anything else is printed


@contextmanager
def reading(mode: Mode, what: str, recording: Recording) -> Iterator[None]:
    """Show how much of a recording has been read in this block, as the part of the recorded time."""
    recording.reached_ns = 0  # it may have been read before
    work = Work()

    def measure() -> None:
        span = recording.last_ns - recording.first_ns
        part = (recording.reached_ns - recording.first_ns) / span if span else 0.0
        work.become(int(recording.size * min(max(part, 0.0), 1.0)), recording.size)

    with showing(mode, what, work, measure):
        yield


class _Shown:
    def __init__(self, what: str, work: Work, measure: Callable[[], None]) -> None:
        self._what = what
        self._work = work
        self._measure = measure
        self._meter = Meter()
        self._begun = time.monotonic()
        # One thread draws, another prints lines: no line may come between erasing and drawing.
        self._lock = threading.Lock()
        self._is_drawn = False

    def say(self, text: str) -> None:
        with self._lock:
            self._erase()
            click.echo(text)

    def draw(self, ended: threading.Event) -> None:
        if ended.wait(DELAY):
            return
        while not ended.wait(_INTERVAL):
            now = time.monotonic()
            self._measure()
            texts = [(self._what, "bold"), *parts(self._work, self._meter.rate(now, self._work))]
            texts.append((duration(int(now - self._begun)), "dim"))
            with self._lock:
                if is_foreground(sys.stderr.fileno()):
                    width = os.get_terminal_size(sys.stderr.fileno()).columns or DEFAULT_WIDTH
                    control(sys.stderr, ERASE + drawn(texts, width))
                    sys.stderr.flush()
                    self._is_drawn = True
        with self._lock:
            self._erase()

    def tell(self, ended: threading.Event) -> None:
        due = FIRST_WAIT
        while not ended.wait(_INTERVAL):
            now = time.monotonic()
            self._measure()
            rate = self._meter.rate(now, self._work)
            if now - self._begun >= due:
                due *= 2
                begin = f"{self._what} ({duration(now - self._begun)})"
                with self._lock:
                    click.echo(", ".join([begin, *figures(self._work, rate)]), err=True)

    def _erase(self) -> None:
        if self._is_drawn:
            control(sys.stderr, ERASE)
            sys.stderr.flush()
            self._is_drawn = False
