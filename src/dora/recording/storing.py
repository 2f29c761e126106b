"""The thread behind a recorder that compresses chunks and puts them where they belong.

Nothing in here may hold the interpreter's lock for long: compressing and writing give it up, and taking
messages goes on meanwhile.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from dora.errors import DoraError
from dora.recording.chunk import Chunk, Pool
from dora.recording.priority import go_with_others
from dora.recording.sealed import CompressedChunk, Compression, seal


class WriteThread:
    """Stores chunks, in a thread, in the order in which they are put."""

    def __init__(
        self, pool: Pool, compression: Compression, store: Callable[[CompressedChunk], None]
    ) -> None:
        """``store`` is called in the thread; after it has raised `DoraError`, the rest is thrown away."""
        self.failure: DoraError | None = None
        self._pool = pool
        self._compression = compression
        self._store = store
        self._waiting: deque[Chunk | Callable[[], None]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="dora-recording", daemon=True)
        self._thread.start()

    def put(self, chunk: Chunk) -> None:
        """Let a chunk be stored; it goes back to the pool then."""
        self._append(chunk)

    def call(self, function: Callable[[], None]) -> None:
        """Let the thread make a call after what has been put already."""
        self._append(function)

    def close(self) -> None:
        """Return once everything is done."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _append(self, item: Chunk | Callable[[], None]) -> None:
        with self._changed:
            self._waiting.append(item)
            self._changed.notify()

    def _work(self) -> None:
        go_with_others()
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if not self._waiting:
                    return
                item = self._waiting.popleft()
            if isinstance(item, Chunk):
                self._store_chunk(item)
            else:
                item()

    def _store_chunk(self, chunk: Chunk) -> None:
        try:
            if self.failure is None:
                self._store(self._seal(chunk))
        except DoraError as error:
            self.failure = error
        except Exception as error:  # noqa: BLE001 - no memory, say: the recorder would wait for ever
            self.failure = DoraError(f"the recording cannot go on: {type(error).__name__}: {error}")
        finally:
            self._pool.give_back([chunk])

    def _seal(self, chunk: Chunk) -> CompressedChunk:
        # Who is too slow for what comes in does without compression, before anything is lost.
        if self._pool.used > self._pool.limit // 4:
            return seal(chunk, "none", checked=False)
        return seal(chunk, self._compression)
