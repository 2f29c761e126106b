"""Draw the journeys of `docs/architecture.md`: python tools/site/journeys.py

Each journey is a sequence diagram in `docs/images/`: participants from left to right, steps from top to
bottom. A test checks that the pictures are up to date and that the names in them exist in the code.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import NamedTuple

IMAGES = Path(__file__).parents[2] / "docs" / "images"


class Participant(NamedTuple):
    name: str  # as in the code
    place: str  # its module, below src/dora


class Step(NamedTuple):
    source: int  # a participant
    target: int  # the same as the source: it does something by itself
    text: str  # `names` are as in the code


class Journey(NamedTuple):
    title: str
    participants: list[Participant]
    steps: list[Step]


JOURNEYS = {
    "message": Journey(
        "A message",
        [
            Participant("Node", "node/node.py"),
            Participant("OutputPort", "node/send/output.py"),
            Participant("Sender", "transport/interface.py"),
            Participant("Receiver", "transport/interface.py"),
            Participant("LinkInput", "node/receive/link_input.py"),
            Participant("Inbox", "node/receive/inbox.py"),
            Participant("Node", "node/node.py"),
        ],
        [
            Step(0, 1, "`send_output`"),
            Step(1, 1, "`encode`; wait for credit; count `SENT` on the board"),
            Step(1, 2, "the message, copied once"),
            Step(2, 3, "its address, into the link's queue"),
            Step(1, 5, "`ring` the doorbell, if `ASLEEP`"),
            Step(5, 4, "poll"),
            Step(4, 3, "`receive`; count `RECEIVED`"),
            Step(5, 6, "`Input`"),
            Step(6, 6, "`event.value`: the array over the shared memory"),
        ],
    ),
    "start": Journey(
        "From YAML to a process",
        [
            Participant("load", "dataflow/loader.py"),
            Participant("Assembler", "dataflow/parser/assemble.py"),
            Participant("run_dataflow", "daemon/run.py"),
            Participant("Supervisor", "daemon/supervisor/supervisor.py"),
            Participant("Daemon", "daemon/daemon.py"),
            Participant("NodeProcesses", "daemon/node_processes.py"),
            Participant("Session", "node/session/session.py"),
        ],
        [
            Step(0, 0, "text to `YamlNode` tree; `Inliner` writes out modules"),
            Step(0, 1, "tree, read by the field table"),
            Step(1, 2, "`Dataflow`, checked; after the build"),
            Step(2, 4, "run directory, engine"),
            Step(4, 4, "`plan`: links, board, doorbells"),
            Step(4, 3, "`Begin`"),
            Step(3, 4, "`Spawn`"),
            Step(4, 5, "`spawn`"),
            Step(5, 6, "process, by its `launch_spec`"),
            Step(6, 4, "`Register`"),
            Step(4, 6, "`Registered`: `NodeConfig`"),
            Step(6, 4, "`Ready`, with all ports made"),
            Step(4, 6, "`Started`, once all nodes are ready"),
        ],
    ),
    "stop": Journey(
        "A stop",
        [
            Participant("Daemon", "daemon/daemon.py"),
            Participant("Supervisor", "daemon/supervisor/supervisor.py"),
            Participant("Executor", "daemon/executor.py"),
            Participant("Inbox", "node/receive/inbox.py"),
            Participant("Session", "node/session/session.py"),
        ],
        [
            Step(0, 1, "Ctrl-C, `dora stop`: `StopRequested`"),
            Step(1, 1, "arm the grace period"),
            Step(1, 2, "`Send`: `StopFrame`"),
            Step(2, 3, "over the control socket"),
            Step(3, 3, "`STOP`; then what is queued"),
            Step(4, 2, "`Closing`; end of the process"),
            Step(2, 1, "`Closing`, `ProcessEnded`"),
            Step(1, 2, "`Send`: `InputsClosed` to receivers"),
            Step(1, 2, "if it takes too long: `Signal` SIGTERM, later SIGKILL"),
            Step(1, 2, "after the last node: `Finish`"),
        ],
    ),
    "change": Journey(
        "A change of a running dataflow",
        [
            Participant("Changes", "cluster/coordinator/changes.py"),
            Participant("apply_operation", "daemon/apply_operation.py"),
            Participant("Supervisor", "daemon/supervisor/supervisor.py"),
            Participant("LinkChanges", "daemon/link_changes.py"),
            Participant("Topology", "node/session/topology.py"),
        ],
        [
            Step(1, 1, "`make_change`: a `ProposedChange`, checked as a whole"),
            Step(1, 2, "`CheckChange`: is it possible now?"),
            Step(1, 1, "`build_node`"),
            Step(1, 2, "`ApplyChange`: commit and apply"),
            Step(2, 1, "`Conflict`: begin again; `Rejected`: why not"),
            Step(2, 3, "`ApplyDataflow`: the new plan"),
            Step(3, 4, "`AttachLink` to the sender, `AttachInput` to the receiver"),
            Step(2, 1, "`Spawn` new nodes; `Ok`, once they run"),
            Step(0, 2, "with a coordinator: `Prepare`, which is `CheckChange` on each machine"),
            Step(0, 0, "`_commit`: write the record"),
            Step(0, 2, "`Apply`, which is `ApplyChange` on each machine"),
        ],
    ),
    "recording": Journey(
        "A recorded message",
        [
            Participant("OutputPort", "node/send/output.py"),
            Participant("RingTap", "recording/recorder/taps.py"),
            Participant("ChunkFiller", "recording/recorder/chunk_filler.py"),
            Participant("Chunk", "recording/mcap/chunk.py"),
            Participant("WriteThread", "recording/mcap/chunk.py"),
            Participant("RecordingWriter", "recording/mcap/writer.py"),
        ],
        [
            Step(0, 1, "small: the ring buffer; large: one more queue"),
            Step(2, 1, "take, several hundred times a second"),
            Step(2, 2, "`ChannelTable`: channel and Protobuf prefix"),
            Step(2, 3, "`add`, laid out as in the file"),
            Step(3, 4, "full, or old"),
            Step(4, 4, "`CompressedChunk`"),
            Step(4, 5, "one system call"),
            Step(5, 5, "at the end: index, context, counts"),
        ],
    ),
}

COLUMN, ROW, TOP, MARGIN = 178, 34, 74, 16
STYLE = """
  .box { fill: #eef3fa; stroke: #4a6785; }
  .line { stroke: #9aa9ba; stroke-dasharray: 3 4; }
  .arrow { stroke: #2b4c70; stroke-width: 1.5; fill: none; }
  .head { fill: #2b4c70; }
  text { font: 12px system-ui, sans-serif; fill: #1c2733; text-anchor: middle; }
  .name { font: bold 13px ui-monospace, monospace; }
  .place { font-size: 9.5px; fill: #54657a; }
  .code { font-family: ui-monospace, monospace; }
  .halo { stroke: #ffffff; stroke-width: 4; stroke-linejoin: round; paint-order: stroke; }
  .page { fill: #ffffff; }
"""


def draw(journey: Journey) -> str:
    """Return a journey as SVG."""
    width = COLUMN * len(journey.participants) + 2 * MARGIN
    height = TOP + ROW * (len(journey.steps) + 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}">',
        f"<title>{escape(journey.title)}</title>",
        f"<style>{STYLE}</style>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" '
        'orient="auto"><path class="head" d="M0 0 8 4 0 8z"/></marker></defs>',
        f'<rect class="page" width="{width}" height="{height}"/>',
    ]
    for number, (name, place) in enumerate(journey.participants):
        x = column(number)
        left = x - COLUMN // 2 + 4
        parts += [
            f'<line class="line" x1="{x}" y1="56" x2="{x}" y2="{height - 8}"/>',
            f'<rect class="box" x="{left}" y="8" width="{COLUMN - 8}" height="48" rx="6"/>',
            f'<text class="name" x="{x}" y="29">{escape(name)}</text>',
            f'<text class="place" x="{x}" y="46">{escape(place)}</text>',
        ]
    for number, step in enumerate(journey.steps):
        parts += draw_step(step, number + 1, TOP + ROW * number, width)
    return "\n".join([*parts, "</svg>"]) + "\n"


def column(number: int) -> int:
    return MARGIN + COLUMN * number + COLUMN // 2


def draw_step(step: Step, number: int, y: int, width: int) -> list[str]:
    start, end = column(step.source), column(step.target)
    label = f"{number}. {step.text}"
    half = 3.3 * len(label.replace("`", "")) + 6  # roughly, of its width
    if start == end:
        middle = min(max(start, half), width - half)
        arrow = f'<circle class="head" cx="{start}" cy="{y + 21}" r="3.5"/>'
    else:
        middle = min(max((start + end) / 2, half), width - half)
        arrow = f'<path class="arrow" d="M{start} {y + 19}H{end}" marker-end="url(#head)"/>'
    words = escape(label).split("`")
    spans = "".join(
        f'<tspan class="code">{word}</tspan>' if odd % 2 else word for odd, word in enumerate(words)
    )
    return [arrow, f'<text class="halo" x="{middle:g}" y="{y + 12}">{spans}</text>']


def main() -> None:
    for name, journey in JOURNEYS.items():
        (IMAGES / f"journey-{name}.svg").write_text(draw(journey))


if __name__ == "__main__":
    main()
