"""The process that reads recordings for a page: ``python -m dora.recording.history.worker FILE …``.

It is a process of its own because reading and drawing take time and memory, and a file may come from
anybody: the server goes on, whatever is in it. Requests come on standard input, answers go to standard
output, one after the other: four bytes of length, and of an answer a byte that is 0 for an answer and 1 for
a sentence about why there is none. It ends with its standard input.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, BinaryIO, Final

from dora.errors import DoraError

if TYPE_CHECKING:
    from dora.recording.history.answers import Answers

MAX_REQUEST: Final = 1 << 20  # bytes; a larger number is no request of the server, and ends this process
ANSWER: Final = b"\0"
REFUSAL: Final = b"\1"


def start_worker(paths: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start the process for some recordings; it ends with its standard input.

    This module imports next to nothing, so `dora view` starts it first: the process opens the recordings
    while the server is imported.
    """
    # -P: a module in the current folder is not imported instead of an installed one.
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "dora.recording.history.worker", *paths],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # so that Ctrl-C does not end it
    )


def main() -> None:
    """Answer the requests on standard input about the files that the arguments name."""
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # only answers may reach the server
    from dora.observe.preview.images import library
    from dora.recording.history.answers import Answers
    from dora.recording.history.history import History

    histories: list[History] = []
    trouble = ""
    try:
        histories.extend(map(History, sys.argv[1:]))
    except DoraError as error:
        trouble = str(error)
    answers = Answers(histories)
    # Drawing needs modules that take a while to import, and the page asks for the first moment soon.
    threading.Thread(target=library, name="dora-warm-up", daemon=True).start()
    is_prepared = False
    try:
        while (request := _read(sys.stdin.buffer)) is not None:
            _write(output, *((REFUSAL, trouble.encode()) if trouble else _answer(answers, request)))
            # After the first answer: the browser opens the page with it meanwhile.
            if not (is_prepared or trouble):
                is_prepared = True
                with contextlib.suppress(DoraError, MemoryError):  # the page will ask, and be told
                    answers.prepare()
    except BrokenPipeError:
        pass  # the server is gone
    finally:
        answers.close()


def _answer(answers: Answers, request: bytes) -> tuple[bytes, bytes]:
    from dora.recording.history.requests import Request
    from dora.wire.decoders import DecodeError, json_decoder

    try:
        return ANSWER, answers.answer(json_decoder(Request)(request))
    except DecodeError as error:
        return REFUSAL, f"the request is not understood: {error}".encode()
    except DoraError as error:
        return REFUSAL, str(error).encode()
    except MemoryError:
        return REFUSAL, b"there is not enough memory to read this part of the recording"


def _read(file: BinaryIO) -> bytes | None:
    head = file.read(4)
    if len(head) < 4:
        return None
    size = int.from_bytes(head, "little")
    if size > MAX_REQUEST:
        return None
    return file.read(size)


def _write(file: BinaryIO, kind: bytes, data: bytes) -> None:
    file.write((len(data) + 1).to_bytes(4, "little") + kind)
    file.write(data)
    file.flush()


if __name__ == "__main__":
    main()
