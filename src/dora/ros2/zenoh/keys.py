"""Key expressions and attachments of rmw_zenoh, as text and bytes.

A topic is the key ``<domain>/<name>/<type>/<hash>``. Each message has an attachment of 33 bytes: number,
time, and the id of the publisher. Each node and endpoint is a liveliness token: a key that exists while its
process does, and that says everything about it::

    @ros2_lv/<domain>/<session>/<node>/<id>/<kind>/<enclave>/<namespace>/<node name>
    @ros2_lv/…/<node name>/<name>/<type>/<hash>/<qos>
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

import xxhash

from dora.ros2.engine import RosType
from dora.ros2.graph import Endpoint, Kind, NodeName
from dora.ros2.names import ros_type
from dora.ros2.qos import INFINITE_NS, Durability, History, Liveliness, Qos, Reliability

ADMIN_SPACE: Final = "@ros2_lv"
GID_SIZE: Final = 16
NO_HASH: Final = "TypeHashNotSupported"  # what Humble has in place of a hash

_NODE_KIND: Final = "NN"
_KINDS: Final = {
    Kind.PUBLISHER: "MP",
    Kind.SUBSCRIPTION: "MS",
    Kind.SERVER: "SS",
    Kind.CLIENT: "SC",
}
_KIND_OF: Final = {text: kind for kind, text in _KINDS.items()}
_NODE_PARTS: Final = 9
_ENDPOINT_PARTS: Final = 13

_ATTACHMENT: Final = struct.Struct(f"<qqB{GID_SIZE}s")

_DEFAULT_DEPTH: Final = 42  # of rmw_zenoh; a token leaves out what is default
_MAX_DEPTH: Final = 1 << 31
_SECOND: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Profile:
    """A version of rmw_zenoh, where versions differ."""

    name: str
    has_hashes: bool

    def hash_of(self, type: RosType) -> str:
        """Return what a key has for the hash of a type; raises `ValueError` if it is not known."""
        if not self.has_hashes:
            return NO_HASH
        if not type.hash:
            raise ValueError(f"the hash of {type.name} is not known; over Zenoh it is part of the address")
        return type.hash


PROFILES: Final = {
    "humble": Profile("humble", has_hashes=False),
    "rep2016": Profile("rep2016", has_hashes=True),  # Jazzy and later
}


# ------------------------------------------------------------------ keys


def topic_key(domain_id: int, name: str, dds_type: str, type_hash: str) -> str:
    """Return the key of a topic or service.

    >>> topic_key(0, "/robot1/chatter", "std_msgs::msg::dds_::String_", "RIHS01_df66")
    '0/robot1/chatter/std_msgs::msg::dds_::String_/RIHS01_df66'
    """
    return f"{domain_id}/{name.strip('/')}/{dds_type}/{type_hash}"


def node_token(domain_id: int, session: str, node_id: int, node: NodeName) -> str:
    """Return the token of a node.

    >>> node_token(2, "aac3", 0, NodeName("listener", "/"))
    '@ros2_lv/2/aac3/0/0/NN/%/%/listener'
    """
    return (
        f"{ADMIN_SPACE}/{domain_id}/{session}/{node_id}/{node_id}/{_NODE_KIND}"
        f"/%/{_mangle(node.namespace)}/{node.name}"
    )


def endpoint_token(
    domain_id: int,
    session: str,
    ids: tuple[int, int],
    kind: Kind,
    node: NodeName,
    topic: tuple[str, str, str],
    qos: Qos,
) -> str:
    """Return the token of an endpoint; ``ids``: of node and endpoint, ``topic``: name, type and hash."""
    name, dds_type, type_hash = topic
    return (
        f"{ADMIN_SPACE}/{domain_id}/{session}/{ids[0]}/{ids[1]}/{_KINDS[kind]}"
        f"/%/{_mangle(node.namespace)}/{node.name}/{_mangle(name)}/{dds_type}/{type_hash}/{qos_text(qos)}"
    )


def gid_of(token: str) -> bytes:
    """Return the 16 bytes that identify the endpoint of a token everywhere: its hash (XXH3, 128 bits)."""
    return xxhash.xxh3_128_intdigest(token.encode()).to_bytes(GID_SIZE, "little")


def read_token(token: str) -> NodeName | Endpoint:
    """Return what a token says; raises `ValueError` for one that says nothing readable."""
    parts = token.split("/")
    if len(parts) < _NODE_PARTS or parts[0] != ADMIN_SPACE or not all(parts):
        raise ValueError(f"`{token}` is no liveliness token of ROS 2")
    kind, namespace, node_name = parts[5], parts[7], parts[8]
    node = NodeName(_demangle(node_name), _demangle(namespace))
    if kind == _NODE_KIND:
        return node
    if kind not in _KIND_OF or len(parts) != _ENDPOINT_PARTS:
        raise ValueError(f"`{token}` is no liveliness token of ROS 2")
    name, dds_type, type_hash, qos = parts[9:]
    return Endpoint(
        _KIND_OF[kind],
        node,
        _demangle(name),
        ros_type(dds_type),
        "" if type_hash == NO_HASH else type_hash,
        gid_of(token),
        read_qos(qos),
    )


def _mangle(name: str) -> str:
    return name.replace("/", "%")


def _demangle(name: str) -> str:
    return name.replace("%", "/")


# ------------------------------------------------------------------ quality of service


def qos_text(qos: Qos) -> str:
    """Return a quality of service as in a token: what is rmw_zenoh's default is left out.

    >>> qos_text(Qos()), qos_text(Qos(Reliability.BEST_EFFORT, Durability.TRANSIENT_LOCAL, depth=5))
    ('::,10:,:,:,,', '2:1:,5:,:,:,,')
    """
    reliability = "" if qos.reliability is Reliability.RELIABLE else str(int(qos.reliability))
    durability = "" if qos.durability is Durability.VOLATILE else str(int(qos.durability))
    history = "" if qos.history is History.KEEP_LAST else str(int(qos.history))
    depth = "" if qos.depth == _DEFAULT_DEPTH else str(qos.depth)
    liveliness = "" if qos.liveliness is Liveliness.AUTOMATIC else str(int(qos.liveliness))
    return (
        f"{reliability}:{durability}:{history},{depth}:{_duration_text(qos.deadline)}"
        f":{_duration_text(qos.lifespan)}:{liveliness},{_duration_text(qos.lease_duration)}"
    )


def read_qos(text: str) -> Qos:
    """Return the quality of service of a token; raises `ValueError`."""
    try:
        reliability, durability, history, deadline, lifespan, liveliness = text.split(":")
        kind, depth = history.split(",")
        lives, lease = liveliness.split(",", 1)
        history_kind = History(int(kind or History.KEEP_LAST))
        return Qos(
            Reliability(int(reliability or Reliability.RELIABLE)),
            Durability(int(durability or Durability.VOLATILE)),
            history_kind,
            _read_depth(depth, history_kind),
            _read_duration(deadline),
            _read_duration(lifespan),
            Liveliness(int(lives or Liveliness.AUTOMATIC)),
            _read_duration(lease),
        )
    except ValueError as error:
        raise ValueError(f"`{text}` is no quality of service of rmw_zenoh") from error


def _read_depth(text: str, history: History) -> int:
    depth = int(text or _DEFAULT_DEPTH)
    if not 0 <= depth < _MAX_DEPTH:
        raise ValueError(text)
    return max(depth, 1) if history is History.KEEP_LAST else depth  # a peer may say 0, which `Qos` refuses


def _duration_text(nanoseconds: int | None) -> str:
    if nanoseconds is None or nanoseconds >= INFINITE_NS:
        return ","
    return ",".join(map(str, divmod(nanoseconds, _SECOND)))


def _read_duration(text: str) -> int | None:
    seconds, rest = text.split(",")
    infinite_seconds, infinite_rest = divmod(INFINITE_NS, _SECOND)
    duration = int(seconds or infinite_seconds) * _SECOND + int(rest or infinite_rest)
    if duration < 0:
        raise ValueError(text)
    return None if duration >= INFINITE_NS else duration


# ------------------------------------------------------------------ attachments


class Attachment(NamedTuple):
    """The data beside each message, request and response: number, nanoseconds since 1970, and an id."""

    sequence_number: int
    source_timestamp: int
    gid: bytes


def attachment_bytes(sequence_number: int, source_timestamp: int, gid: bytes) -> bytes:
    """Return an attachment as 33 bytes: two numbers of 8 bytes, the length 16, and the id."""
    return _ATTACHMENT.pack(sequence_number, source_timestamp, GID_SIZE, gid)


def read_attachment(data: bytes) -> Attachment:
    """Return what an attachment says; raises `ValueError`."""
    if len(data) != _ATTACHMENT.size:
        raise ValueError(f"an attachment of {len(data)} bytes instead of {_ATTACHMENT.size}")
    sequence_number, source_timestamp, size, gid = _ATTACHMENT.unpack(data)
    if size != GID_SIZE or sequence_number < 0:
        raise ValueError("an attachment with an id of another length, or a negative number")
    return Attachment(sequence_number, source_timestamp, gid)
