"""Write samples in place, rightly and wrongly."""

import numpy as np
from notes import attempt, note

from dora import Node

node = Node()


def fill(sample):
    with memoryview(sample.as_buffer()) as view:
        view[:] = bytes(range(len(view)))


with node.send_output_raw("value", 4, {"name": "with"}) as buffer:
    np.frombuffer(buffer, np.uint8)[:] = 7
    note(
        "view",
        [
            memoryview(buffer).format,
            memoryview(buffer).ndim,
            memoryview(buffer).readonly,
            len(memoryview(buffer)),
        ],
    )
    del buffer

sample = node.send_output_raw("value", 3, {"name": "send"})
fill(sample)
attempt("send", sample.send)
attempt("send twice", sample.send)
attempt("as_buffer after send", sample.as_buffer)
attempt("as_memoryview after send", sample.as_memoryview)
attempt("memoryview after send", lambda: memoryview(sample) and None)

sample = node.send_output_raw("value", 3, {"name": "held"})
view = sample.as_memoryview()
attempt("send with a view", sample.send)
view.release()
del view
attempt("send without the view", sample.send)


def leaves_with_array():
    with node.send_output_raw("value", 3, {"name": "array alive"}) as buffer:
        leaves_with_array.kept = np.frombuffer(buffer, np.uint8)


attempt("with an array alive", leaves_with_array)


def raises():
    with node.send_output_raw("value", 3, {"name": "raised"}):
        raise KeyError("as planned")


attempt("with an exception", raises)
attempt("never sent", lambda: node.send_output_raw("value", 3, {"name": "never sent"}) and None)
attempt("no bytes", lambda: node.send_output_raw("value", 0, {"name": "no bytes"}).send())
attempt("negative length", lambda: node.send_output_raw("value", -1) and None)
attempt("length as text", lambda: node.send_output_raw("value", "3") and None)
attempt("undeclared output", lambda: node.send_output_raw("other", 3) and None)
attempt(
    "keywords",
    lambda: node.send_output_raw(output_id="value", data_length=2, metadata={"name": "keywords"}).send(),
)
