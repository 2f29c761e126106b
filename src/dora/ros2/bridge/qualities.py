"""Quality of service for a `ros2` block: what it says, else what the rules of the dataflow mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from dora.dataflow.ros2 import Ros2BlockQos, Ros2BlockTopic
from dora.ros2.api.policies import Ros2Durability, Ros2Liveliness, Ros2QosPolicies
from dora.ros2.qos import DEFAULT
from dora.wire.node_config import InputConfig, OutputConfig

_MAX_BLOCKING: Final = 0.1  # seconds, as in dora-rs


def publisher_qos(topic: Ros2BlockTopic, inputs: Sequence[InputConfig]) -> Ros2QosPolicies:
    """Return what a publisher offers for the messages of inputs.

    It is reliable, which every subscription takes. Its depth is the `queue_size` of the inputs. With a
    `latched` source it keeps as many messages for subscriptions that come later. It promises the `deadline`
    of the inputs.
    """
    latched = [item.source_rules.latched.depth for item in inputs if item.source_rules.latched is not None]
    sizes = [item.queue_size for item in inputs]
    deadlines = [item.deadline_ns for item in inputs if item.deadline_ns]
    return _qos(
        topic.qos,
        reliable=True,
        latched=bool(latched),
        depth=max(latched or sizes, default=DEFAULT.depth),
        deadline=max(deadlines, default=None),
    )


def subscription_qos(topic: Ros2BlockTopic, outputs: Sequence[OutputConfig]) -> Ros2QosPolicies:
    """Return what a subscription requests for the messages of outputs.

    It is best effort, which every publisher offers, unless somebody must get each message: a receiver with
    `queue_policy: backpressure`, or a `latched` output, which also asks for the messages of before.
    """
    latched = [item.latched.depth for item in outputs if item.latched is not None]
    waits = any(link.queue_policy == "backpressure" for item in outputs for link in item.links)
    return _qos(
        topic.qos,
        reliable=waits or bool(latched),
        latched=bool(latched),
        depth=max([*latched, DEFAULT.depth]),
        deadline=None,
    )


def calls_qos(asked: Ros2BlockQos) -> Ros2QosPolicies:
    """Return the quality of a service or action."""
    return _qos(asked, reliable=True, latched=False, depth=DEFAULT.depth, deadline=None)


def _qos(
    asked: Ros2BlockQos, *, reliable: bool, latched: bool, depth: int, deadline: int | None
) -> Ros2QosPolicies:
    if asked.reliable is not None:
        reliable = asked.reliable
    if asked.durability is not None:
        latched = asked.durability == "transient_local"
    manual = asked.liveliness not in (None, "automatic")
    found = Ros2QosPolicies(
        durability=Ros2Durability.TransientLocal if latched else Ros2Durability.Volatile,
        liveliness=Ros2Liveliness.ManualByTopic if manual else Ros2Liveliness.Automatic,
        reliable=reliable,
        keep_all=asked.keep_all,
        lease_duration=asked.lease_duration,
        max_blocking_time=_MAX_BLOCKING if asked.max_blocking_time is None else asked.max_blocking_time,
        keep_last=depth if asked.keep_last is None else asked.keep_last,
    )
    found.qos = replace(found.qos, deadline=deadline)
    return found
