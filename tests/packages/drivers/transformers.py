"""Stands for Transformers: a model that answers with what it was asked, in capitals."""

import numpy


class Tensor(numpy.ndarray):
    def to(self, device):
        return self

    def detach(self):
        return self

    def numpy(self):
        return numpy.asarray(self)


class Encoding(dict):
    def to(self, device):
        return self

    @property
    def input_ids(self):
        return self["input_ids"]


class AutoTokenizer:
    tokenizer = feature_extractor = None

    @classmethod
    def from_pretrained(cls, name, **options):
        return cls()

    def __call__(self, texts, **options):
        return Encoding(input_ids=numpy.array([[ord(letter) for letter in text] for text in texts]))

    def apply_chat_template(self, history, **options):
        return history[-1]["content"]

    def decode(self, tokens, **options):
        return "".join(map(chr, tokens)).upper()

    def batch_decode(self, sequences, **options):
        return [self.decode(tokens) for tokens in sequences]


AutoProcessor = AutoTokenizer


class AutoModelForSeq2SeqLM:
    device = "cpu"

    @classmethod
    def from_pretrained(cls, name, **options):
        return cls()

    def to(self, device): ...

    def generate(self, input_ids):
        return input_ids.view(Tensor)


class AutoModelForSpeechSeq2Seq(AutoModelForSeq2SeqLM): ...


class AutoModelForCausalLM(AutoModelForSeq2SeqLM):
    def generate(self, input_ids, max_new_tokens):
        return numpy.hstack([input_ids, input_ids])


def pipeline(task, **options):
    return lambda audio, generate_kwargs: {"text": f"{len(audio)} samples in {generate_kwargs['language']}"}
