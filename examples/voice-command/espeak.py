"""eSpeak NG, a speech synthesizer. Its library and voices come with the package ``espeakng-loader``."""

import ctypes
from typing import Any

import espeakng_loader
import numpy as np

SYNCHRONOUS = 2  # of the library's modes: it calls back with the samples, and does not play them
RATE = 1  # of its parameters: words a minute
UTF8 = 1
CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Speaker:
    """Turns text into sound. ``voice`` is a language with a variant, as in ``espeak-ng -v en-us+f2``."""

    def __init__(self, voice: str = "en-us", words_per_minute: int = 150) -> None:
        self._library: Any = espeakng_loader.load_library()
        data = espeakng_loader.get_data_path().encode()
        self.sample_rate: int = self._library.espeak_Initialize(SYNCHRONOUS, 0, data, 0)
        if self.sample_rate < 0:
            raise SystemExit(f"eSpeak NG cannot read its voices in {data.decode()}")
        if self._library.espeak_SetVoiceByName(voice.encode()):
            raise SystemExit(f"eSpeak NG has no voice {voice}")
        self._library.espeak_SetParameter(RATE, words_per_minute, 0)
        self._parts: list[np.ndarray] = []
        self._callback = CALLBACK(self._receive)  # an attribute: the library calls it later
        self._library.espeak_SetSynthCallback(self._callback)

    def say(self, text: str) -> np.ndarray:
        """Return the sound of ``text``: float32 from -1 to 1, ``sample_rate`` of them a second."""
        self._parts = [np.empty(0, np.float32)]
        data = text.encode()
        self._library.espeak_Synth(data, len(data) + 1, 0, 0, 0, UTF8, None, None)
        return np.concatenate(self._parts)

    def _receive(self, samples: "ctypes._Pointer[ctypes.c_short]", count: int, _events: object) -> int:
        if samples and count:
            self._parts.append(np.ctypeslib.as_array(samples, (count,)).astype(np.float32) / 32768)
        return 0  # go on
