"""The published node dora-parquet-recorder, mended: its JSON does not know the time in metadata.

Without that it stores nothing: the time is a datetime, under dora-rs too.
"""

import json
from functools import partial
from types import SimpleNamespace

from dora_parquet_recorder import main as recorder

recorder.json = SimpleNamespace(dumps=partial(json.dumps, default=str))
recorder.main()
