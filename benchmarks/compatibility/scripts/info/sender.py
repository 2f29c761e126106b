"""Take part."""

from dora import Node

Node()
