"""A value that operators of one runtime share: what one of them changes, the others do not see."""

from __future__ import annotations

import pyarrow as pa

from dora.node.contents import Reference


def test_each_consumer_has_metadata_of_its_own_with_the_lists_in_it() -> None:
    reference = Reference(pa.array([1]), {"numbers": [1, 2], "timestamp": 0}, 0)
    first, second, stored = reference.metadata(), reference.metadata(), reference.entries()["metadata"]
    first["numbers"][0] = 88
    first["more"] = True
    assert second == stored == {"numbers": [1, 2], "timestamp": 0}
