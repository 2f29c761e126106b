import hashlib
import multiprocessing
import os
import random
import secrets
import ssl
import tempfile
import uuid

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from facts import record

try:
    import torch
except ImportError:
    pass
else:
    record("random: torch.initial_seed", torch.initial_seed())
    record("random: torch.rand", float(torch.rand(1)))

record("random: random.random", random.random())
record("random: state of random", hashlib.sha256(repr(random.getstate()).encode()).hexdigest())
record("random: numpy.random.random", float(np.random.random()))  # noqa: NPY002
record("random: numpy.random.default_rng", float(np.random.default_rng().random()))
record("random: numpy.random.SeedSequence", str(np.random.SeedSequence().entropy))
record("random: pyarrow.compute.random", pc.random(1)[0].as_py())
record("random: uuid1", uuid.uuid1().hex)
record("random: clock sequence of uuid1", uuid.uuid1().clock_seq)
record("random: uuid4", uuid.uuid4().hex)
record("random: secrets", secrets.token_hex())
record("random: ssl.RAND_bytes", ssl.RAND_bytes(16).hex())
record("random: os.urandom", os.urandom(16).hex())
record("random: random.SystemRandom", random.SystemRandom().random())
record("random: tempfile", next(tempfile._get_candidate_names()))
record("random: authkey of multiprocessing", bytes(multiprocessing.current_process().authkey).hex())
record("hash of a text", hash("text"))
record("pyarrow works", pa.array([1, 2]).to_pylist())
child = multiprocessing.get_context("fork").Process(target=lambda: record("random: child", random.random()))
child.start()
