import time
from types import SimpleNamespace


class Events:
    class Press:
        def __init__(self, character):
            self.key = SimpleNamespace(char=character)

    def __enter__(self):
        self._pressed = [self.Press("a"), self.Press("b")]
        return self

    def __exit__(self, *failure): ...

    def get(self, timeout):
        time.sleep(0.05)
        return self._pressed.pop(0) if self._pressed else None
