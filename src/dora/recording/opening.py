"""Open a recording, whatever wrote it."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from dora.errors import DoraError
from dora.recording.mcap.file import McapFile
from dora.recording.mcap.format import PROFILE
from dora.recording.mcap.reader import DoraRecording

if TYPE_CHECKING:
    from dora.recording.mcap.recording import Recording


def open_recording(
    path: str,
    *,
    images: bool = False,
    topics: Mapping[str, str] | None = None,
    image_topics: Collection[str] = (),
) -> Recording:
    """Open a file of `dora record`, or a bag of ROS 2: a folder, or a file ``.mcap`` or ``.db3``.

    ``images``, ``topics`` and ``image_topics`` are as for `dora.recording.bags.bag.RosBag`.

    Raises `NotARecording` for another file, `DoraError` if there is none.
    """
    if os.path.isdir(path) or _is_bag(path):
        from dora.recording.bags.bag import RosBag

        return RosBag(path, images=images, topics=topics, image_topics=image_topics)
    return DoraRecording(path)


def _is_bag(path: str) -> bool:
    """Return whether a file is of ROS 2, by its first bytes."""
    from dora.recording.bags.bag_file import is_bag_without_mcap

    if is_bag_without_mcap(path):
        return True
    try:
        with McapFile(path) as opened:
            return opened.profile not in (PROFILE, None)
    except DoraError:
        return False  # the reader says why
