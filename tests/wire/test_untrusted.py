"""Messages of other machines: what would lead Arrow to other memory, or to much more, is refused."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dora.wire.decode import PayloadError, check, decode_arrow, prepare
from dora.wire.encode import as_message, encode
from dora.wire.message import Encoding, pack_head
from dora.wire.untrusted import UntrustedMessage

TEXTS = pa.array(["abc", "defg"])
WORDS = pa.array(["a", "b"]).dictionary_encode()


def message(encoding: int, schema: bytes, body: bytes) -> UntrustedMessage:
    return UntrustedMessage(pack_head(encoding, schema, b"", len(body), 1, 1, body))


def stream(*parts: pa.Message) -> UntrustedMessage:
    return message(Encoding.STREAM, b"", b"".join(part.serialize().to_pybytes() for part in parts))


def parts_of(*arrays: pa.Array, **options: Any) -> list[pa.Message]:
    """Return the messages of a stream of arrays of one type."""
    sink = pa.BufferOutputStream()
    batches = [pa.RecordBatch.from_arrays([array], [""]) for array in arrays]
    with pa.ipc.new_stream(sink, batches[0].schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return list(pa.ipc.MessageReader.open_stream(sink.getvalue()))


def refused(sent: UntrustedMessage, why: str) -> None:
    with pytest.raises(PayloadError, match=why):
        check(sent)
    with pytest.raises(PayloadError, match=why):
        decode_arrow(sent)


@pytest.mark.parametrize(
    ("offset", "size"),
    [(16, 4096), (1 << 40, 7), (-64, 7), (16, -1)],
)
def test_a_buffer_outside_of_the_body_is_refused(offset: int, size: int) -> None:
    payload = encode(TEXTS)
    body = payload.to_bytes()
    known = struct.pack("<qq", 16, 7)  # the characters, behind three offsets of 4 bytes
    assert body.count(known) == 1
    changed = body.replace(known, struct.pack("<qq", offset, size))
    refused(message(payload.encoding, payload.schema, changed), "a buffer lies outside its body")
    assert decode_arrow(message(payload.encoding, payload.schema, body)).equals(TEXTS)


def test_values_that_take_no_bytes_are_limited() -> None:
    def nulls(count: int) -> UntrustedMessage:
        payload = encode(pa.nulls(count))
        return message(payload.encoding, payload.schema, payload.to_bytes())

    assert len(decode_arrow(nulls(1 << 20))) == 1 << 20
    refused(nulls((1 << 20) + 1), "it claims 1,048,577 values")


def test_offsets_beyond_the_values_are_refused() -> None:
    offsets = pa.py_buffer(np.array([0, 100, 3], np.int32))
    wrong = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"abc")])
    payload = encode(wrong)
    refused(message(payload.encoding, payload.schema, payload.to_bytes()), "cannot be decoded")


def test_text_that_is_no_unicode_is_refused_also_by_a_node_that_has_made_an_array_ahead() -> None:
    offsets = pa.py_buffer(np.array([0, 1], np.int32))
    wrong = encode(pa.Array.from_buffers(pa.string(), 1, [None, offsets, pa.py_buffer(b"\xff")]))
    for _ in range(2):
        decode_arrow(as_message(pa.array(["a"])))
        prepare()
    refused(message(wrong.encoding, wrong.schema, wrong.to_bytes()), "UTF8")


def test_compressed_bodies_are_refused() -> None:
    """A few bytes of them may become many gigabytes."""
    refused(stream(*parts_of(TEXTS, compression="lz4")), "compressed")
    schema, _, batch = parts_of(WORDS)
    _, compressed, _ = parts_of(WORDS, compression="lz4")
    refused(stream(schema, compressed, batch), "compressed")
    assert decode_arrow(stream(*parts_of(WORDS))).equals(WORDS)


def test_a_dictionary_in_pieces_is_refused() -> None:
    more = pa.DictionaryArray.from_arrays(pa.array([0, 2]), pa.array(["a", "b", "c"]))
    less = pa.DictionaryArray.from_arrays(pa.array([0, 1]), pa.array(["a", "b"]))
    schema, begin, _, piece, batch = parts_of(less, more, emit_dictionary_deltas=True)
    refused(stream(schema, begin, piece, batch), "a dictionary comes in pieces")


def test_a_message_is_decoded_once() -> None:
    payload = encode(TEXTS)
    sent = message(payload.encoding, payload.schema, payload.to_bytes())
    check(sent)
    assert decode_arrow(sent) is decode_arrow(sent)
