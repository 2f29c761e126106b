"""The keys of `dora top`, without a terminal."""

from __future__ import annotations

import curses

import pytest

from dora.cli.commands.top import View, _handle_keys


class Keyboard:
    """A screen of curses on which these keys have been pressed."""

    def __init__(self, *keys: int | str) -> None:
        self._keys = [key for item in keys for key in ([item] if isinstance(item, int) else map(ord, item))]

    def getch(self) -> int:
        return self._keys.pop(0) if self._keys else -1


@pytest.mark.parametrize(
    ("keys", "action", "view"),
    [
        ((), "", View()),
        (("q",), "quit", View()),
        (("\x1b",), "quit", View()),
        (("r",), "refresh", View()),
        (("c",), "", View("CPU")),
        (("cmn",), "", View("name")),
        (("m",), "", View("memory")),
        (("jjk",), "", View(top=1)),
        (("kk",), "", View()),
        ((curses.KEY_DOWN, curses.KEY_DOWN, curses.KEY_UP), "", View(top=1)),
        (("\x1b[B",), "", View(top=1)),
        (("\x1bOB\x1b[1;5B\x1b[A",), "", View(top=1)),
        (("\x1b[15~c",), "", View("CPU")),  # F5 of a terminal that curses knows otherwise
        (("\x1b\x1b",), "quit", View()),
        (("\x1bq",), "", View()),  # Alt and a key
        (("xX", 1, 300), "", View()),
    ],
)
def test_each_key_of_top_has_its_effect(keys: tuple[int | str, ...], action: str, view: View) -> None:
    chosen = View()
    assert _handle_keys(Keyboard(*keys), chosen) == action
    assert chosen == view
