"""The gateway of a dataflow on one machine: it carries messages to and from other machines.

For an output with receivers on another machine, it is one more receiver of the output. For an output of
another machine, it is the sender here. So nodes have links inside their machine only, and a message crosses
once for all receivers of a machine. Apart from that, a node sends small messages itself to the gateway of
the other machine, on a bypass. Messages keep their bytes, so their sequence numbers too: a message
that is dropped on the way is a gap, which each receiver counts as any other gap.

* `ports` has the two ends of a stream: at an output of this machine, and at the receivers here.
* `outgoing` decides which message of an output goes next, and what is dropped; `in_flight` how much may be
  on the way. Both are pure.
* `connection` is one TCP connection: frames, and what waits to be written.
* `road` is the pair of machines: a connection for each class of priority.
* `meeting` makes roads: both sides dial, so one of them may be behind a router. The daemon of the machine
  listens for all gateways (`dora.cluster.agent.link_port`).
* `bypasses` gives nodes their bypasses (`dora.transport.bypass`).
* `ages` samples how old messages are on arrival.
* `figures` writes to the board how a network does: bytes, round trip, losses, ages, shares of outputs;
  `tcp_info` reads packets from the system.
* `gateway` joins the ports of the machine with the roads; `dora.daemon.gateway_process` keeps it running.
"""
