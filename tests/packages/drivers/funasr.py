"""Stands for FunASR, which hears how long somebody speaks."""


class AutoModel:
    def __init__(self, **options): ...

    def generate(self, audio):
        return [{"text": f"{len(audio)} samples"}]
