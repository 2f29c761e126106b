"""Follows things from box to box, and gives each a number that stays."""

import itertools
import math

import numpy as np

from dora import Node

NEAR = 20.0  # pixels between two places of one thing
Place = tuple[float, float]

node = Node()
numbers = itertools.count(1)
seen: dict[int, Place] = {}  # number → where the thing was in the last message
lost: dict[int, Place] = {}  # the same, of things that were not in it


def nearest(places: dict[int, Place], place: Place) -> int | None:
    """Return the number of the nearest thing, None if none is near."""
    distances = {number: math.dist(place, other) for number, other in places.items()}
    number = min(distances, key=distances.__getitem__, default=None)
    return number if number is not None and distances[number] < NEAR else None


for event in node:
    if event["type"] != "INPUT":
        continue
    places: list[Place] = [(x, y) for x, y, *_ in event.numpy().tolist()]
    found: dict[int, Place] = {}
    missing = dict(lost)
    for place in places:
        number = nearest(seen, place)
        if number is None:
            number = nearest(missing, place)
            if number is None:
                number = next(numbers)
            else:
                del lost[number]  # it is back
        found[number] = place
    lost.update({number: place for number, place in seen.items() if number not in found})
    seen = found
    tracks = [(number, *place) for number, place in found.items()]
    node.send_output("tracks", np.array(tracks, np.float32).reshape(-1, 3))
