"""Stands for sounddevice: a microphone that hears 1000 all the time."""

import threading
import time

import numpy


class InputStream:
    def __init__(self, callback, dtype, channels, samplerate):
        self._callback = callback
        self._block = numpy.full((samplerate // 50, channels), 1000, dtype)
        self._ended = threading.Event()

    def __enter__(self):
        self._thread = threading.Thread(target=self._hear)
        self._thread.start()

    def __exit__(self, *failure):
        self._ended.set()
        self._thread.join()

    def _hear(self):
        while not self._ended.wait(0.02):
            self._callback(self._block, len(self._block), None, None)


def sleep(milliseconds):
    time.sleep(milliseconds / 1000)
